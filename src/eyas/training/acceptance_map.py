"""Calibrates a head: how often are draft tokens of a confidence accepted?

A head drafts answers that it was not trained on, and the accepted tokens are counted. There is a map for each
way of choosing draft tokens, since confidence means something else in each: the best by logits for a greedy
target or for one that samples, and the best by logits plus the sampler's noise.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from eyas.api.llm import LLM
from eyas.api.options import GenerationOptions
from eyas.config import MAX_SEED, Option, Options
from eyas.drafters.acceptance import AcceptanceMap, Observation, observed
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree_options import DraftSampling, TreeOptions
from eyas.errors import CheckpointError, DataError
from eyas.models import Progress, silent
from eyas.training.prompts import Prompt

MODES: dict[str, tuple[float, DraftSampling]] = {  # name in the head's config -> temperature, sampling
    "greedy": (0.0, "top-k"),
    "coupled": (1.0, "coupled"),
    "top-k": (1.0, "top-k"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig(Options):
    """Options of a calibration. Its trees have a fixed size, so they need no map yet."""

    title: ClassVar[str] = "recipe"

    limit: Annotated[int, Option("prompts answered for each way of choosing draft tokens", at_least=1)] = 100
    max_new_tokens: Annotated[int, Option("tokens of an answer at most", at_least=1)] = 96
    draft_tokens: Annotated[int, Option("nodes of the trees that are watched", at_least=1)] = 31
    depth: Annotated[int, Option("levels of the trees that are watched", "D", at_least=1)] = 6
    seed: Annotated[int, Option("seed of the random draws", "S", at_least=0, at_most=MAX_SEED)] = 0


def fit_acceptance(
    llm: LLM, prompts: Sequence[Prompt], config: WatchConfig, progress: Progress = silent
) -> dict[str, AcceptanceMap]:
    """Maps by mode for the head that `llm` drafts with.

    Args:
        llm: loaded with a head of EAGLE-2 or EAGLE-3.
        prompts: of answers that were not trained on; the first `limit` are used.
        config: how much is drafted.
        progress: told after each answer.

    Raises:
        DataError: nothing was drafted.
    """
    maps = {}
    chosen = prompts[: config.limit]
    for at, (mode, (temperature, draft_sampling)) in enumerate(MODES.items()):
        seen: list[Observation] = []
        for number, prompt in enumerate(chosen):
            progress("watching drafts", at * len(chosen) + number, len(MODES) * len(chosen))
            options = GenerationOptions(
                sampling=SamplingConfig(temperature=temperature, seed=config.seed + number),
                stopping=StoppingConfig(max_new_tokens=config.max_new_tokens),
                tree=TreeOptions(draft_sampling=draft_sampling),
                drafting={"draft_tokens": config.draft_tokens, "depth": config.depth},
            )
            seen += _watch(llm, prompt, options)
        if not seen:
            raise DataError(
                f"the answers to {len(chosen)} prompts showed no drafts ({mode}); the head stays as it is; "
                "give other prompts."
            )
        maps[mode] = AcceptanceMap.fit(seen)
    return maps


def _watch(llm: LLM, prompt: Prompt, options: GenerationOptions) -> Iterator[Observation]:
    engine = llm.engine()
    run, _ = engine.start(llm.request(prompt.token_ids(llm.tokenizer), options))
    while not run.is_finished:
        engine.step([run])
        assert run.last_cycle is not None, "a cycle has passed"
        yield from observed(run.last_cycle)


def store_maps(head: Path, maps: dict[str, AcceptanceMap]) -> None:
    """Write the maps into a head's config.json, in place of those there; whole or not at all.

    Raises:
        CheckpointError: config.json cannot be read or written.
    """
    path = head / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config["acceptance_map"] = {
            mode: {"confidence": list(fit.confidence), "rate_by_depth": [list(r) for r in fit.rate_by_depth]}
            for mode, fit in maps.items()
        }
        new = path.with_suffix(".new")
        new.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        new.replace(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be rewritten: {error}; give a head's directory of yours."
        ) from None
