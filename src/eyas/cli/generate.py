"""`eyas generate`: one prompt, one answer (or n), as text that streams or as one JSON document."""

import argparse
import json
import sys
from typing import Any

from eyas.api.answer import Answer
from eyas.api.llm import LLM
from eyas.api.prompts import Prompt
from eyas.cli.aliases import add_aliases, resolve_aliases
from eyas.cli.output import note, statistics_line, write, write_json
from eyas.cli.parser import Commands, add_generation_options, add_model_options, add_prompt_options
from eyas.cli.session import (
    announce_method,
    generation_settings,
    load_llm,
    note_control_names,
    read_prompt,
)
from eyas.models import Infill

INTERRUPTED = 130


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "generate", help="answer a prompt", description="Answer a prompt: text on stdout as it comes."
    )
    add_prompt_options(parser, instead_of="text")
    parser.add_argument(
        "--suffix",
        metavar="TEXT",
        help="write what stands between PROMPT and this text, with the model's fill-in-the-middle tokens",
    )
    add_model_options(parser)
    add_generation_options(parser)
    add_aliases(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer the prompt."""
    resolve_aliases(args)
    settings = generation_settings(args)
    text = read_prompt(args.prompt)
    prompt: Prompt = text if args.suffix is None else Infill(text, args.suffix)
    llm = load_llm(args)
    note_control_names(llm, text, settings)
    if args.json:
        answer = llm.generate(prompt, **settings)
        announce_method(args, llm)
        write_json(answer.to_dict())
        _report(answer)
        return 0
    if settings.get("n", 1) > 1:
        answer = llm.generate(prompt, **settings)
        announce_method(args, llm)
        for index, choice in enumerate(answer.choices, start=1):
            write(f"--- answer {index} of {len(answer.choices)} ---\n{choice.text}\n")
        _report(answer)
        _print_logprobs(llm, answer)
        return 0
    return _stream(args, llm, prompt, settings)


def _stream(args: argparse.Namespace, llm: LLM, prompt: Prompt, settings: dict[str, Any]) -> int:
    stream = llm.stream(prompt, **settings)
    try:
        for index, piece in enumerate(stream):
            if not index:
                announce_method(args, llm)
            write(piece.text)
    except KeyboardInterrupt:
        stream.close()
        write("\n")
        if stream.run is not None:
            note(f"interrupted after {statistics_line([stream.run.stats()], stream.config)}")
        return INTERRUPTED
    write("\n")
    _report(stream.answer)
    _print_logprobs(llm, stream.answer)
    return 0


def _report(answer: Answer) -> None:
    rows = [choice.stats for choice in answer.choices or (answer,)]
    note(statistics_line(rows, answer.config))


def _print_logprobs(llm: LLM, answer: Answer) -> None:
    """A table on stderr where it was asked for: each token's log-probability, then the best alternatives."""
    for row in (row for choice in answer.choices or (answer,) for row in choice.logprobs or ()):
        best = "  ".join(f"{_quoted(llm, token)} {value:.3f}" for token, value in row["top"])
        print(f"{row['logprob']:9.3f}  {_quoted(llm, row['token_id'])}  | {best}", file=sys.stderr)


def _quoted(llm: LLM, token_id: int) -> str:
    return json.dumps(llm.tokenizer.token_text(token_id), ensure_ascii=False)
