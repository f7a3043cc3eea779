"""Whether draft networks belong to a target, and the target's LM head as they use it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from eyas.drafters.find import is_for
from eyas.drafters.heads import HeadCheckpoint, HeadKind, or_train, read_head
from eyas.engine.interfaces import LMHead, NormWeights, Runtime
from eyas.engine.tree import Ints
from eyas.errors import CheckpointError

Config = TypeVar("Config")


def read_for_target(
    kind: HeadKind[Config], runtime: Runtime, directory: Path, hidden_size: Callable[[Config], int]
) -> HeadCheckpoint[Config]:
    """Read a head, and refuse one that was made for another target.

    A head may be for another quantisation of the target: their hidden states are nearly the same.

    Args:
        kind: of the head.
        runtime: of the target.
        directory: the head's.
        hidden_size: of the features or embeddings that a head of this kind reads, from its sizes.

    Raises:
        CheckpointError: broken files, or a head for another target, with the remedy.
    """
    head, target = read_head(kind, directory), runtime.target
    hidden, remedy = hidden_size(head.config), f"use this target's head{or_train(kind.training)}"
    if hidden != target.hidden_size:
        raise CheckpointError(
            f"{directory} is a head for hidden size {hidden}, but {target.name} has {target.hidden_size}; "
            f"{remedy}."
        )
    if not is_for(head.fingerprint, head.base_fingerprint, target.fingerprint, target.base_fingerprint):
        raise CheckpointError(
            f"{directory} was trained for the target with fingerprint {head.fingerprint}, but {target.name} "
            f"has {target.fingerprint}; {remedy}."
        )
    largest = -1 if head.draft_ids is None else int(head.draft_ids.max())
    if largest >= target.vocab_size:
        raise CheckpointError(
            f"{directory} drafts token id {largest}, but the ids of {target.name} end at "
            f"{target.vocab_size - 1}; use this target's head."
        )
    return head


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
