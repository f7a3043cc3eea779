"""From a trained network to a head on disk: coupled scales, held-out acceptance, provenance."""

import json
import platform
import sys
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import eyas
from eyas.config import TreeConfig
from eyas.drafters.eagle2 import Eagle2
from eyas.interfaces import DraftFiles
from eyas.metrics import GenerationStats, is_looping, mean_acceptance_length
from eyas.models import Progress, installing, locked, read_eagle_checkpoint, silent, write_eagle_checkpoint
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.training.config import HeadConfig
from eyas.training.coupling import fit_coupled_scale
from eyas.training.data import Sample, split_held_out
from eyas.training.features import FeatureSource
from eyas.training.head import HeadTrainer
from eyas.training.network import HeadNetwork
from eyas.training.simulate import simulate
from eyas.training.vocabulary import frequent_tokens
from eyas.tree import Ints

# Trees whose acceptance a head's card states: rows of the target's pass, root included.
TREES = {
    "60 rows": TreeConfig(),
    "16 rows": TreeConfig(draft_tokens=15),
    "8 rows": TreeConfig(draft_tokens=7, depth=3),
}


def write_head(
    place: Path,
    runtime: TorchRuntime,
    network: HeadNetwork,
    draft_ids: Ints | None,
    *,
    recipe: HeadConfig,
    samples: list[Sample],
    held_out: list[Sample],
    features: FeatureSource,
    provenance: dict[str, Any],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit scales, write the head into `place` (whole or not at all), and measure it by simulation.

    Returns:
        The simulated acceptance lengths, which also stand in config.json.
    """
    scale = fit_coupled_scale(runtime, network, features, samples[:400], draft_ids)
    config = head_config(runtime, network, scale)
    config["provenance"] = provenance | {
        "recipe": asdict(recipe),
        "answers": len(samples),
        "answer_tokens": sum(len(sample.response_ids) for sample in samples),
        "eyas": eyas.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": " ".join(sys.argv),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with locked(place), installing(place) as folder:
        write_eagle_checkpoint(folder, network.to_weights(), config, draft_ids)
        measured = measure(runtime, folder, held_out, features, progress)
        document = json.loads((folder / "config.json").read_text())
        document["provenance"]["simulated_acceptance_length"] = measured
        (folder / "config.json").write_text(json.dumps(document, indent=2) + "\n")
    return measured


def head_config(
    runtime: TorchRuntime, network: HeadNetwork, coupled_scale: tuple[float, ...]
) -> dict[str, Any]:
    """config.json of a head: a Llama config, and what ties it to its target."""
    stack = network.stack.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": stack.hidden_size,
        "intermediate_size": stack.intermediate_size,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.num_heads,
        "num_key_value_heads": stack.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": stack.rms_norm_eps,
        "rope_theta": stack.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": runtime.target.context_limit,
        "vocab_size": runtime.target.vocab_size,
        "torch_dtype": "bfloat16",
        "bias": True,
        "target_fingerprint": runtime.target.fingerprint,
        "coupled_scale": list(coupled_scale),
    }


def measure(
    runtime: TorchRuntime,
    head: Path,
    held_out: list[Sample],
    features: FeatureSource,
    progress: Progress = silent,
    limit: int = 24,
) -> dict[str, Any]:
    """Simulated acceptance lengths on held-out answers, by temperature and tree, with and without loops.

    `limit` answers of each temperature, and the beginning of each: a cycle costs a torch head as much as
    training on a hundred rows.
    """
    drafter = Eagle2.load(runtime, DraftFiles(head=lambda: head))
    results: dict[str, Any] = {}
    for temperature in sorted({sample.temperature for sample in held_out}):
        chosen = [s for s in held_out if s.temperature == temperature and len(s.response_ids) > 8][:limit]
        cases = dict(TREES)
        if temperature:
            cases["60 rows, top-k"] = TreeConfig(draft_sampling="top-k")
        for name, tree in cases.items():
            rows: list[tuple[Sample, GenerationStats]] = []
            for done, sample in enumerate(chosen):
                progress(f"simulating T={temperature:g}, {name}", done, len(chosen))
                [feature] = features.get([sample])
                rows.append((sample, simulate(runtime, drafter, _cut(sample, feature, 160), feature, tree)))
            results[f"T={temperature:g}, {name}"] = _summary(rows)
    return results


def glance(
    runtime: TorchRuntime,
    network: HeadNetwork,
    draft_ids: Ints | None,
    held_out: list[Sample],
    features: FeatureSource,
    folder: Path,
    limit: int = 12,
) -> dict[str, float | None]:
    """Simulated acceptance length of 60-row top-k trees on a few held-out answers, by temperature."""
    folder.mkdir(parents=True, exist_ok=True)
    write_eagle_checkpoint(folder, network.to_weights(), head_config(runtime, network, (1.0,)), draft_ids)
    drafter = Eagle2.load(runtime, DraftFiles(head=lambda: folder))
    tree = TreeConfig(draft_sampling="top-k")
    lengths = {}
    for temperature in sorted({sample.temperature for sample in held_out}):
        rows = []
        found = [s for s in held_out if s.temperature == temperature and len(s.response_ids) > 8]
        for sample in found[:limit]:
            [feature] = features.get([sample])
            rows.append(simulate(runtime, drafter, _cut(sample, feature, 64), feature, tree))
        lengths[f"T={temperature:g}"] = _rounded(mean_acceptance_length(rows))
    return lengths


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


def train_head(
    runtime: TorchRuntime,
    samples: list[Sample],
    config: HeadConfig,
    *,
    work: Path,
    place: Path,
    always: Collection[int] = (),
    start: Path | None = None,
    feature_cache: Path | None = None,
    feature_cache_gb: float = 8.0,
    provenance: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The whole of `eyas train head`: vocabulary, training, scales, measuring, installing.

    Args:
        work: folder of the run's state; a run found there is continued.
        place: where the head goes, whole or not at all.
        always: token ids that must be in the draft vocabulary.
        start: a head whose weights the run begins with.
        feature_cache: folder that may keep features, up to `feature_cache_gb`.

    Returns:
        Simulated acceptance lengths on held-out answers.
    """
    vocab = runtime.target.vocab_size
    training, held_out = split_held_out(samples, config.held_out_every)
    draft_ids = frequent_tokens(training, config.draft_vocab or vocab, vocab, always)
    loss_ids = frequent_tokens(training, config.loss_vocab or config.draft_vocab or vocab, vocab, always)
    features = FeatureSource(runtime, config.max_length, feature_cache, int(feature_cache_gb * 1e9))
    network = None if start is None else HeadNetwork.from_checkpoint(read_eagle_checkpoint(start))
    trainer = HeadTrainer(runtime, training, config, loss_ids, features, network)

    def evaluate(network: HeadNetwork) -> dict[str, float | None]:
        return glance(runtime, network, draft_ids, held_out, features, work / "evaluated")

    trainer.run(work, progress, evaluate)
    origin = (provenance or {}) | ({} if start is None else {"started_from": str(start)})
    return write_head(
        place,
        runtime,
        trainer.best_network(),
        draft_ids,
        recipe=config,
        samples=training,
        held_out=held_out,
        features=features,
        provenance=origin | {"evaluations": trainer.state.evaluations},
        progress=progress,
    )
