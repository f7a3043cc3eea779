"""`eyas tree`: one cycle of a prompt, drawn."""

import argparse
from pathlib import Path
from typing import Any

from eyas.api.llm import LLM
from eyas.api.options import GenerationOptions
from eyas.bench.files import write_whole
from eyas.cli.aliases import add_aliases, resolve_aliases
from eyas.cli.drawing import DrawnCycle, draw_svg, draw_text, quote_token
from eyas.cli.output import note, write, write_json
from eyas.cli.parser import Commands, add_generation_options, add_model_options, add_prompt_options
from eyas.cli.session import announce_method, generation_settings, is_auto, load_llm, read_prompt
from eyas.drafters.eagle2 import Eagle2Options
from eyas.engine.verification import Cycle

NOT_HERE = ("n", "logprobs")
OWN_DEFAULTS = {"max_new_tokens": 64}  # enough for the first cycles, and small enough for any context


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "tree",
        help="one cycle: the drafted tree and what the target accepted",
        description="Draw one cycle: the drafted tree with values, what was kept and what was accepted.",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw into FILE instead of text on stdout")
    parser.add_argument(
        "--cycle", type=_positive, default=1, metavar="N", help="draw the Nth cycle (default: 1)"
    )
    add_prompt_options(parser, instead_of="text")
    add_model_options(parser)
    add_generation_options(parser, NOT_HERE, OWN_DEFAULTS)
    add_aliases(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw the cycle."""
    resolve_aliases(args)
    settings = generation_settings(args, **OWN_DEFAULTS)
    prompt = read_prompt(args.prompt)
    llm = load_llm(args)
    if is_auto(args) and llm.method == "pld":
        llm.find_head("eagle2").require()  # a tree is a head's; a chain is drawn where it is asked for
    options = llm.options({"tree": "fixed", **settings}).with_seed()
    cycle, tokens = _cycle(llm, prompt, options, args.cycle)
    announce_method(args, llm)
    if cycle is None:
        note(f"the answer ended before cycle {args.cycle}, so there is no tree; take another prompt")
        return 1
    drawn = _drawn(llm, cycle, tokens, options)
    if args.svg is not None:
        write_whole(args.svg, draw_svg(drawn))
        note(f"drew {args.svg}")
    if args.json:
        write_json(_document(cycle, drawn, llm.describe(options)))
    elif args.svg is None:
        write(draw_text(drawn))
    return 0


def _cycle(llm: LLM, prompt: str, options: GenerationOptions, number: int) -> tuple[Cycle | None, list[int]]:
    """The cycle and the answer's tokens before it; None where the answer ended earlier."""
    engine = llm.engine()
    run, _ = engine.start(llm.request(prompt, options))
    before = run.generated
    for _ in range(number):
        if run.is_finished:
            return None, before
        before = run.generated
        engine.step([run])
    return run.last_cycle, before


def _drawn(llm: LLM, cycle: Cycle, before: list[int], options: GenerationOptions) -> DrawnCycle:
    text = llm.tokenizer.token_text
    tree, accepted = cycle.tree, cycle.num_accepted
    said = quote_token(llm.tokenizer.decode(before))
    kept = f"{tree.num_draft_tokens} drafted"
    own = options.of_method(llm.method)
    if tree.best is not None and isinstance(own, Eagle2Options):
        kept = f"{tree.num_draft_tokens} of up to {own.num_candidates} candidates kept"
    gained = f"{accepted + 1} token{'s' if accepted else ''} from one pass of the target"
    return DrawnCycle(
        tree=tree,
        texts=[text(int(token)) for token in tree.token_ids],
        path=cycle.path,
        bonus=text(cycle.token_ids[-1]),
        title=f"after {said if len(said) <= 60 else '…' + said[-59:]}",
        summary=f"{kept}, {accepted} accepted: {gained}",
    )


def _document(cycle: Cycle, drawn: DrawnCycle, config: dict[str, Any]) -> dict[str, Any]:
    tree, accepted = cycle.tree, set(cycle.path)
    nodes = [
        {
            "token_id": int(tree.token_ids[node]),
            "text": drawn.texts[node],
            "parent": int(tree.parents[node]),
            "depth": int(tree.depths[node]),
            "log_value": float(tree.log_values[node]),
            "accepted": node in accepted,
        }
        for node in range(len(tree.token_ids))
    ]
    return {
        "nodes": nodes,
        "path": cycle.path,
        "token_ids": cycle.token_ids,
        "bonus": drawn.bonus,
        "summary": drawn.summary,
        "config": config,
    }


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1, the first cycle")
    return number
