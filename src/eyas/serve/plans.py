"""From a request's body to eyas's own options: what is to be answered, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eyas.api.prompts import Prompt
from eyas.serve.errors import ApiError
from eyas.serve.schemas import ChatRequest, CompletionRequest, Sampled
from eyas.serve.settings import ServeSettings

DEFAULT_TEMPERATURE = 1.0  # OpenAI's
DEFAULT_COMPLETION = 16  # OpenAI's length of a completion
# Fields that have eyas's own names; others are translated below.
SAME = (
    *("temperature", "top_p", "min_p", "seed", "ignore_eos"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a request asks for.

    Attributes:
        options: as `eyas.api.options` takes them, without n.
        n: answers to each prompt.
    """

    prompts: Sequence[Prompt]
    options: dict[str, Any]
    n: int
    method: str | None
    trace: bool
    include_usage: bool


def plan_chat(body: ChatRequest, settings: ServeSettings) -> Plan:
    """Of a chat: one prompt, through the model's template."""
    options = {"max_new_tokens": body.max_completion_tokens or body.max_tokens}
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    return _plan(body, [[message.to_dict() for message in body.messages]], options, settings)


def plan_completion(body: CompletionRequest, settings: ServeSettings) -> Plan:
    """Of a completion: prompts as they are."""
    options = {
        "max_new_tokens": body.max_tokens or DEFAULT_COMPLETION,
        "logprobs": body.logprobs,
        "raw": True,
    }
    return _plan(body, body.prompts, options, settings)


def _plan(body: Sampled, prompts: Sequence[Prompt], own: dict[str, Any], settings: ServeSettings) -> Plan:
    n = body.n or 1
    if n * len(prompts) > settings.max_n:
        raise ApiError(
            f"{n * len(prompts)} answers are asked for, but this server makes at most {settings.max_n} a "
            "request; lower n, or send fewer prompts.",
            param="n",
        )
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stop) > settings.max_stop:
        raise ApiError(
            f"stop has {len(stop)} strings, but at most {settings.max_stop} are taken; send fewer.",
            param="stop",
        )
    given = {name: getattr(body, name) for name in SAME}
    extra = body.eyas
    options = {
        **given,
        **own,
        "temperature": DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
        "top_k": None if body.top_k is None else max(0, body.top_k),
        "stop": tuple(stop),
        "logit_bias": _logit_bias(body.logit_bias or {}),
        "draft_tokens": extra and extra.draft_tokens,
        "depth": extra and extra.depth,
    }
    return Plan(
        prompts=prompts,
        options={name: value for name, value in options.items() if value is not None},
        n=n,
        method=extra.method if extra else None,
        trace=bool(extra and extra.trace),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


def _logit_bias(given: dict[str, float]) -> dict[int, float]:
    if not all(token.isdecimal() and len(token) < 10 for token in given):
        raise ApiError("logit_bias wants token ids as keys, written as numbers.", param="logit_bias")
    return {int(token): bias for token, bias in given.items()}
