"""Are two answers the same? Only the first difference counts, and only a near tie excuses it.

In floating point a row of a tree pass is rounded differently from the same row alone, so two tokens whose
scores nearly tie may change places; everything after that is another text. So (docs/laws.md, L1) a difference
is excused if plain decoding's two best scores at that place are closer than the precision can tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eyas.engine.cycle import PREFILL_TOKENS, Request
from eyas.engine.interfaces import Runtime, TargetCall
from eyas.engine.tree import Floats

PLAIN = "autoregressive"  # the oracle of law L1
# Differences of two best scores that rounding explains, by the target's dtype; 0 excuses nothing.
EXCUSED_GAPS = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.5}
EXCUSED_SHARE = 0.01  # of the answers in float32; more is a failure
LIMITED = "float32"  # the dtype in which that share is judged

State = Literal["equal", "excused", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What comparing an answer with plain decoding's found.

    Attributes:
        state: the judgement.
        position: index in the answer of the first difference.
        plain_token: plain decoding's token there, None where its answer had ended.
        token: the other answer's.
        gap: plain decoding's best score there less its second best; None where only one token could win.
    """

    state: State
    position: int | None = None
    plain_token: int | None = None
    token: int | None = None
    gap: float | None = None


def compare(runtime: Runtime, request: Request, plain_ids: Sequence[int], ids: Sequence[int]) -> Comparison:
    """Judge `ids` by `plain_ids`, both answers to `request`, a fresh one made for plain decoding."""
    at = first_difference(plain_ids, ids)
    if at is None:
        return Comparison(state="equal")
    plain_token = plain_ids[at] if at < len(plain_ids) else None
    token = ids[at] if at < len(ids) else None
    if plain_token is None or token is None:  # one answer goes on where the other ended: no tie explains it
        return Comparison(state="failed", position=at, plain_token=plain_token, token=token)
    gap = _gap(plain_scores(runtime, request, plain_ids[:at]))
    excused = gap is not None and gap < EXCUSED_GAPS.get(runtime.target.dtype, 0.0)
    return Comparison(
        state="excused" if excused else "failed", position=at, plain_token=plain_token, token=token, gap=gap
    )


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Index of the first token that differs or that only one has; None for equal answers."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return None if len(left) == len(right) else min(len(left), len(right))


def plain_scores(runtime: Runtime, request: Request, generated: Sequence[int]) -> Floats:
    """(V,) scores after `generated`, computed in plain decoding's own passes."""
    prompt = list(request.prompt_ids)
    passes = [prompt[start : start + PREFILL_TOKENS] for start in range(0, len(prompt), PREFILL_TOKENS)]
    cache = runtime.new_cache()
    for token_ids in [*passes, *([token] for token in generated)]:
        [rows] = runtime.forward([TargetCall(cache, np.array(token_ids, dtype=np.int64), last_only=True)])
        cache.commit(range(len(token_ids)))
    return request.sampler.scores(rows.logits(len(token_ids) - 1), generated)


def _gap(scores: Floats) -> float | None:
    second, best = np.sort(scores)[-2:]
    return float(best - second) if np.isfinite(second) else None
