"""Options are generated from dataclass fields: complete, with one default, and with others' aliases."""

import argparse
import re
import subprocess
import sys
from dataclasses import fields
from inspect import signature

import pytest

from eyas.api.llm import load
from eyas.api.options import GROUPS, GenerationOptions, option_names
from eyas.cli.aliases import ALIASES, add_aliases, resolve_aliases
from eyas.cli.app import COMMANDS, build_parser, main
from eyas.cli.parser import Parser, add_generation_options, add_model_options, given
from eyas.config import options_of
from eyas.drafters.eagle2 import Eagle2Options
from eyas.drafters.heads import trained_kinds
from eyas.drafters.registry import methods
from eyas.errors import ConfigError
from eyas.serve.settings import ServeSettings
from eyas.training.acceptance_map import WatchConfig
from eyas.training.config import DistilConfig
from eyas.training.finish import trainer_of


def parser():
    made = Parser(prog="eyas test")
    add_model_options(made)
    add_generation_options(made)
    add_aliases(made)
    return made


def parse(*argv):
    args = parser().parse_args(list(argv))
    said = []
    resolve_aliases(args, said.append)
    return given(args, option_names()), said


SETS = [
    *GROUPS.values(),
    *(method.options for method in methods().values()),
    *(DistilConfig, WatchConfig, ServeSettings),
    *(trainer_of(kind).recipe for kind in trained_kinds().values()),
]


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_set_of_options_is_an_option_with_a_help_text(kind):
    names = [field.name for field in fields(kind) if field.name != "extra"]  # those that others register
    assert [named.name for named in options_of(kind)] == names
    assert all(named.option.help for named in options_of(kind))


def test_every_argument_of_load_is_an_option():
    assert [*(named.name for named in options_of(load)), "progress"] == list(signature(load).parameters)


def test_options_of_a_method_begin_with_its_name():
    for name, method in methods().items():
        if method.options is not Eagle2Options:  # which have the paper's names
            assert all(option.startswith(f"{name}_") for option in method.option_names)


def leaf_parsers(parser, words=()):
    """Every command's parser, with its words."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, child in action.choices.items():
            yield from leaf_parsers(child, (*words, name))


def test_every_argument_of_every_command_explains_itself():
    for words, command in leaf_parsers(build_parser()):
        assert command.description, words
        for action in command._actions:
            assert action.help, (words, action.option_strings or action.dest)
        command.format_help()


def test_a_command_is_put_together_without_the_others():
    whole = dict(leaf_parsers(build_parser()))
    assert {words[0] for words in whole} == set(COMMANDS)
    alone = {words: parser for name in COMMANDS for words, parser in leaf_parsers(build_parser(name))}
    assert {words: parser.format_help() for words, parser in alone.items()} == {
        words: parser.format_help() for words, parser in whole.items()
    }
    code = (
        "import sys; from eyas.cli.app import build_parser; build_parser('generate');"
        "print([m for m in sys.modules if m.startswith(('eyas.bench', 'eyas.training', 'eyas.serve'))])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_nothing_given_leaves_every_default_to_the_fields():
    assert parse() == ({}, [])


def test_values_arrive_as_python_wants_them():
    options, _ = parse(
        *("--temperature", "0.5", "--top-k", "3", "--logit-bias", "5=-1.5", "--logit-bias", "7=2"),
        *("--stop", "a", "--stop", "b c", "--stop-token-ids", "1", "2,3", "--ignore-eos"),
        *("--draft-sampling", "top-k", "--logprobs", "0", "--presence-penalty", "-0.5", "--raw"),
    )
    assert options == {
        "temperature": 0.5,
        "top_k": 3,
        "logit_bias": {5: -1.5, 7: 2.0},
        "stop": ("a", "b c"),
        "stop_token_ids": (1, 2, 3),
        "ignore_eos": True,
        "draft_sampling": "top-k",
        "logprobs": 0,
        "presence_penalty": -0.5,
        "raw": True,
    }
    assert GenerationOptions.from_names(options).sampling.top_k == 3


@pytest.mark.parametrize(
    ("argv", "options", "said"),
    [
        (["--total-token", "60"], {"draft_tokens": 59}, "--total-token 60 is --draft-tokens 59"),
        (["--ea-depth", "5"], {"depth": 6}, "--ea-depth 5 is --depth 6"),
        (["--ea-top-k", "8"], {"tree_top_k": 8}, "--ea-top-k 8 is --tree-top-k 8"),
        (["--speculative-num-steps", "5"], {"depth": 5}, "--speculative-num-steps 5 is --depth 5"),
        (
            ["--speculative-eagle-topk", "4"],
            {"tree_top_k": 4},
            "--speculative-eagle-topk 4 is --tree-top-k 4",
        ),
        (
            ["--speculative-num-draft-tokens", "16"],
            {"draft_tokens": 15},
            "--speculative-num-draft-tokens 16 is --draft-tokens 15",
        ),
    ],
)
def test_other_systems_flags_have_their_meaning(argv, options, said):
    assert parse(*argv) == (options, [said])


def test_a_switch_may_have_a_shorter_name():
    assert parse("--lossy-typical") == ({"medusa_lossy_typical": True}, [])
    assert parse("--medusa-lossy-typical") == parse("--lossy-typical")


def test_a_flag_and_its_alias_exclude_each_other():
    for alias in ALIASES:
        own = "--" + alias.name.replace("_", "-")
        with pytest.raises(ConfigError, match=f"{alias.flag} and {own} set the same option"):
            parse(alias.flag, "5", own, "5")
    with pytest.raises(ConfigError, match="set the same option"):
        parse("--total-token", "5", "--speculative-num-draft-tokens", "5")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seed", "x"], "--seed: invalid int value: 'x'"),
        (["--logit-bias", "5"], "'5' is not ID=X"),
        (["--logit-bias", "a=1"], "'a=1' is not ID=X"),
        (["--stop-token-ids", "1", "x"], "'x' is not a token id"),
        (["--draft-sampling", "other"], "invalid choice: 'other'; choose from coupled, top-k"),
        (["--temp", "1"], "unrecognized arguments: --temp"),
        (["--top-p"], "--top-p: expected one argument"),
    ],
)
def test_what_cannot_be_read_is_one_line(argv, message):
    with pytest.raises(ConfigError) as caught:
        parser().parse_args(argv)
    assert message in str(caught.value)
    assert "--help" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_shows_the_common_options_and_names_the_way_to_the_others(capsys):
    short, whole = (command_help(capsys, "generate", word) for word in ("--help", "--help-all"))
    assert "--temperature" in short
    assert "--system" in short
    rare = ["--presence-penalty", "--score-precision", "--pld-tokens", "--total-token", "--draft-dtype"]
    assert not [name for name in rare if name in short]
    assert all(name in whole for name in rare)
    listed = [line for line in short.splitlines() if line.startswith("  --")]
    assert 18 <= len(listed) <= 24
    hidden = len(re.findall(r"^  --", whole, re.M)) - len(listed)
    assert short.endswith(f"{hidden} more options: eyas generate --help-all\n")
    assert short.startswith("usage: eyas generate [options] [PROMPT]\n")


def test_a_command_whose_options_are_all_common_has_one_help(capsys):
    short, whole = (command_help(capsys, "models", word) for word in ("--help", "--help-all"))
    assert short == whole
    assert "help-all" not in short


def test_what_has_to_be_given_stands_in_the_usage(capsys):
    text = command_help(capsys, "train", "distil", "--help")
    assert text.startswith("usage: eyas train distil --prompts FILE --out FILE [options]\n")


def command_help(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["generate", "x", "--temprature", "1"], "did you mean --temperature?"),
        (["generate", "x", "--temp=1"], "did you mean --temperature?"),
        (["generate", "x", "--maxnewtokens", "1"], "did you mean --max-new-tokens?"),
        (["generate", "x", "--tree", "atuo"], "did you mean 'auto'?"),
        (["generat", "x"], "did you mean 'generate'?"),
        (["bench", "rum"], "did you mean 'run'?"),
    ],
)
def test_what_is_mistyped_is_told_what_comes_closest(capsys, argv, hint):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


def test_methods_come_from_the_registry():
    text = build_parser().format_help()
    for name, method in methods().items():
        [line] = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert f"lossless: {method.lossless}" in line
    assert all(name in parser().format_help() for name in methods())
