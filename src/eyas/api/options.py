"""Generation options by name: one flat set for Python, the command line and the server.

The options themselves stand in the files of what they configure; here they are gathered under their names.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from eyas.config import NamedOption, Option, Options, options_of
from eyas.drafters.registry import find_method, methods, option_sets
from eyas.engine.interfaces import DraftOptions
from eyas.engine.processors import processor_options
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.structure import StructureConfig
from eyas.engine.tree_options import TreeMode, TreeOptions
from eyas.errors import ConfigError

# The arguments of `eyas.load`.
ModelName = Annotated[
    str | Path | None,
    Option(
        "a GGUF file, a Hugging Face directory, a name that `eyas models` lists or `eyas pull` knows, or one "
        "on the hub (ORG/NAME, ORG/NAME:Q4_K_M, ORG/NAME/FILE.gguf); without it the default model, which is "
        "downloaded at its first use",
        "MODEL",
        common=True,
    ),
]
HeadName = Annotated[
    str | Path | None,
    Option(
        "directory of the method's draft networks (for eagle3 also a GGUF file, for sps a whole model, named "
        "as by --model); without it eyas looks next to the model, in the cache and among its own heads",
        "DIR",
        common=True,
    ),
]
MethodName = Annotated[
    str,
    Option(
        "how tokens are drafted; auto is eagle2 or eagle3 where a head is found, else pld, which needs none",
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
        "precision of the model: float32, bfloat16, float16 or float64 (torch only), int8 or a GGUF format "
        "that weights are quantised to, such as q8_0, q6_k, q4_k_m or q4_k (native only), or auto: a GGUF "
        "file's own, otherwise the fastest of bfloat16 and float32",
        "NAME",
        common=True,
    ),
]
DraftDtype = Annotated[
    str,
    Option(
        "precision of the draft networks, which never changes the answer: float32, bfloat16, int8, a GGUF "
        "format such as q4_k, or auto, the fastest",
        "NAME",
    ),
]
KvDtype = Annotated[
    str,
    Option(
        "precision of the model's keys and values (native only): float32, bfloat16, q8_0 (half the memory of "
        "bfloat16), or auto, which is float32 for a float32 model and bfloat16 otherwise",
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

GROUPS: dict[str, type[Options]] = {
    "sampling": SamplingConfig,
    "stopping": StoppingConfig,
    "structure": StructureConfig,
    "tree": TreeOptions,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions(Options):
    """Everything that one call may set."""

    title: ClassVar[str] = "prompt and answer"

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    structure: StructureConfig = field(default_factory=StructureConfig)
    tree: TreeOptions = field(default_factory=TreeOptions)
    n: Annotated[
        int, Option("answers to one prompt, each with random draws of its own", at_least=1, common=True)
    ] = 1
    logprobs: Annotated[
        int | None,
        Option("report the log-probability of each token and of its K best alternatives", "K", at_least=0),
    ] = None
    system: Annotated[str | None, Option("system message before the prompt", "TEXT", common=True)] = None
    raw: Annotated[bool, Option("take the prompt as it is, without the chat template", common=True)] = False
    parse_special: Annotated[
        bool,
        Option(
            "make control tokens of names such as <|im_end|> in the prompt and in messages; without it they "
            "are text, so that nobody ends a turn by typing"
        ),
    ] = False
    prediction: Annotated[
        str | None,
        Option(
            "text that most of the answer is expected to repeat, such as the file that it edits: drafts are "
            "copied from there",
            "TEXT",
        ),
    ] = None
    drafting: Mapping[str, Any] = field(default_factory=dict)  # options of single methods that were given

    def check(self) -> None:
        """Raise ConfigError where a system message has no place, or where a grammar says when to end."""
        if self.structure.kind is not None:
            for name in ("min_new_tokens", "ignore_eos"):
                if getattr(self.stopping, name):
                    raise ConfigError(
                        f"{name} and {self.structure.kind} exclude each other: an answer ends where "
                        f"{self.structure.kind} allows it; leave one of them out."
                    )
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
        given_to = _by_method(options)
        means_fixed = any(methods()[name].options.means_fixed(given) for name, given in given_to.items())
        options = {"tree": "fixed" if means_fixed else default_tree, **options}
        groups: dict[str, Any] = {
            group: kind(**{name: options[name] for name in _names(kind) if name in options})
            for group, kind in GROUPS.items()
        }
        extra = {name: options[name] for name in processor_options() if name in options}
        groups["sampling"] = replace(groups["sampling"], extra=extra)
        own = {name: options[name] for name in _names(GenerationOptions) if name in options}
        tree: TreeOptions = groups["tree"]
        if "lookup" in options and not tree.is_auto:
            raise ConfigError(
                f"lookup is {tree.lookup}, but tree is 'fixed', to which no prompt lookup is added; set "
                "tree='auto', or leave lookup out."
            )
        for name, given in given_to.items():  # checked here, whichever will ask for them
            _of_method(name, given, tree)
        drafting = {name: value for given in given_to.values() for name, value in given.items()}
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
        return _of_method(name, self.drafting, self.tree)

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


def tree_options() -> dict[str, NamedOption]:
    """The options of draft trees: every method's, and those of methods whose own tree has sizes."""
    sized = [kind for kind in option_sets() if kind.sizes]
    return {named.name: named for kind in (TreeOptions, *sized) for named in options_of(kind)}


def _by_method(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of single methods among `options`, by method."""
    found = {
        name: {option: options[option] for option in method.option_names if option in options}
        for name, method in methods().items()
    }
    return {name: given for name, given in found.items() if given}


def _of_method(name: str, given: Mapping[str, Any], tree: TreeOptions) -> DraftOptions:
    """The options of a method; ConfigError where the tree policy excludes one."""
    made = find_method(name).options.of(given, tree)
    if tree.is_auto:
        made.check_auto()
    return made


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
    return [name for kind in option_sets() for name in _names(kind)]
