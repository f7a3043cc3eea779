"""The methods by name: one decorator makes a drafter known to every command and to the contract tests."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Self, TypeVar, get_type_hints

from eyas.drafters.policy.session import TreePolicy
from eyas.drafters.ranked import ContinuationSession, RankedSession, SizableSession
from eyas.engine.interfaces import Drafter, DraftFiles, DraftOptions, Runtime
from eyas.engine.tree_options import TreeMode, TreeOptions
from eyas.engine.verification import Lossless
from eyas.errors import ConfigError

# Where a method's default may be cost-aware trees: to measure such a runtime takes a few seconds at most, and
# its costs stay as they were measured.
AUTO_TREE_RUNTIMES: frozenset[str] = frozenset({"native"})


@dataclass(frozen=True)
class Method:
    """A registered drafter, and what the layers above need to know before they load it.

    Attributes:
        head: kind of the draft networks that it loads (`eyas.drafters.find`); None for none.
        default_tree: its tree policy where none is asked for, on runtimes whose costs can be relied on.
    """

    name: str
    drafter: type[Drafter]
    options: type[DraftOptions] = DraftOptions
    head: str | None = None
    default_tree: TreeMode = "fixed"

    def load(self, runtime: Runtime, files: DraftFiles) -> TreePolicy:
        """Its drafter on a runtime, under the tree policy of each request.

        Raises:
            CheckpointError, ConfigError: what it needs is missing or does not fit.
        """
        return TreePolicy(self.drafter.load(runtime, files), self.name)

    def default_tree_on(self, runtime: str) -> TreeMode:
        """Its tree policy on a runtime where none is asked for."""
        return self.default_tree if runtime in AUTO_TREE_RUNTIMES else "fixed"

    @property
    def is_sizable(self) -> bool:
        """Whether tree="auto" can size its trees."""
        return self._opens(SizableSession)

    @property
    def takes_lookup(self) -> bool:
        """Whether tree="auto" adds prompt lookup: not to a continuation of the method's own."""
        return self._opens(RankedSession)

    def takes_prediction(self, tree: TreeOptions) -> bool:
        """Whether drafts are looked up in a prediction of the answer too."""
        return self._opens(ContinuationSession) or (tree.is_auto and tree.lookup and self.takes_lookup)

    def _opens(self, kind: type) -> bool:
        """Whether its sessions are of a kind: the type that `open` is declared to return says it."""
        session = get_type_hints(self.drafter.open).get("return")
        session = self.drafter if session is Self else session
        return isinstance(session, type) and issubclass(session, kind)

    @property
    def summary(self) -> str:
        """First line of its description."""
        return (self.drafter.__doc__ or "").split("\n")[0]

    @cached_property
    def lossless(self) -> Lossless:
        """What it promises with its default options."""
        return self.options().rule.lossless

    @cached_property
    def option_names(self) -> tuple[str, ...]:
        """Names of its own options."""
        return tuple(item.name for item in fields(self.options))


_METHODS: dict[str, Method] = {}
DrafterClass = TypeVar("DrafterClass", bound=type[Drafter])


def register_drafter(
    name: str,
    *,
    options: type[DraftOptions] = DraftOptions,
    head: str | None = None,
    default_tree: TreeMode = "fixed",
) -> Callable[[DrafterClass], DrafterClass]:
    """Make a drafter known by `name`: to generate, bench, serve, --help and the contract tests."""

    def register(drafter: DrafterClass) -> DrafterClass:
        assert name not in _METHODS, f"two drafters are called {name!r}"
        _METHODS[name] = Method(name, drafter, options, head, default_tree)
        return drafter

    return register


def methods() -> dict[str, Method]:
    """All methods by name: every file of `eyas.drafters`, then what entry points of packages name."""
    _discover()
    return dict(sorted(_METHODS.items()))


def option_sets() -> dict[type[DraftOptions], list[str]]:
    """The sets of options that methods have of their own, and the names of the methods that share each."""
    found: dict[type[DraftOptions], list[str]] = {}
    for name, method in methods().items():
        if method.option_names:
            found.setdefault(method.options, []).append(name)
    return found


@cache
def _discover() -> None:
    """Import what registers methods, once: looking through all installed packages takes a while."""
    package = import_module("eyas.drafters")
    for module in sorted(module.name for module in iter_modules(package.__path__)):
        import_module(f"eyas.drafters.{module}")
    for group in ("eyas.drafters", "eyas.heads"):
        for entry_point in entry_points(group=group):
            entry_point.load()


def find_method(name: str) -> Method:
    """The method called `name`; ConfigError names those that exist."""
    known = methods()
    if name not in known:
        raise ConfigError(f"unknown method {name!r}; the methods are {', '.join(known)}.")
    return known[name]
