"""llama.cpp's fields of a request, which its clients also send to OpenAI's routes: what they ask for here."""

from collections.abc import Container, Mapping, Sequence
from typing import Any


class _Anything:
    """Holds every value."""

    def __contains__(self, value: object) -> bool:
        return True


ANYTHING = _Anything()  # the values of a field that asks for nothing, whatever it holds

# Fields that ask for nothing, with the values for which that is so; with others they are refused.
IDLE: dict[str, Container[Any]] = {
    # How a cache is kept: it never changes the answer here.
    **dict.fromkeys(("cache_prompt", "id_slot", "n_keep", "n_discard", "n_cache_reuse"), ANYTHING),
    "t_max_prompt_ms": ANYTHING,  # llama.cpp does nothing with it either
    # Samplers that are off, and what belongs to them.
    **dict.fromkeys(("typical_p", "typ_p"), (None, 1)),
    **dict.fromkeys(("dynatemp_range", "xtc_probability", "mirostat", "dry_multiplier"), (None, 0)),
    **dict.fromkeys(("dynatemp_exponent", "xtc_threshold", "mirostat_tau", "mirostat_eta"), ANYTHING),
    **dict.fromkeys(("dry_base", "dry_allowed_length", "dry_penalty_last_n"), ANYTHING),
    "dry_sequence_breakers": ANYTHING,
    "top_n_sigma": (None, -1, 0),
    "repeat_last_n": (None, -1),  # any, where no penalty is on
    # What a response may hold in addition.
    **dict.fromkeys(("n_probs", "min_keep"), (None, 0)),
    **dict.fromkeys(("timings_per_token", "return_progress", "post_sampling_probs"), (None, False)),
    "lora": (None, []),
    "n_cmpl": (None, 1),
}
PENALTIES = {"repeat_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}  # their values when off
# By which clients ask for the server's own, or for nothing.
DEFAULTS: dict[str, Any] = {"seed": -1, "max_tokens": -1, "grammar": "", "json_schema": None}

# The options of each sampler, by its names; those that eyas does not have are never on.
_SAMPLERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("temperature", "temp", "t"), ("temperature",)),
    **dict.fromkeys(("top_k", "top-k", "k"), ("top_k",)),
    **dict.fromkeys(("top_p", "top-p", "p"), ("top_p",)),
    **dict.fromkeys(("min_p", "min-p", "m"), ("min_p",)),
    **dict.fromkeys(("penalties", "e"), ("repetition_penalty", "presence_penalty", "frequency_penalty")),
    **dict.fromkeys(("infill", "i"), ("infill",)),
}
_SAMPLED = {option for options in _SAMPLERS.values() for option in options}


def drop_defaults(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without the values by which llama.cpp's clients ask for the default."""
    dropped = {name for name, value in DEFAULTS.items() if name in body and body[name] in (None, value)}
    if all(body.get(name) in (None, off) for name, off in PENALTIES.items()):
        dropped.add("repeat_last_n")
    return {name: value for name, value in body.items() if name not in dropped}


def only_samplers(options: Mapping[str, Any], samplers: Sequence[str] | None) -> dict[str, Any]:
    """Generation options of which only those of the named samplers are on; None leaves them as they are.

    The sampler `infill` keeps little but the best token, or the end: it is greedy here.
    """
    if samplers is None:
        return dict(options)
    on = {option for name in samplers for option in _SAMPLERS.get(name, ())}
    kept = {name: value for name, value in options.items() if name in on or name not in _SAMPLED}
    return kept | {"temperature": 0.0 if "infill" in on else kept.get("temperature", 1.0)}
