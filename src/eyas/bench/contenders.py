"""Contenders of a benchmark: methods with options, `eagle2` or `eagle2:draft_tokens=25,name=small`.

A contender without a name of its own is named for what it holds: `eagle2` has the paper's tree, `eagle2 auto`
cost-aware trees, `eagle2 auto + lookup` also prompt lookup (which `pld auto` is by itself); other options
follow as they were given.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

from eyas.api.options import GenerationOptions
from eyas.bench.equality import PLAIN
from eyas.config import NamedOption, options_of
from eyas.drafters.registry import Method, find_method, methods
from eyas.engine.tree_options import TreeOptions
from eyas.errors import ConfigError

# The order of the paper's Table 1; methods that it does not know follow.
PAPER_ORDER = (PLAIN, "sps", "pld", "medusa", "lookahead", "hydra", "eagle", "eagle2")
EQUAL = "eagle2 25 tokens 5 levels"
WITHOUT_VALUE, WITHOUT_RERANK = "eagle2 without value", "eagle2 without rerank"
PRESETS: Mapping[str, tuple[str, ...]] = {
    "all": (),  # every method with the paper's tree: filled from the registry
    "auto": (),  # every method that has cost-aware trees with them, prompt lookup included: filled likewise
    # Table 3 of the paper.
    "ablations": (
        "eagle2",
        f"eagle2:expand_by_value=false,name={WITHOUT_VALUE}",
        f"eagle2:rerank=false,name={WITHOUT_RERANK}",
        "eagle2:expand_by_value=false,rerank=false,name=eagle2 without both",
    ),
    # EAGLE's static tree has 25 tokens on 5 levels.
    "equal-budget": ("eagle", f"eagle2:draft_tokens=25,depth=5,name={EQUAL}"),
    "budgets": (*(f"eagle2:draft_tokens={n},name=eagle2 {n} tokens" for n in (7, 15, 25, 40)), "eagle2"),
}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Contender:
    """A method with options of its own, under a name that rows and tables show.

    Attributes:
        method: None for an outside baseline.
        wanted: False where it came with a preset, and is left out if its networks are missing.
    """

    name: str
    method: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    wanted: bool = True

    def settings(self, base: Mapping[str, Any], temperature: float, seed: int) -> GenerationOptions:
        """The options of one answer: its own over those of the run that concern it.

        A size given here makes the tree a fixed one.

        Raises:
            ConfigError: a value out of bounds.
        """
        method, own = find_method(self.method or PLAIN), dict(self.options)
        if method.options.means_fixed(own):
            own.setdefault("tree", "fixed")
        dropped = {name for other in methods().values() for name in other.option_names}
        dropped -= set(method.option_names)
        if own.get("tree") == "auto":
            dropped |= set(method.options.sizes)
        elif own.get("tree") == "fixed":
            dropped.add("lookup")
        if method.name == PLAIN:  # no tree: its answers serve every one
            dropped |= {named.name for named in options_of(TreeOptions)}
        kept = {name: value for name, value in base.items() if name not in dropped}
        return GenerationOptions.from_names({**kept, **own, "temperature": temperature, "seed": seed})


def contenders(words: Sequence[str], base: Mapping[str, Any] | None = None) -> list[Contender]:
    """Contenders from what was typed; plain decoding, which all are compared with, comes first.

    Args:
        words: presets, methods (several with commas), or `METHOD:option=value,...`.
        base: generation options that all share; names say what they hold with these.

    Raises:
        ConfigError: an unknown method or option, a value of another type, or two contenders of one name.
    """
    found = {PLAIN: Contender(PLAIN, PLAIN)}
    for word in words:
        specs = [word] if ":" in word else [part for part in word.split(",") if part]
        for spec in specs:
            preset = _preset(spec)
            for text in (spec,) if preset is None else preset:
                _add(found, _parsed(text, base or {}, wanted=preset is None), base or {})
    return list(found.values())


def _preset(name: str) -> tuple[str, ...] | None:
    known = methods()
    ordered = tuple(dict.fromkeys((*(n for n in PAPER_ORDER if n in known), *known)))
    if name == "all":
        return tuple(f"{method}:tree=fixed" if known[method].is_sizable else method for method in ordered)
    if name == "auto":
        sized = [method for method in ordered if known[method].is_sizable]
        return tuple(f"{method}:tree=auto,lookup=true" for method in sized)
    preset = PRESETS.get(name)
    return preset and tuple(spec for spec in preset if spec.split(":")[0] in known)


def _add(found: dict[str, Contender], new: Contender, base: Mapping[str, Any]) -> None:
    old = found.setdefault(new.name, new)
    if old.method != new.method or old.settings(base, 0.0, 0) != new.settings(base, 0.0, 0):
        raise ConfigError(f"two contenders are called {new.name!r}; give one of them another name=.")
    if new.wanted and not old.wanted:
        found[new.name] = new


def _parsed(spec: str, base: Mapping[str, Any], *, wanted: bool) -> Contender:
    name, _, rest = spec.partition(":")
    if name not in methods():
        raise ConfigError(
            f"unknown method {name!r}; the methods are {', '.join(methods())}; "
            f"the presets are {', '.join(PRESETS)}."
        )
    method, options = find_method(name), dict[str, Any]()
    label: str | None = None
    for part in filter(None, rest.split(",")):
        key, equals, text = part.partition("=")
        if not equals:
            raise ConfigError(f"{part!r} in {spec!r} is not of the form option=value.")
        key = key.replace("-", "_")
        if key == "name":
            label = text
            continue
        if key in options:
            raise ConfigError(f"{spec!r} gives {key} twice.")
        options[key] = _typed(_known(key, method), text)
    if label == "":
        raise ConfigError(f"{spec!r} has an empty name.")
    contender = Contender(name, name, options, wanted)
    contender.settings({}, 0.0, 0).of_method(name)  # checked before anything is loaded
    return replace(contender, name=_named(contender, base) if label is None else label)


def _named(contender: Contender, base: Mapping[str, Any]) -> str:
    """What a contender holds."""
    name, own, method = contender.name, dict(contender.options), find_method(contender.name)
    tree = contender.settings(base, 0.0, 0).tree
    is_auto = tree.is_auto and method.is_sizable
    if is_auto or own.get("tree") == "fixed":
        own.pop("tree", None)
    if is_auto:
        own.pop("lookup", None)
        name += " auto + lookup" if tree.lookup and method.takes_lookup else " auto"
    return " ".join([name, *(f"{option}={str(value).lower()}" for option, value in own.items())])


def _known(key: str, method: Method) -> NamedOption:
    """An option that a contender may have: of the tree, or of its method."""
    known = {named.name: named for kind in (TreeOptions, method.options) for named in options_of(kind)}
    if key not in known:
        close = get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}."
        raise ConfigError(f"{key!r} is not an option of {method.name}; {hint}")
    return known[key]


def _typed(named: NamedOption, text: str) -> Any:
    """`text` as the first of an option's types that takes it."""
    if named.takes_none and text == "none":
        return None
    kinds = get_args(named.type) if get_origin(named.type) in (Union, types.UnionType) else (named.type,)
    for kind in sorted(kinds, key=lambda kind: kind is str):
        try:
            return _read(kind, text)
        except (ValueError, KeyError):
            continue
    none = " or none" if named.takes_none else ""
    raise ConfigError(f"{named.name} is {text!r}, but it must be {named.wanted}{none}.")


def _read(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}[text]
    if kind is bool:
        return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.lower()]
    if get_origin(kind) is tuple:
        return tuple(_read(get_args(kind)[0], part) for part in text.split("+"))
    return kind(text)
