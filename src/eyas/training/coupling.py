"""Fits how far the confidences of Gumbel-coupled drafting can be trusted (docs/algorithm.md, section 4).

A child's confidence is the softmax of (draft logit / T + g) / s. On sampled answers of the training set,
with noise from its posterior, s is chosen per depth to make the tokens that really won most likely: maximum
likelihood.
"""

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from eyas.engine.sampling import log_softmax
from eyas.engine.tree import Floats, Ints
from eyas.models import Progress, silent
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.data import Sample
from eyas.training.features import FeatureSource
from eyas.training.simulate import posterior_gumbel

SCALES = np.geomspace(0.2, 5.0, 41)
ROWS_PER_SAMPLE = 12  # rows of one answer are alike; a few of many answers say more
MOST_LOGITS = 256  # of a row, the best ones: what lies far below does not count at any scale

# The head's outputs, as `ChainNetwork.unroll` gives them.
Unroll = Callable[[Tensor, Tensor, int, Tensor], list[Tensor]]


@torch.inference_mode()
def fit_coupled_scale(
    runtime: TorchDraftRuntime,
    unroll: Unroll,
    draft_logits: Callable[[Tensor], Tensor],
    features: FeatureSource,
    samples: Sequence[Sample],
    draft_ids: Ints | None,
    *,
    depth: int = 6,
    seed: int = 0,
    seconds: float | None = None,
    progress: Progress = silent,
) -> tuple[float, ...]:
    """The scale of each depth 1..`depth`, by the samples that were drawn at a temperature above 0.

    Args:
        runtime: the target on torch.
        unroll: runs the head on its own outputs.
        draft_logits: gives (R, M) logits of the draft vocabulary for the head's outputs (R, H).
        features: where features come from.
        samples: answers of the training set.
        draft_ids: (M,) ascending ids of the draft vocabulary, or None for all.
        depth: of the deepest level that gets a scale of its own.
        seed: of the rows that are chosen and of their noise.
        seconds: after these no further sample is begun; None uses them all.
        progress: told after each sample.

    Returns:
        1.0 for every depth if there is no such sample.
    """
    began = perf_counter()
    losses = np.zeros((depth, len(SCALES)))
    rng = np.random.default_rng(seed)
    head, hidden = runtime.lm_head(), runtime.target.hidden_size
    columns = np.arange(runtime.target.vocab_size) if draft_ids is None else draft_ids
    drawn = [sample for sample in samples if sample.temperature > 0]
    for number, sample in enumerate(drawn):
        if seconds is not None and losses.any() and perf_counter() - began > seconds:
            break
        progress("fitting the scale of coupled confidences", number, len(drawn))
        feature = features.get([sample])[0].to(runtime.device)
        tokens = np.array(sample.token_ids[: len(feature)])
        first = len(sample.prompt_ids) - 1
        if len(tokens) - 2 - first - depth < 1:
            continue
        rows = rng.integers(first, len(tokens) - 2 - depth, ROWS_PER_SAMPLE)
        outputs = unroll(
            runtime.embed(tokens[1:])[None].float(),
            feature[None, :-1].float(),
            depth,
            torch.tensor(rows, device=runtime.device)[None],
        )
        for step in range(depth):
            at = rows + step
            # Row j leads to the token at j + 2, which the target drew from the logits of f_{j+1}.
            target = head.raw_logits(feature[at + 1, -hidden:]).double().cpu().numpy() / sample.temperature
            output = outputs[step][0] if step else outputs[0][0, at]
            draft = draft_logits(output).double().cpu().numpy()
            for logits, drafted, winner in zip(target, draft, tokens[at + 2], strict=True):
                noise = posterior_gumbel(logits, int(winner), rng)[columns]
                losses[step] += _losses(drafted / sample.temperature + noise, columns, int(winner))
    if not losses.any():
        return (1.0,) * depth
    return tuple(round(float(SCALES[best]), 3) for best in losses.argmin(axis=1))


def _losses(scores: Floats, columns: Ints, winner: int) -> Floats:
    """Negative log-likelihood of the winner at each scale; nothing if it is not in the draft vocabulary."""
    at = int(np.searchsorted(columns, winner))
    if at >= len(columns) or columns[at] != winner:
        return np.zeros(len(SCALES))
    best = np.arange(len(scores))
    if len(scores) > MOST_LOGITS:
        best = np.argpartition(-scores, MOST_LOGITS)[:MOST_LOGITS]
    kept = scores[np.append(best[best != at], at)]
    return -log_softmax(kept / SCALES[:, None])[:, -1]
