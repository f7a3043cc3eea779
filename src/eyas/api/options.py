"""Generation options by name: one flat set for Python, the command line and the server.

The options themselves stand in the files of what they configure; here they are gathered under their names.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from eyas.config import AUTO_LIMITS, TREE_SIZES, Option, Options, TreeConfig, TreeMode, options_of
from eyas.drafters.registry import find_method, methods
from eyas.engine.interfaces import DraftOptions
from eyas.engine.processors import processor_options
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.errors import ConfigError

# The arguments of `eyas.load`.
ModelName = Annotated[
    str | Path | None,
    Option(
        "directory of a Hugging Face model, a hub id, or a name that `eyas models` lists; without it the "
        "default model, which is downloaded at its first use",
        "DIR|ID",
        common=True,
    ),
]
HeadName = Annotated[
    str | Path | None,
    Option(
        "directory of the method's draft networks (for sps also of a whole model); without it eyas looks in "
        "the model's head/, in the cache and among its own heads",
        "DIR|ID",
        common=True,
    ),
]
MethodName = Annotated[
    str,
    Option(
        "how tokens are drafted; auto is eagle2 where a head is found, otherwise pld, which needs none",
        "NAME",
        common=True,
    ),
]
RuntimeName = Annotated[
    str,
    Option("what computes: native (C++), torch, or auto, which is native where it can", "NAME", common=True),
]
Dtype = Annotated[
    str,
    Option(
        "precision of the model: float32, bfloat16, int8 (native only), float16, float64 (torch only), or "
        "auto, the fastest on this machine",
        "NAME",
        common=True,
    ),
]
DraftDtype = Annotated[
    str,
    Option("precision of the draft networks, which never changes the answer; auto is the fastest", "NAME"),
]
KvDtype = Annotated[
    str,
    Option(
        "precision of the model's keys and values (native only): float32, bfloat16, or auto, which is "
        "float32 for a float32 model and bfloat16 otherwise",
        "NAME",
    ),
]
Threads = Annotated[
    int | None,
    Option("threads of the runtime; without it one for each physical core", at_least=1, common=True),
]
Device = Annotated[
    str, Option("where torch computes: cpu, cuda, cuda:1 and so on; native computes on the CPU", "NAME")
]

# What shapes the tree that EAGLE-2 grows in each cycle; other methods' trees have a shape of their own.
SHAPING = (*TREE_SIZES, "score_precision", "expand_by_value", "rerank")
SHAPED = "eagle2"
GROUPS: dict[str, type[Options]] = {
    "sampling": SamplingConfig,
    "stopping": StoppingConfig,
    "tree": TreeConfig,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions(Options):
    """Everything that one call may set."""

    title: ClassVar[str] = "prompt and answer"

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    tree: TreeConfig = field(default_factory=TreeConfig)
    n: Annotated[
        int, Option("answers to one prompt, each with random draws of its own", at_least=1, common=True)
    ] = 1
    logprobs: Annotated[
        int | None,
        Option("report the log-probability of each token and of its K best alternatives", "K", at_least=0),
    ] = None
    system: Annotated[str | None, Option("system message before the prompt", "TEXT", common=True)] = None
    raw: Annotated[bool, Option("take the prompt as it is, without the chat template", common=True)] = False
    drafting: Mapping[str, Any] = field(default_factory=dict)  # options of single methods that were given

    def check(self) -> None:
        """Raise ConfigError where a system message has no place."""
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
        groups: dict[str, Any] = {
            group: kind(**{name: options[name] for name in _names(kind) if name in options})
            for group, kind in GROUPS.items()
        }
        extra = {name: options[name] for name in processor_options() if name in options}
        groups["sampling"] = replace(groups["sampling"], extra=extra)
        own = {name: options[name] for name in _names(GenerationOptions) if name in options}
        drafting = {name: options[name] for name in _method_names() if name in options}
        for method in methods().values() if drafting else ():  # checked here, whichever will ask for them
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
                raise ConfigError(f"{option} is not an option of {name}; leave it out, or change the method.")
        return method.options(**self.drafting)

    def with_seed(self) -> Self:
        """The same options with a seed: the one given, or a fresh one when temperature > 0."""
        return replace(self, sampling=replace(self.sampling, seed=self.sampling.drawn_seed()))

    def to_dict(self) -> dict[str, Any]:
        """Flat, under the public names, ready for JSON."""
        flat = asdict(self)
        for group in GROUPS:
            flat |= flat.pop(group)
        flat |= flat.pop("drafting")
        flat |= flat.pop("extra")
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
    if shaping and method != SHAPED:
        raise ConfigError(f"{shaping[0]} is not an option of {method}; leave it out, or change the method.")


def option_names() -> list[str]:
    """Every option's public name."""
    kinds = [*GROUPS.values(), GenerationOptions]
    names = [*(name for kind in kinds for name in _names(kind)), *processor_options(), *_method_names()]
    if len(set(names)) < len(names):
        [(twice, _)] = Counter(names).most_common(1)
        raise ConfigError(f"two options are called {twice!r}; rename the one that you registered.")
    return names


def _names(kind: type[Options]) -> list[str]:
    return [named.name for named in options_of(kind)]


def _method_names() -> list[str]:
    return [name for method in methods().values() for name in method.option_names]
