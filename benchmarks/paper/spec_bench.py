"""Answers in Spec-Bench's own format, so that its `speed.py` reads them.

One file for each set, contender and temperature, a line for each question: `choices[0]` holds, turn by turn,
texts, cycles, new tokens and seconds (prefill included, as Spec-Bench's clock has it), and `accept_lengths`
over all cycles. Rows keep how many cycles accepted how much, not in which order, so these are sorted; their
mean is what is read.
"""

import json
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from eyas.bench import statistics as st
from eyas.bench.files import make_folder, write_whole
from eyas.bench.results import Results
from eyas.bench.statistics import Sample
from eyas.errors import DataError


def write_spec_bench(results: Results, folder: Path) -> list[Path]:
    """Write the files; returns them.

    Raises:
        DataError: nothing was timed.
        ConfigError: the folder cannot be made.
    """
    written = []
    for set_name, name, temperature in product(results.sets, results.methods, results.temperatures):
        lines = _lines(results, set_name, name, temperature)
        if lines:
            path = folder / set_name / f"{name}-temperature-{temperature:g}.jsonl".replace(":", "-")
            make_folder(path.parent)
            write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            written.append(path)
    if not written:
        raise DataError(f"{results.path} holds no timed answers; run with --repeats 1 or more.")
    return written


def accept_lengths(stats: Any) -> list[int]:
    """Tokens of each cycle, bonus included, longest first."""
    reached = [stats["cycles"], *stats["accepted_by_depth"], 0]
    lengths = [
        depth + 1 for depth, (here, deeper) in enumerate(pairwise(reached)) for _ in range(here - deeper)
    ]
    return lengths[::-1]


def _lines(results: Results, set_name: str, name: str, temperature: float) -> list[dict[str, Any]]:
    """A line for each question with a time; of several seeds the first counts."""
    found = st.of_set(st.samples(results, name, temperature), set_name)
    questions: dict[st.Question, list[Sample]] = {}
    for sample in found.values():
        held = questions.setdefault(sample.question, [])
        if sample.decode and (not held or held[0].row["seed"] == sample.row["seed"]):
            held.append(sample)
    return [_line(results, name, turns) for turns in questions.values() if turns]


def _line(results: Results, name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    turns = sorted(samples, key=lambda sample: sample.row["turn"])
    row = turns[0].row
    return {
        "question_id": row["question_id"],
        "category": row["category"],
        "answer_id": row["key"],
        "model_id": name,
        "choices": [
            {
                "index": 0,
                "turns": [results.answer(sample.row)[1] for sample in turns],
                "decoding_steps": [sample.stats["cycles"] for sample in turns],
                "new_tokens": [sample.stats["new_tokens"] for sample in turns],
                "wall_time": [
                    statistics.median(sample.decode) + statistics.median(sample.prefill) for sample in turns
                ],
                "accept_lengths": [length for sample in turns for length in accept_lengths(sample.stats)],
            }
        ],
        "tstamp": time.time(),
    }
