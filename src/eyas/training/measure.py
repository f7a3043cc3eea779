"""A head's card: simulated acceptance on held-out answers, and where the head comes from."""

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import eyas
from eyas.engine.interfaces import Drafter, DraftOptions
from eyas.engine.metrics import GenerationStats, is_looping, mean_acceptance_length
from eyas.engine.tree_options import TreeOptions
from eyas.models import Progress, silent
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.config import Recipe
from eyas.training.data import Sample
from eyas.training.features import FeatureSource
from eyas.training.simulate import simulate

UNCOUPLED = TreeOptions(draft_sampling="top-k")
EVALUATED = "evaluated"  # folder in that of a run
SHORTEST = 8  # tokens or features of an answer that is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How a drafter is measured."""

    name: str
    tree: TreeOptions = field(default_factory=TreeOptions)
    options: DraftOptions | None = None  # of its own kind
    is_sampled: bool = False  # only where temperature > 0


def measure(
    runtime: TorchDraftRuntime,
    drafter: Drafter,
    cases: Sequence[Case],
    held_out: list[Sample],
    features: FeatureSource,
    progress: Progress = silent,
    limit: int = 24,
) -> dict[str, Any]:
    """Simulated acceptance lengths on held-out answers, by temperature and case, with and without loops.

    `limit` answers of each temperature, and the beginning of each: a cycle costs a torch head as much as
    training on a hundred rows.
    """
    results: dict[str, Any] = {}
    for temperature in _temperatures(held_out):
        chosen = _chosen(held_out, temperature, features.max_length)[:limit]
        for case in cases:
            if case.is_sampled and not temperature:
                continue
            rows: list[tuple[Sample, GenerationStats]] = []
            for done, sample in enumerate(chosen):
                progress(f"simulating T={temperature:g}, {case.name}", done, len(chosen))
                rows.append((sample, _simulate(runtime, drafter, case, sample, features, 160)))
            results[f"T={temperature:g}, {case.name}"] = _summary(rows)
    return results


def evaluation_folder(work: Path) -> Path:
    """Where a run writes the network that it measures on the way; made if necessary."""
    folder = work / EVALUATED
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def glance(
    runtime: TorchDraftRuntime,
    drafter: Drafter,
    case: Case,
    held_out: list[Sample],
    features: FeatureSource,
    limit: int = 12,
) -> dict[str, Any]:
    """Simulated acceptance length of one case on a few held-out answers, by temperature."""
    lengths: dict[str, Any] = {}
    for temperature in _temperatures(held_out):
        chosen = _chosen(held_out, temperature, features.max_length)[:limit]
        rows = [_simulate(runtime, drafter, case, sample, features, 64) for sample in chosen]
        lengths[f"T={temperature:g}"] = _rounded(mean_acceptance_length(rows))
    return lengths


def origin_of(recipe: Recipe, samples: list[Sample], seconds: float) -> dict[str, Any]:
    """Where a network comes from: recipe, answers, seconds of training steps, versions, command."""
    return {
        "recipe": asdict(recipe),
        "answers": len(samples),
        "answer_tokens": sum(len(sample.response_ids) for sample in samples),
        "training_seconds": round(seconds),
        "eyas": eyas.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": " ".join(sys.argv),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def add_provenance(folder: Path, **entries: Any) -> None:
    """Add to the provenance in a network's config.json."""
    path = folder / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["provenance"] |= entries
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _temperatures(samples: list[Sample]) -> list[float]:
    return sorted({sample.temperature for sample in samples})


def _chosen(samples: list[Sample], temperature: float, max_length: int) -> list[Sample]:
    return [
        s
        for s in samples
        if s.temperature == temperature and min(len(s), max_length) - len(s.prompt_ids) > SHORTEST
    ]


def _simulate(
    runtime: TorchDraftRuntime,
    drafter: Drafter,
    case: Case,
    sample: Sample,
    features: FeatureSource,
    most: int,
) -> GenerationStats:
    [feature] = features.get([sample])
    return simulate(
        runtime, drafter, _cut(sample, feature, most), feature, case.tree, case.options, features.taps
    )


def _cut(sample: Sample, feature: Tensor, most: int) -> Sample:
    """The part of a sample that has features, and of its answer the first `most` tokens."""
    room = min(most, len(feature) - len(sample.prompt_ids))
    return Sample(
        sample.id, sample.prompt_ids, sample.response_ids[:room], sample.temperature, sample.category
    )


def _summary(rows: list[tuple[Sample, GenerationStats]]) -> dict[str, Any]:
    calm = [stats for sample, stats in rows if not is_looping(sample.response_ids)]
    return {
        "acceptance_length": _rounded(mean_acceptance_length(stats for _, stats in rows)),
        "without_loops": _rounded(mean_acceptance_length(calm)),
        "answers": len(rows),
        "looping": len(rows) - len(calm),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(np.round(value, 3)), 3)
