"""Generation options by name: one flat set for Python, the command line and the server.

The fields, defaults and limits live in `eyas.config`; here they are gathered under their public names.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Self

from eyas.config import (
    AUTO_LIMITS,
    TREE_SIZES,
    SamplingConfig,
    StoppingConfig,
    TreeConfig,
    TreeMode,
    check_types,
)
from eyas.drafters.registry import find_method, methods
from eyas.engine.interfaces import DraftOptions
from eyas.errors import ConfigError

# What shapes the tree that EAGLE-2 grows in each cycle; other methods' trees have a shape of their own.
SHAPING = (*TREE_SIZES, "score_precision", "expand_by_value", "copies", "rerank")
_GROUPS = {"sampling": SamplingConfig, "stopping": StoppingConfig, "tree": TreeConfig}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """Everything that one call may set."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    tree: TreeConfig = field(default_factory=TreeConfig)
    n: int = 1  # answers to one prompt, drawn under keys (seed, 0), (seed, 1), ...
    logprobs: int | None = None  # alternatives reported beside each token's log-probability; None is off
    system: str | None = None  # system message before a string prompt; None leaves it to the template
    raw: bool = False  # take a string prompt as it is, without the chat template
    drafting: Mapping[str, Any] = field(default_factory=dict)  # options of single methods that were given

    def __post_init__(self) -> None:
        check_types(self)
        if self.n < 1:
            raise ConfigError(f"n is {self.n}, but at least 1 answer must be asked for.")
        if self.logprobs is not None and self.logprobs < 0:
            raise ConfigError(f"logprobs is {self.logprobs}, but it must be at least 0.")
        if self.raw and self.system is not None:
            raise ConfigError("system and raw exclude each other: a raw prompt has no chat template.")

    @classmethod
    def from_names(cls, options: Mapping[str, Any], default_tree: TreeMode = "fixed") -> Self:
        """Sort flat options into their groups. Where no size of the tree is given, it is `default_tree`.

        Raises:
            ConfigError: an unknown name (with the closest known one) or a value out of bounds.
        """
        known = option_names()
        for name in options:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"the options are {', '.join(known)}."
                raise ConfigError(f"unknown option {name!r}; {hint}")
        options = _with_tree(options, default_tree)
        groups = {
            group: kind(**{f.name: options[f.name] for f in fields(kind) if f.name in options})
            for group, kind in _GROUPS.items()
        }
        own = {name: options[name] for name in _own_names() if name in options}
        drafting = {name: options[name] for name in _method_names() if name in options}
        for method in methods().values():  # checked here, whichever method will ask for them
            method.options(**{name: drafting[name] for name in method.option_names if name in drafting})
        return cls(**groups, **own, drafting=drafting)

    def of_method(self, name: str) -> DraftOptions:
        """The options of one method.

        Raises:
            ConfigError: one was given that belongs to another method.
        """
        method = find_method(name)
        for option in self.drafting:
            if option not in method.option_names:
                raise ConfigError(f"{option} is no option of {name}; leave it out, or change the method.")
        return method.options(**self.drafting)

    def with_seed(self) -> Self:
        """The same options with a seed: the one given, or a fresh one when temperature > 0."""
        return replace(self, sampling=replace(self.sampling, seed=self.sampling.drawn_seed()))

    def to_dict(self) -> dict[str, Any]:
        """Flat, under the public names, ready for JSON."""
        flat = asdict(self)
        for group in _GROUPS:
            flat |= flat.pop(group)
        flat |= flat.pop("drafting")
        flat["logit_bias"] = {str(token): bias for token, bias in flat["logit_bias"].items()}
        return flat


def _with_tree(options: Mapping[str, Any], default: TreeMode) -> Mapping[str, Any]:
    """Resolve `tree`: a size, or an ablation of the paper's, means "fixed", with its defaults for the others.

    A small fixed tree keeps every candidate, unless the number of draft tokens was given too.
    """
    given = [name for name in TREE_SIZES if name in options]
    is_ablated = not (options.get("rerank", True) and options.get("expand_by_value", True))
    tree = options.get("tree", "fixed" if given or is_ablated else default)
    options = {**options, "tree": tree}
    if tree == "auto":
        if given:
            raise ConfigError(
                f"tree is 'auto', which chooses the size of each tree, but {given[0]} is "
                f"{options[given[0]]}; leave one of them out."
            )
        return {**options, **AUTO_LIMITS}
    if "draft_tokens" in options or not given:
        return options
    sizes = {name: options[name] for name in ("depth", "tree_top_k") if name in options}
    candidates = TreeConfig(draft_tokens=1, **sizes).num_candidates
    return {**options, "draft_tokens": min(TreeConfig().draft_tokens, candidates)}


def check_shaping(options: Collection[str], method: str) -> None:
    """Refuse options of EAGLE-2's tree where another method is asked for.

    Raises:
        ConfigError: names the first.
    """
    shaping = [name for name in SHAPING if name in options]
    if shaping and not find_method(method).uses_costs:
        raise ConfigError(f"{shaping[0]} is no option of {method}; leave it out, or change the method.")


def option_names() -> list[str]:
    """Every option's public name."""
    return [*(f.name for kind in _GROUPS.values() for f in fields(kind)), *_own_names(), *_method_names()]


def _own_names() -> list[str]:
    return [f.name for f in fields(GenerationOptions) if f.name not in {*_GROUPS, "drafting"}]


def _method_names() -> list[str]:
    return [name for method in methods().values() for name in method.option_names]
