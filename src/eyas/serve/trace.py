"""The trace of an answer: tokens, tree and time of each cycle (docs/serving.md)."""

import math
from collections.abc import Callable
from typing import Any

from eyas.engine.cycle import Piece
from eyas.engine.verification import Cycle

DROPPED_SHOWN = 20  # candidates that rerank dropped, the best of them

TokenText = Callable[[int], str]


def describe_tokens(piece: Piece, text: TokenText) -> list[dict[str, Any]]:
    """Each token with the draft depth at which it was accepted; null for the target's own."""
    return [{"id": token.id, "text": text(token.id), "depth": token.depth} for token in piece.tokens]


def describe_cycle(piece: Piece, text: TokenText) -> dict[str, Any]:
    """A cycle as the trace shows it; the prefill's token has no tree."""
    return {
        "tokens": describe_tokens(piece, text),
        "tree": None if piece.cycle is None else _describe_tree(piece.cycle, text),
        "seconds": round(piece.seconds, 6),
    }


def _describe_tree(cycle: Cycle, text: TokenText) -> dict[str, Any]:
    """The nodes that were verified, and the best candidates that rerank dropped."""
    kept = cycle.tree
    shown = kept if kept.best is None else kept.best(kept.num_draft_tokens + DROPPED_SHOWN)
    place = [0]  # where each kept node stands among those shown
    for token, parent in zip(kept.token_ids[1:].tolist(), kept.parents[1:].tolist(), strict=True):
        place.append(shown.children[place[parent]][token] if shown is not kept else len(place))
    verified = set(place)
    token_ids = shown.token_ids.tolist()
    return {
        "token_ids": token_ids,
        "texts": [text(token) for token in token_ids],
        "parents": shown.parents.tolist(),
        "values": [round(math.exp(value), 6) for value in shown.log_values.tolist()],
        "kept": [node in verified for node in range(len(token_ids))],
        "path": [place[node] for node in cycle.path],
    }
