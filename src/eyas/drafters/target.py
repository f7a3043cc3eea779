"""Whether draft networks belong to a target, and the target's LM head as they use it."""

from collections.abc import Sequence
from pathlib import Path

from eyas.drafters.heads import or_train
from eyas.engine.interfaces import LMHead, NormWeights, Runtime
from eyas.engine.tree import Ints
from eyas.errors import CheckpointError


def check_target(
    runtime: Runtime,
    directory: Path,
    *,
    hidden_size: int,
    fingerprint: str | None,
    draft_ids: Ints | None,
    training: str | None,
) -> None:
    """Refuse networks that were made for another target.

    Args:
        runtime: of the target.
        directory: where the networks come from.
        hidden_size: of the features or embeddings that they read.
        fingerprint: of the target that they were trained for; None for published ones.
        draft_ids: (M,) ascending ids of their draft vocabulary; None for the whole one.
        training: the command that makes them, if there is one.

    Raises:
        CheckpointError: with the remedy.
    """
    target = runtime.target
    if hidden_size != target.hidden_size:
        raise CheckpointError(
            f"{directory} is a head for hidden size {hidden_size}, but {target.name} has "
            f"{target.hidden_size}; use this target's head{or_train(training)}."
        )
    if fingerprint and target.fingerprint and fingerprint != target.fingerprint:
        raise CheckpointError(
            f"{directory} was trained for the target with fingerprint {fingerprint}, but {target.name} has "
            f"{target.fingerprint}; use this target's head{or_train(training)}."
        )
    largest = -1 if draft_ids is None else int(draft_ids.max())
    if largest >= target.vocab_size:
        raise CheckpointError(
            f"{directory} drafts token id {largest}, but the ids of {target.name} end at "
            f"{target.vocab_size - 1}; use this target's head."
        )


def check_vocabulary(runtime: Runtime, directory: Path, size: int) -> None:
    """Refuse networks over another vocabulary.

    Raises:
        CheckpointError: their LM head has other tokens than the target's.
    """
    target = runtime.target
    if size != target.vocab_size:
        raise CheckpointError(
            f"{directory} has a vocabulary of {size} tokens, but {target.name} has {target.vocab_size}; a "
            "draft needs the target's own tokenizer."
        )


class OwnHead:
    """A draft network's own LM head, which is the same for all answers."""

    def __init__(self, head: LMHead) -> None:
        self._head = head

    def after(self, token_ids: Sequence[int]) -> LMHead:  # noqa: ARG002 - no answer changes it
        """The head."""
        return self._head


class AnswerHead:
    """The target's LM head for one answer: a draft vocabulary, and the tokens of the prompt and the answer.

    Answers repeat both: of the greedy tokens outside the default head's draft vocabulary half stand in the
    prompt, and of the others half stood in the answer before (docs/log.md, 2026-11-28).

    Args:
        runtime: of the target.
        draft_ids: (M,) ascending ids of the draft vocabulary; None for the whole one.
        norm: of what it reads.
    """

    def __init__(self, runtime: Runtime, draft_ids: Ints | None, norm: NormWeights = None) -> None:
        self._head = runtime.lm_head(draft_ids, norm)
        self._num_heard = 0

    def after(self, token_ids: Sequence[int]) -> LMHead:
        """For drafts behind `token_ids`: everything committed, prompt included, and more than before."""
        self._head = self._head.plus(token_ids[self._num_heard :])
        self._num_heard = len(token_ids)
        return self._head
