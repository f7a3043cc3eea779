"""Every option as a frozen, keyword-only dataclass, checked at birth.

An option is written once, here, with its default, its unit and its limits. The command line and the
Python interface are generated from these fields; nothing else repeats a default.
"""

import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeGuard, get_args

from eyas.errors import ConfigError

MAX_SEED = 2**32 - 1  # one word of the Philox key, docs/laws.md L2

# Logits that were edited and divided by a temperature stay finite within these.
LEAST_TEMPERATURE = 1e-300
LEAST_PENALTY, MOST_PENALTY = 1e-3, 1e3
MOST_BIAS = 1e6

TreeMode = Literal["auto", "fixed"]
DraftSampling = Literal["coupled", "top-k"]
ScorePrecision = Literal["float32", "model"]


def at_least(name: str, value: float, limit: float) -> None:
    """Raise ConfigError unless `value` is a number of at least `limit`."""
    if not (math.isfinite(value) and value >= limit):
        raise ConfigError(f"{name} is {value}, but it must be a number of at least {limit}.")


def check_seed(seed: int) -> None:
    """Raise ConfigError for a seed that generators do not take."""
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed is {seed}, but it must lie in 0..{MAX_SEED}.")


def check_types(options: Any) -> None:
    """Raise ConfigError where a field of numbers, or of yes or no, holds something else."""
    for item in fields(options):
        value = getattr(options, item.name)
        kinds = get_args(item.type) if isinstance(item.type, UnionType) else (item.type,)
        if value is None and type(None) in kinds:
            continue
        if bool in kinds:
            fits, wanted = isinstance(value, bool), "True or False"
        elif int in kinds:
            fits, wanted = _is_whole(value), "a whole number"
        elif float in kinds:
            fits, wanted = isinstance(value, Real) and not isinstance(value, bool), "a number"
        else:
            continue
        if not fits:
            raise ConfigError(f"{item.name} is {value!r}, but it must be {wanted}.")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of `choices`: types do not hold a caller to a Literal."""
    if value not in choices:
        listing = " or ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name} is {value!r}; it is {listing}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeConfig:
    """Size of an EAGLE-2 draft tree (arXiv 2406.16858, Sec. 4 and App. A). The root is not counted.

    `tree="auto"` chooses the size in each cycle, from measured costs; then the sizes are its limits.
    """

    tree: TreeMode = "fixed"
    draft_tokens: int = 59  # nodes kept by rerank and verified beside the root
    depth: int = 6  # levels below the root
    tree_top_k: int = 10  # nodes expanded on each level
    draft_sampling: DraftSampling = "coupled"  # how children are chosen when temperature > 0
    score_precision: ScorePrecision = "float32"  # precision in which values are summed
    expand_by_value: bool = True  # False expands by own confidence (Table 3 of the paper, "w/o value")
    copies: bool = True  # trees of measured size also hold what followed the newest tokens before
    rerank: bool = True  # False keeps the nodes that were expanded (Table 3, "w/o reranking")

    def __post_init__(self) -> None:
        check_types(self)
        one_of("tree", self.tree, get_args(TreeMode))
        for name in TREE_SIZES:
            at_least(name, getattr(self, name), 1)
        for name, most in (("depth", MOST_DEPTH), ("tree_top_k", MOST_TOP_K)):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at most {most}.")
        if self.draft_tokens > self.num_candidates:
            raise ConfigError(
                f"draft_tokens is {self.draft_tokens}, but depth {self.depth} and tree_top_k "
                f"{self.tree_top_k} give only {self.num_candidates} candidates; "
                "lower draft_tokens or raise one of the two."
            )
        if self.is_auto and not (self.expand_by_value and self.rerank):
            raise ConfigError("tree is 'auto', which needs values and rerank; set tree='fixed'.")
        one_of("draft_sampling", self.draft_sampling, get_args(DraftSampling))
        one_of("score_precision", self.score_precision, get_args(ScorePrecision))

    @property
    def num_candidates(self) -> int:
        """Nodes that expansion makes before rerank: K + (D - 1) K^2."""
        return self.tree_top_k + (self.depth - 1) * self.tree_top_k**2

    @property
    def is_auto(self) -> bool:
        """Whether each cycle chooses the size of its tree."""
        return self.tree == "auto"


TREE_SIZES = ("draft_tokens", "depth", "tree_top_k")
# Each level is a pass of the draft network over K nodes, of K children each: more takes seconds a cycle.
MOST_DEPTH, MOST_TOP_K = 128, 128
AUTO_LIMITS = {"draft_tokens": 63, "depth": 8, "tree_top_k": 10}  # 64 rows with the root
# Where `tree` is not given: "auto" for these runtimes, "fixed" for all others. A runtime belongs here once
# measuring it takes no more than a few seconds and its costs stay as they were measured.
AUTO_TREE_RUNTIMES: frozenset[str] = frozenset({"native"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """The distribution of the next token (docs/laws.md, L2 and L3) and its draws."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    min_p: float = 0.0  # 0 is off
    repetition_penalty: float = 1.0  # over prompt and answer; 1 is off
    presence_penalty: float = 0.0  # over the answer, as OpenAI counts
    frequency_penalty: float = 0.0  # over the answer, as OpenAI counts
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None draws one when temperature > 0; see `with_seed`

    def __post_init__(self) -> None:
        check_types(self)
        at_least("temperature", self.temperature, 0)
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ConfigError(
                f"temperature is {self.temperature}, but it must be 0, which is greedy, or at least "
                f"{LEAST_TEMPERATURE}."
            )
        at_least("top_k", self.top_k, 0)
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}, but it must lie in (0, 1]; 1 is off.")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p is {self.min_p}, but it must lie in [0, 1]; 0 is off.")
        if not LEAST_PENALTY <= self.repetition_penalty <= MOST_PENALTY:
            raise ConfigError(
                f"repetition_penalty is {self.repetition_penalty}, but it must lie in "
                f"[{LEAST_PENALTY}, {MOST_PENALTY}]; 1 is off."
            )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if not -2 <= value <= 2:
                raise ConfigError(f"{name} is {value}, but it must lie in [-2, 2]; 0 is off.")
        if not isinstance(self.logit_bias, Mapping):
            raise ConfigError(f"logit_bias is {self.logit_bias!r}; it wants a number for each token id.")
        for token_id, bias in self.logit_bias.items():
            if not (is_token_id(token_id) and isinstance(bias, Real) and abs(bias) <= MOST_BIAS):
                raise ConfigError(
                    f"logit_bias has {token_id!r}={bias!r}; it wants a token id and a number in "
                    f"[-{MOST_BIAS:.0f}, {MOST_BIAS:.0f}]."
                )
        if self.seed is not None:
            check_seed(self.seed)

    @property
    def is_greedy(self) -> bool:
        """Whether the token is an argmax, without draws."""
        return self.temperature == 0

    def drawn_seed(self) -> int:
        """The seed to use: the one given, 0 when greedy, otherwise a fresh one."""
        if self.seed is not None:
            return self.seed
        return 0 if self.is_greedy else secrets.randbelow(MAX_SEED + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingConfig:
    """When an answer ends (docs/laws.md, L4)."""

    max_new_tokens: int = 512
    min_new_tokens: int = 0  # no stop token before so many
    stop: tuple[str, ...] = ()  # strings, or one; the text ends before the first that appears
    stop_token_ids: tuple[int, ...] = ()  # beside the model's own
    ignore_eos: bool = False  # go on past the model's own stop tokens

    def __post_init__(self) -> None:
        check_types(self)
        at_least("max_new_tokens", self.max_new_tokens, 1)
        at_least("min_new_tokens", self.min_new_tokens, 0)
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens is {self.min_new_tokens}, above max_new_tokens "
                f"{self.max_new_tokens}; lower it."
            )
        if isinstance(self.stop, str):  # one, as OpenAI's interface also takes it; not its letters
            object.__setattr__(self, "stop", (self.stop,))
        if not isinstance(self.stop, Collection) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise ConfigError(f"stop is {self.stop!r}; it wants strings of at least one character each.")
        if not isinstance(self.stop_token_ids, Collection) or not all(map(is_token_id, self.stop_token_ids)):
            raise ConfigError(f"stop_token_ids is {self.stop_token_ids!r}; it wants token ids, none below 0.")


def is_token_id(value: object) -> bool:
    """Whether a value can be a token id: a whole number, not below 0."""
    return _is_whole(value) and value >= 0


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """A stack of Llama-family decoder layers, as a draft network uses it."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    qkv_bias: bool = False
    first_input_norm: bool = True  # an EAGLE head's first layer has no input norm
    final_norm: bool = True  # an EAGLE head has none: its output lives in the target's feature space
