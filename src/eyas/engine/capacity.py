"""Does it fit? Checks of prompts and answers against a target's context and vocabulary."""

from collections.abc import Sequence

from eyas.engine.interfaces import Runtime
from eyas.engine.stopping import StoppingConfig
from eyas.errors import CapacityError


def check_room(prompt_ids: Sequence[int], runtime: Runtime) -> None:
    """Refuse a prompt that is empty, fills the context, or holds ids that the model does not have."""
    target = runtime.target
    if not prompt_ids:
        raise CapacityError("the prompt is empty; give it at least one token.")
    if len(prompt_ids) >= target.context_limit:
        raise CapacityError(
            f"the prompt has {len(prompt_ids)} tokens, but {target.name} holds {target.context_limit} "
            f"({target.context_reason}) and the answer needs room too; shorten the prompt."
        )
    largest = max(prompt_ids)
    if largest >= target.vocab_size or min(prompt_ids) < 0:
        raise CapacityError(
            f"the prompt holds a token id outside 0..{target.vocab_size - 1}, the vocabulary of "
            f"{target.name}; was it made with this model's tokenizer?"
        )


def check_answer_fits(config: StoppingConfig, runtime: Runtime) -> None:
    """Refuse `max_new_tokens` beyond the context, and stop tokens that the model does not have.

    A full context ends an answer before that.
    """
    target = runtime.target
    beyond = [token_id for token_id in config.stop_token_ids if token_id >= target.vocab_size]
    if beyond:
        raise CapacityError(
            f"stop_token_ids has {beyond[0]}, but the ids of {target.name} end at {target.vocab_size - 1}; "
            "leave it out."
        )
    if config.max_new_tokens > target.context_limit:
        raise CapacityError(
            f"max_new_tokens is {config.max_new_tokens}, but {target.name} holds "
            f"{target.context_limit} tokens ({target.context_reason}); lower it."
        )
