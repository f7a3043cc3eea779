"""The whole of `eyas train medusa`, `hydra` and `draft-lm`: vocabulary, training, measuring, installing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from eyas.drafters.heads import find_head_kind, write_head
from eyas.drafters.hydra import Hydra, HydraOptions
from eyas.drafters.medusa import Medusa, MedusaOptions
from eyas.drafters.sps import SpeculativeSampling, SpsOptions
from eyas.engine.interfaces import Drafter, DraftFiles
from eyas.engine.tree import Ints
from eyas.models import Progress, silent
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.training.config import DraftConfig
from eyas.training.data import Sample, split_held_out
from eyas.training.draft import DraftTrainer
from eyas.training.draft_networks import DraftNetwork
from eyas.training.features import FeatureSource
from eyas.training.measure import (
    UNCOUPLED,
    Case,
    add_provenance,
    evaluation_folder,
    glance,
    measure,
    origin_of,
)
from eyas.training.place import check_replaceable, replacing
from eyas.training.vocabulary import frequent_tokens

HELD_OUT_ANSWERS = 24  # whose accuracy is measured


@dataclass(frozen=True, slots=True)
class Kind:
    """How networks of a kind are written, loaded and measured; the first case is the method's default."""

    drafter: type[Drafter]
    cases: tuple[Case, ...]


KINDS: Mapping[str, Kind] = {
    "medusa": Kind(
        Medusa,
        (
            Case(name="64 rows", options=MedusaOptions()),
            Case(name="16 rows", options=MedusaOptions(medusa_draft_tokens=15)),
            Case(name="64 rows, top-k", tree=UNCOUPLED, options=MedusaOptions(), is_sampled=True),
        ),
    ),
    "hydra": Kind(
        Hydra,
        (
            Case(name="64 rows", options=HydraOptions()),
            Case(name="16 rows", options=HydraOptions(hydra_draft_tokens=15)),
            Case(name="64 rows, top-k", tree=UNCOUPLED, options=HydraOptions(), is_sampled=True),
        ),
    ),
    "draft-lm": Kind(
        SpeculativeSampling,
        (
            Case(name="heuristic", options=SpsOptions()),
            Case(name="confidence", options=SpsOptions(sps_length="confidence")),
            Case(name="heuristic, top-k", tree=UNCOUPLED, options=SpsOptions(), is_sampled=True),
        ),
    ),
}


def train_draft(
    kind: str,
    runtime: TorchRuntime,
    samples: list[Sample],
    config: DraftConfig,
    *,
    work: Path,
    place: Path,
    always: Collection[int] = (),
    feature_cache: Path | None = None,
    feature_cache_gb: float = 8.0,
    provenance: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train networks of a kind and install them; goes on from what `work` holds.

    Args:
        kind: of KINDS.
        runtime: the target on torch.
        samples: its answers.
        config: the recipe, of this kind.
        work: folder of the run's state.
        place: where the networks go, whole or not at all.
        always: token ids that must be in the draft vocabulary.
        feature_cache: folder that may keep features, up to `feature_cache_gb`.
        provenance: what else config.json should say of the origin.
        progress: told after each step.

    Returns:
        Simulated acceptance lengths on held-out answers.

    Raises:
        ConfigError: `place` holds what is no network of this kind of ours.
        CheckpointError: the run in `work` is another one.
    """
    check_replaceable(place, kind)
    vocab = runtime.target.vocab_size
    training, held_out = split_held_out(samples, config.held_out_every)
    draft_ids = frequent_tokens(training, config.draft_vocab or vocab, vocab, always)
    features = FeatureSource(runtime, config.max_length, feature_cache, feature_cache_gb * 1e9)
    trainer = DraftTrainer(runtime, training, config, draft_ids, features)
    known = KINDS[kind]

    def write(folder: Path, network: nn.Module, origin: dict[str, Any]) -> Drafter:
        _write(kind, folder, runtime, network, config, draft_ids, origin)
        return known.drafter.load(runtime, DraftFiles(head=lambda: folder))

    def accuracy(network: nn.Module) -> list[float]:
        return trainer.accuracy(network, held_out[:HELD_OUT_ANSWERS])

    def evaluate(network: nn.Module) -> dict[str, Any]:
        drafter = write(evaluation_folder(work), network, {})
        return {"accuracy": accuracy(network), **glance(runtime, drafter, known.cases[0], held_out, features)}

    trainer.run(work, progress, evaluate)
    network = trainer.best_network()
    origin = origin_of(config, training, trainer.state.seconds)
    origin = (provenance or {}) | origin | {"evaluations": trainer.state.evaluations}
    with replacing(place, kind) as folder:
        drafter = write(folder, network, origin)
        measured = measure(runtime, drafter, known.cases, held_out, features, progress)
        add_provenance(folder, simulated_acceptance_length=measured, accuracy_by_depth=accuracy(network))
    return measured


def _write(
    kind: str,
    folder: Path,
    runtime: TorchRuntime,
    network: nn.Module,
    config: DraftConfig,
    draft_ids: Ints | None,
    origin: dict[str, Any],
) -> None:
    draft = cast(DraftNetwork, network)
    document = draft.document() | {
        "vocab_size": runtime.target.vocab_size,
        "max_position_embeddings": runtime.target.context_limit,
        "target_fingerprint": runtime.target.fingerprint,
        "provenance": origin,
    }
    write_head(find_head_kind(kind), folder, draft.to_weights(), document, draft_ids, config.precision)
