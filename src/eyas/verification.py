"""Which drafted tokens does the target keep? Sample at the node, then look whether the token is a child.

Source: docs/algorithm.md, section 3. EAGLE-2's rule (try the children in turn, accept x with probability
p(x), otherwise remove x from p) emits exactly the tokens of p, since the draft is a point mass; so it equals
in law "draw one token from p and follow it if the tree has it". That form needs no draft probabilities, is
right for every drafter at every temperature, and with draws fixed by position (docs/laws.md, L2) it gives
the *same ids* as plain decoding.
Not here: ratio tests and typical acceptance, which change the ids or the distribution.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eyas.tree import DraftTree

Choose = Callable[[int, Sequence[int]], int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one cycle found.

    Attributes:
        path: nodes from the root to the last accepted one.
        token_ids: the accepted tokens, then the bonus token; one per node of `path`.
    """

    path: list[int]
    token_ids: list[int]

    @property
    def num_accepted(self) -> int:
        """Accepted draft tokens, without the bonus."""
        return len(self.path) - 1


def verify(tree: DraftTree, choose: Choose) -> Verdict:
    """Walk down the tree along the tokens that the target chooses.

    Args:
        tree: the draft.
        choose: `choose(node, accepted)` is the target's token after `node`, whose path below the root has
            the tokens `accepted`. Called for the nodes of the path only, from the root downwards.
    """
    node, path = 0, [0]
    token_ids: list[int] = []
    while True:
        token_ids.append(choose(node, token_ids))
        child = tree.children[node].get(token_ids[-1])
        if child is None:
            return Verdict(path, token_ids)
        node = child
        path.append(node)
