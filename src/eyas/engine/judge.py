"""What the target says at the nodes of a tree, as the rules of `eyas.engine.verification` ask for it."""

from collections.abc import Sequence

from eyas.engine.interfaces import Choice, TargetRows
from eyas.engine.sampling import Sampler
from eyas.engine.tree import DraftTree, Floats, Prefix
from eyas.engine.verification import Verdict


class RowsJudge:
    """The rows of one sequence's target pass.

    Args:
        rows: results of the pass; row i is node i.
        sampler: of the answer.
        generated: the answer up to and including the root.
        num_log_probs: as in `TargetRows.choose`.
    """

    def __init__(
        self, rows: TargetRows, sampler: Sampler, generated: Sequence[int], num_log_probs: int | None
    ) -> None:
        self._rows = rows
        self._sampler = sampler
        self._generated = generated
        self._num_log_probs = num_log_probs
        self._chosen: dict[int, Choice] = {}

    @property
    def is_greedy(self) -> bool:
        """Whether the target's token is an argmax."""
        return self._sampler.config.is_greedy

    def choose(self, node: int, accepted: Sequence[int]) -> int:
        """The target's token after `node`, whose path below the root has the tokens `accepted`."""
        prefix = Prefix(self._generated, tuple(accepted))
        self._chosen[node] = self._rows.choose(node, self._sampler, prefix, self._num_log_probs)
        return self._chosen[node].token_id

    def log_probs(self, node: int, accepted: Sequence[int]) -> Floats:
        """(V,) natural logs of the processed distribution after `node`."""
        return self._sampler.log_probs(self._rows.logits(node), Prefix(self._generated, tuple(accepted)))

    def draw(self, accepted: Sequence[int], log_probs: Floats) -> int:
        """A token from (V,) `log_probs` after a path."""
        return self._sampler.draw(log_probs, len(self._generated) + len(accepted))

    def uniform(self, accepted: Sequence[int], index: int) -> float:
        """The `index`-th number in (0, 1) that belongs to the position after a path."""
        return self._sampler.uniform(len(self._generated) + len(accepted), index)

    def choices(self, verdict: Verdict) -> list[Choice]:
        """The verdict's tokens with what is reported of them; a rule need not have taken `choose`'s."""
        return [self._choice(*pair) for pair in zip(verdict.path, verdict.token_ids, strict=True)]

    def _choice(self, node: int, token_id: int) -> Choice:
        known = self._chosen.get(node)
        if known is not None and known.token_id == token_id:
            return known
        if self._num_log_probs is None:
            return Choice(token_id)
        return Choice.reported(token_id, self._rows.logits(node), self._num_log_probs)

    def after_auxiliary(self, tree: DraftTree) -> list[int]:
        """The target's tokens after those auxiliary rows of `tree` that are asked for."""
        assert tree.auxiliary is not None, "a tree with auxiliary rows"
        token_ids, parents = tree.rows
        first = len(tree.token_ids) + tree.auxiliary.first_asked
        paths: list[tuple[int, ...]] = []
        for token, parent in zip(token_ids.tolist(), parents.tolist(), strict=True):
            paths.append((*paths[parent], token) if parent >= 0 else ())
        return [
            self._rows.choose(row, self._sampler, Prefix(self._generated, paths[row])).token_id
            for row in range(first, len(paths))
        ]
