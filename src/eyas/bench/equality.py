"""Do two answers have the same ids? Only the first difference counts, and only a near tie excuses it.

Floating-point rounding depends on how many tokens share a pass, so two tokens with nearly equal scores may
change places; from there on the answers are different texts. A difference is therefore excused (docs/laws.md,
L1) if plain decoding's two best scores at that position are closer than the precision can tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eyas.engine.cycle import PREFILL_TOKENS, Request
from eyas.engine.interfaces import Runtime, TargetCall
from eyas.engine.tree import Floats

PLAIN = "autoregressive"  # plain decoding, which law L1 compares with
# Gaps between the two best scores that rounding explains, by the target's dtype; others excuse nothing.
EXCUSED_GAPS = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.5}
EXCUSED_SHARE = 0.01  # largest share of excused answers in float32
# Tokens to a near tie, at least, in dtypes where ties are common: half of what was measured (docs/log.md).
LEAST_TOKENS = {"bfloat16": 25, "float16": 25}
FEW = 3  # ties that any number of answers may have

State = Literal["equal", "excused", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of comparing an answer with plain decoding's.

    Attributes:
        state: of the whole comparison.
        position: index in the answer of the first difference.
        plain_token: plain decoding's token there; None if its answer had ended.
        token: the other answer's token there; None if it had ended.
        gap: plain decoding's best score there minus its second best; None if only one token was possible.
    """

    state: State
    position: int | None = None
    plain_token: int | None = None
    token: int | None = None
    gap: float | None = None


def compare(runtime: Runtime, request: Request, plain_ids: Sequence[int], ids: Sequence[int]) -> Comparison:
    """Compare `ids` with `plain_ids`. Both answer `request`, which must be a fresh one for plain decoding."""
    at = first_difference(plain_ids, ids)
    if at is None:
        return Comparison(state="equal")
    plain_token = plain_ids[at] if at < len(plain_ids) else None
    token = ids[at] if at < len(ids) else None
    if plain_token is None or token is None:  # one answer ended earlier: no near tie explains that
        return Comparison(state="failed", position=at, plain_token=plain_token, token=token)
    gap = _gap(plain_scores(runtime, request, plain_ids[:at]))
    excused = gap is not None and gap < EXCUSED_GAPS.get(runtime.target.dtype, 0.0)
    return Comparison(
        state="excused" if excused else "failed", position=at, plain_token=plain_token, token=token, gap=gap
    )


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Index of the first token that differs or that only one answer has; None for equal answers."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return None if len(left) == len(right) else min(len(left), len(right))


def plain_scores(runtime: Runtime, request: Request, generated: Sequence[int]) -> Floats:
    """(V,) scores of the token after `generated`, computed in the same passes as plain decoding's."""
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
