"""The description of an option: what it accepts, what it says, and where it is found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.config import Option, Options, options_of
from eyas.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy(Options):
    share: Annotated[float, Option("a share", above=0, at_most=1, off=1)] = 1.0
    count: Annotated[int | None, Option("a count", at_least=2)] = None
    mode: Annotated[Literal["a", "b"], Option("a mode")] = "a"
    flag: Annotated[bool, Option("a flag")] = False
    names: Annotated[tuple[str, ...], Option("names")] = ()
    rates: Annotated[tuple[float, ...], Option("rates", at_least=0)] = (0.5,)
    weights: Annotated[Mapping[int, float] | None, Option("weights", at_least=-1, at_most=1)] = None
    either: Annotated[str | int, Option("a word or a number")] = "x"
    hidden: int = 0  # no option


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Toy):
    share: float = 0.5
    flag: Annotated[bool, Option("another text")] = True

    def check(self):
        if self.flag and self.mode == "b":
            raise ConfigError("flag and mode 'b' exclude each other.")


@given(st.one_of(st.floats(), st.integers(-3, 3), st.booleans(), st.text(max_size=2), st.none()))
def test_a_number_is_taken_exactly_where_its_limits_hold(value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value <= 1:
        assert Toy(share=value).share == value
    else:
        with pytest.raises(ConfigError) as caught:
            Toy(share=value)
        assert (
            str(caught.value)
            == f"share is {value!r}, but it must be a number above 0 and at most 1; 1 is off."
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 1}, "count is 1, but it must be a whole number of at least 2."),
        ({"count": 2.0}, "count is 2.0, but it must be a whole number of at least 2."),
        ({"count": True}, "count is True, but it must be a whole number of at least 2."),
        ({"mode": "c"}, "mode is 'c', but it must be 'a' or 'b'."),
        ({"mode": None}, "mode is None, but it must be 'a' or 'b'."),
        ({"flag": 1}, "flag is 1, but it must be True or False."),
        ({"names": "abc"}, "names is 'abc', but it must be a list of strings."),
        ({"rates": (0.5, -1)}, "rates is (0.5, -1), but it must be a list of numbers of at least 0."),
        ({"rates": (float("nan"),)}, "rates is (nan,), but it must be a list of numbers of at least 0."),
        (
            {"weights": {1: 0.5, 2: 3}},
            "weights has 2=3, but it must be a mapping of token ids to numbers from -1 to 1.",
        ),
        ({"either": 1.5}, "either is 1.5, but it must be a string or a whole number."),
    ],
    ids=str,
)
def test_a_value_is_refused_in_one_line(given, message):
    with pytest.raises(ConfigError) as caught:
        Toy(**given)
    assert str(caught.value) == message


def test_what_fits_is_taken():
    made = Toy(count=2, mode="b", names=["a"], rates=(0, 2), weights={3: -1}, either=4, hidden="anything")
    assert (made.count, made.mode, made.weights) == (2, "b", {3: -1})


def test_a_derived_set_keeps_the_option_of_a_field_that_it_repeats():
    base, derived = ({named.name: named for named in options_of(kind)} for kind in (Toy, Derived))
    assert list(derived) == list(base) == [name for name in base if name != "hidden"]
    assert derived["share"].option is base["share"].option
    assert (base["share"].default, derived["share"].default) == (1.0, 0.5)
    assert derived["flag"].option.help == "another text"
    with pytest.raises(ConfigError, match="share is 2"):
        Derived(share=2)
    with pytest.raises(ConfigError, match="exclude each other"):
        Derived(mode="b")


def test_a_functions_parameters_are_options_too():
    def load(path, *, size: Annotated[int | None, Option("a size", at_least=1)] = None, other: int = 0): ...

    [named] = options_of(load)
    assert (named.name, named.type, named.default, named.takes_none) == ("size", int, None, True)
    named.check(None)
    with pytest.raises(ConfigError, match="size is 0, but it must be a whole number of at least 1"):
        named.check(0)
