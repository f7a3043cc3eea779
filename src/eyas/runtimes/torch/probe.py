"""A check that trees work on a model, made once when it is loaded.

A tree of four nodes goes through our cache, mask and positions, and each of its paths through the stock model
without them. Then a path with a gap is committed and continued. Anything that a family does differently with
positions, masks or caches shows up as different logits, and the model is refused by name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.engine.interfaces import TargetCall
from eyas.engine.tree import Ints
from eyas.errors import ModelError
from eyas.runtimes.torch.masks import MaskPlan
from eyas.runtimes.torch.rows import TorchRows
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.runtimes.torch.stock_config import refusal

PREFIX_ROWS = 6
TREE_PARENTS = np.array([-1, 0, 0, 1])
PATHS = ([0, 1, 3], [0, 2])  # to its leaves; the second one, with a gap, is committed
NEXT_ROWS = 2  # a chain after the commit
PROBE_WINDOW = 4  # replaces a model's window, so that the few tokens reach beyond it

# Largest root-mean-square difference, relative to the logits' spread. Rounding stays far below; a token that
# sees one too many or too few is far above. In float64 some families still compute angles in float32.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}


@torch.inference_mode()
def check_trees(runtime: TorchRuntime) -> None:
    """Raise ModelError, naming the family and what failed, if trees do not work on the model."""
    try:
        with _small_window(runtime):
            failure = _first_failure(runtime)
    except ModelError:
        raise
    except Exception as error:  # a model's code may raise anything when it meets our mask or cache
        failure = f"its code raised {type(error).__name__} in a tree forward ({_first_line(error)})"
        raise refusal(runtime.target.family, runtime.target.name, failure) from error
    if failure:
        raise refusal(runtime.target.family, runtime.target.name, failure)


def _first_failure(runtime: TorchRuntime) -> str | None:
    """The first difference from the stock model; None if there is none."""
    ids = np.random.default_rng(0).integers(
        0, runtime.target.vocab_size, PREFIX_ROWS + len(TREE_PARENTS) + NEXT_ROWS
    )
    prefix, nodes, more = np.split(ids, [PREFIX_ROWS, PREFIX_ROWS + len(TREE_PARENTS)])
    gap = PATHS[1]
    cache = runtime.new_cache()

    [rows] = runtime.forward([TargetCall(cache, prefix)])
    ours = _logits(rows)
    headed = runtime.lm_head().raw_logits(rows.features).to(device="cpu", dtype=torch.float64)
    runtime.head_is_plain = relative_difference(headed, ours) <= TOLERANCES[runtime.dtype]
    cache.commit(range(PREFIX_ROWS))
    tree = _forward(runtime, TargetCall(cache, nodes, TREE_PARENTS))
    cache.commit(gap)
    after = _forward(runtime, TargetCall(cache, more))

    plain = _plain(runtime, np.concatenate((prefix, nodes[gap], more)))
    other = _plain(runtime, np.concatenate((prefix, nodes[PATHS[0]])))
    end = PREFIX_ROWS + len(gap)
    cases = (
        ("a cached prefix", ours, plain[:PREFIX_ROWS]),
        ("a tree", tree[PATHS[0]], other[PREFIX_ROWS:]),
        ("a tree's second branch", tree[gap], plain[PREFIX_ROWS:end]),
        ("what follows an accepted path", after, plain[end:]),
    )
    for what, got, wanted in cases:
        difference = relative_difference(got, wanted)
        if not difference <= TOLERANCES[runtime.dtype]:
            return f"its logits for {what} differ from plain decoding's by {difference:.1e} of their spread"
    return None


def _forward(runtime: TorchRuntime, call: TargetCall) -> Tensor:
    [rows] = runtime.forward([call])
    return _logits(rows)


def _logits(rows: TorchRows) -> Tensor:
    return torch.from_numpy(np.stack([rows.logits(row) for row in range(len(rows.features))]))


def _plain(runtime: TorchRuntime, token_ids: Ints) -> Tensor:
    """(T, V) logits of the stock model, without a cache and with the positions and masks that it chooses."""
    input_ids = torch.from_numpy(token_ids)[None].to(runtime.device)
    logits: Tensor = runtime.model(input_ids=input_ids, use_cache=False).logits[0]
    return logits.to(device="cpu", dtype=torch.float64)


def relative_difference(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, over that of the logits around their mean."""
    spread = (wanted - wanted.mean(dim=-1, keepdim=True)).square().mean().sqrt()
    return float((got - wanted).square().mean().sqrt() / spread)


@contextmanager
def _small_window(runtime: TorchRuntime) -> Iterator[None]:
    """Shrink the sliding window, of the stock model and of our masks, while the check runs."""
    text: Any = runtime.model.config.get_text_config(decoder=True)
    plan, window = runtime.mask_plan, getattr(text, "sliding_window", None)
    if window is None or window <= PROBE_WINDOW:
        yield
        return
    small = {kind: None if limit is None else PROBE_WINDOW for kind, limit in plan.windows.items()}
    text.sliding_window, runtime.mask_plan = PROBE_WINDOW, MaskPlan(small)
    try:
        yield
    finally:
        text.sliding_window, runtime.mask_plan = window, plan


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
