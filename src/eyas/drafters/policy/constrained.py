"""Draft trees under a grammar: nothing that it forbids is drafted, and what it forces is drafted for nothing.

Behind `{"` a schema of one property, name, allows one way to go on:

    root {" ──┬─ age ── ":      forbidden: left out with all that is below
              └─ name ── ":     forced: added, or there already

Every method gains from it, those without a network too.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eyas.drafters.tree_builder import NO_CHAIN, ExpectedChain
from eyas.engine.grammar import Grammar
from eyas.engine.tree import Auxiliary, DraftTree, Prefix

FORCED_RATE = 0.999  # of a token that nothing else can replace; a rate is below 1
MOST_FORCED = 32  # tokens of a chain


def constrain(tree: DraftTree, grammar: Grammar, answer: Prefix, *, room: int, most: int) -> DraftTree:
    """A method's own tree without what the grammar forbids, and with what it forces below the root.

    A tree that speculative sampling verifies stays as it was sampled: from distributions under the grammar.

    Args:
        tree: to change.
        grammar: of the answer.
        answer: up to and including the root.
        room: levels that the tree may have.
        most: draft tokens that it may have, auxiliary ones included.
    """
    if tree.proposals:
        return tree
    token_ids, parents, log_values = _arrays(tree)
    place = {0: 0}  # node -> node of the new tree
    prefixes = {0: answer}
    for node in range(1, len(token_ids)):
        above, token = parents[node], token_ids[node]
        if above in place and grammar.num_allowed(prefixes[above], [token]):
            place[node] = len(place)
            prefixes[node] = prefixes[above].extended(token)
    kept = [*place]
    new_ids = [token_ids[node] for node in kept]
    new_parents = [-1, *(place[parents[node]] for node in kept[1:])]
    new_values = [log_values[node] for node in kept]
    auxiliary = 0 if tree.auxiliary is None else len(tree.auxiliary.token_ids)
    free = most - auxiliary - len(kept) + 1
    children = {
        (above, token): node for node, (above, token) in enumerate(zip(new_parents, new_ids, strict=True))
    }
    at = 0
    for token in grammar.forced(answer, min(room, MOST_FORCED)):
        if (at, token) not in children:
            if free < 1:
                break
            free -= 1
            new_ids.append(token)
            new_parents.append(at)
            new_values.append(new_values[at])
            children[at, token] = len(new_ids) - 1
        at = children[at, token]
    if new_ids == token_ids:
        return tree
    return replace(
        tree,
        token_ids=np.array(new_ids, dtype=np.int64),
        parents=np.array(new_parents, dtype=np.int64),
        log_values=np.array(new_values),
        auxiliary=_moved(tree, place, len(new_ids)),
        best=None,  # its candidates are those of another tree
    )


def expected_chain(chain: ExpectedChain, grammar: Grammar, answer: Prefix, most: int) -> ExpectedChain:
    """What the grammar forces; where that is nothing, a chain up to its first token that is forbidden."""
    forced = grammar.forced(answer, min(most, MOST_FORCED))
    if forced:
        return ExpectedChain(forced, [FORCED_RATE] * len(forced))
    count = grammar.num_allowed(answer, chain.token_ids) if chain.token_ids else 0
    return ExpectedChain(chain.token_ids[:count], chain.rates[:count]) if count else NO_CHAIN


def _arrays(tree: DraftTree) -> tuple[list[int], list[int], list[float]]:
    return tree.token_ids.tolist(), tree.parents.tolist(), tree.log_values.tolist()


def _moved(tree: DraftTree, place: dict[int, int], size: int) -> Auxiliary | None:
    """The auxiliary rows behind a tree that now has `size` nodes; they follow the root, or each other."""
    rows = tree.auxiliary
    if rows is None:
        return None
    shift = size - len(tree.token_ids)
    parents: Sequence[int] = rows.parents.tolist()
    moved = [place[above] if above < len(tree.token_ids) else above + shift for above in parents]
    return replace(rows, parents=np.array(moved, dtype=np.int64))
