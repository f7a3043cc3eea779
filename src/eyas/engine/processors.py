"""Sampling options from outside: one function adds an option to Python, command line, HTTP and bench.

    @register_sampling_option
    def ban_odd(
        logits: Floats,
        generated: Sequence[int],
        *,
        ban_odd: Annotated[bool, Option("never sample a token with an odd id")] = False,
    ) -> Floats:
        if ban_odd:
            logits[1::2] = -np.inf
        return logits

Its keyword-only parameters are the options; their defaults switch it off. A package offers its functions by
the entry point `eyas.sampling`. They run in Python on every runtime, after all other processors, so the
native runtime copies the logits of each sampled token: exact, but slower. See docs/add-a-sampling-option.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

import numpy as np

from eyas.config import NamedOption, options_of
from eyas.engine.tree import Floats
from eyas.errors import ConfigError


@dataclass(frozen=True)
class Processor:
    """A registered function with its options.

    Attributes:
        function: `(logits (V,) float64, generated ids, **options) -> (V,)`. It has to be pure: the result
            follows from the arguments alone. Logits of tokens that are out already are -inf.
        options: its keyword-only parameters.
    """

    function: Callable[..., Floats]
    options: tuple[NamedOption, ...]

    def chosen(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """The values of its options; None if all of them are the defaults, which switch it off."""
        values = {named.name: given.get(named.name, named.default) for named in self.options}
        return None if all(values[named.name] == named.default for named in self.options) else values

    def apply(self, logits: Floats, generated: Sequence[int], values: Mapping[str, Any]) -> Floats:
        """The processed logits (V,).

        Raises:
            ConfigError: it returned something other than (V,) numbers below infinity.
        """
        result = np.asarray(self.function(logits.copy(), generated, **values), dtype=np.float64)
        if result.shape != logits.shape or not (result < np.inf).all():
            raise ConfigError(
                f"the sampling option {self.function.__name__} returned no logits; it must return "
                f"{len(logits)} numbers, none of them NaN or +inf."
            )
        return result


_PROCESSORS: dict[str, Processor] = {}
Function = TypeVar("Function", bound=Callable[..., Floats])


def register_sampling_option(function: Function) -> Function:
    """Make the keyword-only parameters of a function sampling options; each is annotated with an `Option`."""
    options = options_of(function)
    assert options, f"{function.__name__} has no parameter that is annotated with an Option"
    assert function.__name__ not in _PROCESSORS, f"two sampling options are called {function.__name__!r}"
    _PROCESSORS[function.__name__] = Processor(function, options)
    return function


def processors() -> tuple[Processor, ...]:
    """All registered processors, in the order of their registration: that of their use."""
    _discover()
    return tuple(_PROCESSORS.values())


def processor_options() -> dict[str, NamedOption]:
    """The options of all processors by name."""
    return {named.name: named for processor in processors() for named in processor.options}


@cache
def _discover() -> None:
    """Load the entry points, once: looking through all installed packages takes a while."""
    for entry_point in entry_points(group="eyas.sampling"):
        entry_point.load()
