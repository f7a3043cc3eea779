"""What the contract is tested on: every registered method, with each of its networks and options."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from eyas.drafters.registry import methods
from eyas.engine.interfaces import DraftFiles, DraftOptions
from eyas.runtimes import load_runtime
from tiny import NETWORKS

# Sizes have no list of choices to take from; these are small enough to meet every edge.
SIZES: dict[str, list[dict[str, Any]]] = {
    "lookahead": [
        {"lookahead_window": 1, "lookahead_level": 3, "lookahead_guesses": 1},
        {"lookahead_window": 3, "lookahead_level": 4, "lookahead_guesses": 2},
    ],
    "hydra": [{"hydra_draft_tokens": 1}, {"hydra_draft_tokens": 12}],
    "medusa": [{"medusa_draft_tokens": 1}, {"medusa_draft_tokens": 12}],
    "pld": [
        {"pld_max_ngram": 1, "pld_tokens": 1},
        {"pld_rule": "reference", "pld_max_ngram": 1, "pld_tokens": 2},
    ],
    "sps": [{"sps_length": "confidence"}, {"sps_length": 1}, {"sps_length": "9"}],
}


@dataclass(frozen=True)
class Case:
    """A method with one of its networks and with options of its own."""

    method: str
    networks: str | None = None  # a name in NETWORKS[kind]; None where it needs none
    given: tuple[tuple[str, Any], ...] = ()

    @property
    def options(self) -> DraftOptions:
        return methods()[self.method].options(**dict(self.given))

    def __str__(self):
        parts = [self.method, self.networks, *(f"{name}={value}" for name, value in self.given)]
        return "-".join(part for part in parts if part)

    def load(self, runtime, directory):
        """Its drafter on a runtime; networks are written below `directory`."""
        method = methods()[self.method]
        target = runtime.target
        files = DraftFiles(
            head=lambda: NETWORKS[method.head][self.networks](directory / method.head / self.networks),
            model=lambda path: load_runtime(
                target.runtime, path, name="draft", dtype=target.dtype, threads=1
            ),
        )
        return method.load(runtime, files)


def default_cases() -> list[Case]:
    """Every method with its default options, on each of its networks."""
    return [Case(name, networks) for name, method in methods().items() for networks in networks_of(method)]


def option_cases() -> list[Case]:
    """Every method with each choice that is not a default, and with unusual sizes."""
    found = []
    for name, method in methods().items():
        choices = [{key: value} for key, value in _choices(method.options)] + SIZES.get(name, [])
        found += [Case(name, networks_of(method)[0], tuple(given.items())) for given in choices]
    return found


def networks_of(method) -> list[str | None]:
    return [None] if method.head is None else list(NETWORKS.get(method.head, {"(no tiny networks)": None}))


def each(found: list[Case], lossless: set[str]) -> Any:
    """Those of `found` that keep one of these promises, as a parameter.

    A method whose networks nobody writes is skipped by name.
    """
    params = []
    for case in found:
        kind = methods()[case.method].head
        missing = pytest.mark.skip(reason=f"tests/tiny.py writes no networks of kind {kind!r}")
        marks = [] if kind is None or kind in NETWORKS else [missing]
        if case.options.rule.lossless in lossless:
            params.append(pytest.param(case, marks=marks, id=str(case)))
    return pytest.mark.parametrize("case", params)


def _choices(kind: type[DraftOptions]) -> list[tuple[str, Any]]:
    """Each value of a Literal or a switch that is not its default."""
    hints, defaults = get_type_hints(kind), kind()
    return [
        (item.name, value)
        for item in fields(kind)
        for value in _values(hints[item.name])
        if value != getattr(defaults, item.name)
    ]


def _values(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return (False, True) if hint is bool else ()
