"""From a trained network to a head on disk: coupled scales, held-out acceptance, provenance."""

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from eyas.config import TreeConfig
from eyas.drafters.eagle2 import Eagle2
from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.head_layers import stack_document
from eyas.drafters.heads import read_head, write_head
from eyas.engine.interfaces import DraftFiles
from eyas.engine.tree import Ints
from eyas.errors import ConfigError
from eyas.models import Progress, silent
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.training.config import HeadConfig
from eyas.training.coupling import fit_coupled_scale
from eyas.training.data import Sample, split_held_out
from eyas.training.features import FeatureSource
from eyas.training.head import HeadTrainer
from eyas.training.measure import (
    UNCOUPLED,
    Case,
    add_provenance,
    evaluation_folder,
    glance,
    measure,
    origin_of,
)
from eyas.training.network import HeadNetwork
from eyas.training.place import check_replaceable, replacing
from eyas.training.vocabulary import frequent_tokens

# Trees whose acceptance a head's card states: rows of the target's pass, root included.
CASES = (
    Case(name="60 rows"),
    Case(name="16 rows", tree=TreeConfig(draft_tokens=15)),
    Case(name="8 rows", tree=TreeConfig(draft_tokens=7, depth=3)),
    Case(name="60 rows, top-k", tree=UNCOUPLED, is_sampled=True),
)


def install_head(
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
    seconds: float = 0.0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit scales, write the head into `place` (whole or not at all), and measure it by simulation.

    Returns:
        The simulated acceptance lengths, which also stand in config.json.
    """
    scale = fit_coupled_scale(runtime, network, features, samples[:400], draft_ids)
    config = head_config(runtime, network, scale)
    config["provenance"] = provenance | origin_of(recipe, samples, seconds)
    with replacing(place, "eagle") as folder:
        write_head(EAGLE, folder, network.to_weights(), config, draft_ids)
        drafter = Eagle2.load(runtime, DraftFiles(head=lambda: folder))
        measured = measure(runtime, drafter, CASES, held_out, features, progress)
        add_provenance(folder, simulated_acceptance_length=measured)
        for other in place.glob("*/config.json"):  # other methods' networks for this target stay
            shutil.copytree(other.parent, folder / other.parent.name)
    return measured


def head_config(
    runtime: TorchRuntime, network: HeadNetwork, coupled_scale: tuple[float, ...]
) -> dict[str, Any]:
    """config.json of a head: a Llama config, and what ties it to its target."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **stack_document(network.stack.spec),
        "max_position_embeddings": runtime.target.context_limit,
        "vocab_size": runtime.target.vocab_size,
        "torch_dtype": "bfloat16",
        "bias": True,
        "target_fingerprint": runtime.target.fingerprint,
        "coupled_scale": list(coupled_scale),
    }


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
        start: a head of this target, whose layers and weights the run begins with, and whose draft
            vocabulary it keeps if the recipe asks for one of that size: more answers than those at hand may
            have been counted for it.
        feature_cache: folder that may keep features, up to `feature_cache_gb`.

    Returns:
        Simulated acceptance lengths on held-out answers.

    Raises:
        ConfigError: `place` holds what is no head of ours, or the recipe does not fit `start`.
        CheckpointError: `start` is a head for another target, or the run in `work` is another one.
    """
    check_replaceable(place, "eagle")
    vocab = runtime.target.vocab_size
    training, held_out = split_held_out(samples, config.held_out_every)
    network, draft_ids, config = _begin(runtime, config, start)
    if draft_ids is None or len(draft_ids) != config.draft_vocab:
        draft_ids = frequent_tokens(training, config.draft_vocab or vocab, vocab, always)
    loss_ids = draft_ids
    if config.loss_vocab is not None:
        loss_ids = frequent_tokens(training, config.loss_vocab, vocab, always)
    features = FeatureSource(runtime, config.max_length, feature_cache, feature_cache_gb * 1e9)
    trainer = HeadTrainer(runtime, training, config, loss_ids, features, network)

    def evaluate(network: HeadNetwork) -> dict[str, Any]:
        folder = evaluation_folder(work)
        config = head_config(runtime, network, (1.0,))
        write_head(EAGLE, folder, network.to_weights(), config, draft_ids)
        drafter = Eagle2.load(runtime, DraftFiles(head=lambda: folder))
        return glance(runtime, drafter, Case(name="60 rows", tree=UNCOUPLED), held_out, features)

    trainer.run(work, progress, evaluate)
    origin = (provenance or {}) | ({} if start is None else {"started_from": start.resolve().name})
    return install_head(
        place,
        runtime,
        trainer.best_network(),
        draft_ids,
        recipe=config,
        samples=training,
        held_out=held_out,
        features=features,
        provenance=origin | {"evaluations": trainer.state.evaluations},
        seconds=trainer.state.seconds,
        progress=progress,
    )


def _begin(
    runtime: TorchRuntime, config: HeadConfig, start: Path | None
) -> tuple[HeadNetwork | None, Ints | None, HeadConfig]:
    """The network and the draft vocabulary of the head to go on from, and the recipe with its layers."""
    if start is None:
        return None, None, replace(config, layers=config.layers or 1)
    Eagle2.load(runtime, DraftFiles(head=lambda: start))  # refuses a head for another target
    checkpoint = read_head(EAGLE, start)
    stack = checkpoint.config.stack
    for name, given, has in (
        ("layers", config.layers, stack.num_layers),
        ("intermediate_size", config.intermediate_size, stack.mlp_size),
    ):
        if given not in (None, has):
            raise ConfigError(
                f"{name} is {given}, but the head {start} to start from has {has}; leave out one of the two."
            )
    recipe = replace(config, layers=stack.num_layers, intermediate_size=stack.mlp_size)
    return HeadNetwork.from_checkpoint(checkpoint), checkpoint.draft_ids, recipe
