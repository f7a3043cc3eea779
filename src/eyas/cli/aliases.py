"""Flags of EAGLE and SGLang, with their meaning: each resolves to one of ours and says so.

EAGLE counts the root among its tokens and its `--depth 5` is six levels, hence `--ea-depth`; SGLang's number
of steps is the number of levels, and its number of draft tokens counts the root.

Switches of our methods may have a second, shorter name too.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from eyas.cli.output import note
from eyas.cli.parser import Parser, flag
from eyas.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Alias:
    """Another system's flag for `name`; `shift` is what is added to its value."""

    flag: str
    system: str
    name: str
    shift: int = 0

    @property
    def dest(self) -> str:
        """Where argparse keeps its value."""
        return "alias_" + self.flag.strip("-").replace("-", "_")


ALIASES = (
    Alias("--total-token", "EAGLE", "draft_tokens", -1),
    Alias("--ea-depth", "EAGLE", "depth", +1),
    Alias("--ea-top-k", "EAGLE", "tree_top_k"),
    Alias("--speculative-num-steps", "SGLang", "depth"),
    Alias("--speculative-eagle-topk", "SGLang", "tree_top_k"),
    Alias("--speculative-num-draft-tokens", "SGLang", "draft_tokens", -1),
)

SWITCHES = {"--lossy-typical": "medusa_lossy_typical"}


def add_aliases(parser: Parser) -> None:
    """Accept the flags of other systems."""
    group = parser.add_argument_group("options of other systems")
    for alias in ALIASES:
        sign = f" {'+' if alias.shift > 0 else '-'} {abs(alias.shift)}" if alias.shift else ""
        action = group.add_argument(
            alias.flag,
            dest=alias.dest,
            type=int,
            metavar="N",
            default=argparse.SUPPRESS,
            help=f"{alias.system}'s; {flag(alias.name)} N{sign}",
        )
        parser.set_rare(action)
    for switch, name in SWITCHES.items():
        action = group.add_argument(
            switch, dest=name, action="store_true", default=argparse.SUPPRESS, help=f"short for {flag(name)}"
        )
        parser.set_rare(action)


def resolve_aliases(args: argparse.Namespace, say: Callable[[str], None] = note) -> None:
    """Turn the aliases in `args` into our options, and say what they became.

    Raises:
        ConfigError: an option was given twice, under two names.
    """
    under = {alias.name: flag(alias.name) for alias in ALIASES if hasattr(args, alias.name)}
    for alias in ALIASES:
        if not hasattr(args, alias.dest):
            continue
        if alias.name in under:
            raise ConfigError(f"{alias.flag} and {under[alias.name]} set the same option; give one of them.")
        under[alias.name] = alias.flag
        value = getattr(args, alias.dest)
        setattr(args, alias.name, value + alias.shift)
        say(f"{alias.flag} {value} is {flag(alias.name)} {value + alias.shift}")
