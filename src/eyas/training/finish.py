"""From answers to a head on disk: vocabulary, training, fits, measured acceptance, provenance.

The same for every kind of heads; what differs is in the kind's `Trainer`.
"""

import logging
import shutil
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from eyas.drafters.heads import HeadKind, find_head_kind, read_head, write_head
from eyas.drafters.registry import find_method
from eyas.engine.interfaces import Drafter, DraftFiles
from eyas.engine.tree import Ints
from eyas.errors import ConfigError
from eyas.models import Progress, silent
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.config import SHORTEST_SEQUENCE, Recipe
from eyas.training.data import Sample, split_held_out
from eyas.training.feature_store import FeatureStore
from eyas.training.features import FeatureSource
from eyas.training.measure import add_provenance, evaluation_folder, glance, measure, origin_of
from eyas.training.networks import HeadNetwork
from eyas.training.place import check_replaceable, replacing
from eyas.training.precision import Int8Drafts, in_int8, what_int8_costs
from eyas.training.processes import ALONE, Processes
from eyas.training.trainer import Trainer
from eyas.training.vocabulary import frequent_tokens

logger = logging.getLogger(__name__)

HELD_OUT_ANSWERS = 24  # whose accuracy is measured
FIT_SHARE = 0.1  # of a run's minutes that the fits after it may take


def trainer_of(kind: HeadKind[Any]) -> type[Trainer[Any, Any]]:
    """The class that trains a kind of heads; importing it needs torch."""
    assert kind.trainer is not None, "a kind that eyas trains"
    module, _, name = kind.trainer.partition(":")
    trainer: type[Trainer[Any, Any]] = getattr(import_module(module), name)
    return trainer


def train_head(
    kind: str,
    runtime: TorchDraftRuntime,
    samples: list[Sample],
    config: Recipe,
    *,
    work: Path,
    place: Path,
    always: Collection[int] = (),
    start: Path | None = None,
    store: FeatureStore | None = None,
    processes: Processes = ALONE,
    provenance: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a head and install it; continues from the state in `work`.

    Args:
        kind: of `eyas.drafters.heads`.
        runtime: the target on torch.
        samples: its answers.
        config: the recipe, of this kind.
        work: folder of the run's state.
        place: where the head goes, whole or not at all.
        always: token ids that must be in the draft vocabulary.
        start: a head of this kind and target that the run begins with. Its draft vocabulary is kept if the
            recipe asks for one of that size: more answers than those at hand may have been counted for it.
        store: features of the target that are kept; what is computed joins them.
        processes: this one and the others that train the head together; the first one installs it.
        provenance: what else config.json should say of the origin.
        progress: told how far the run is.

    Returns:
        Simulated acceptance lengths on held-out answers, which also stand in config.json; nothing in
        processes after the first.

    Raises:
        ConfigError: `place` holds what no run of this kind has made, or the recipe does not fit `start`.
        CheckpointError: `start` is a head for another target, or the run in `work` is another one.
    """
    check_replaceable(place, kind)
    known = find_head_kind(kind)
    samples = [sample for sample in samples if len(sample) >= SHORTEST_SEQUENCE]
    training, held_out = split_held_out(samples, config.held_out_every)
    begun = _begin(known, runtime, config, start)
    config, draft_ids = begun.config, begun.draft_ids
    vocab = runtime.target.vocab_size
    if draft_ids is None or len(draft_ids) != config.draft_vocab:
        draft_ids = frequent_tokens(training, config.draft_vocab or vocab, vocab, always)
    trainer_class = trainer_of(known)
    compared = trainer_class.loss_vocab(config)
    loss_ids = draft_ids if compared is None else frequent_tokens(training, compared, vocab, always)
    taps = trainer_class.taps(runtime, config)
    features = FeatureSource(runtime, config.max_length, store, taps)
    features.check(samples)
    with closing(features):
        trainer = trainer_class(runtime, training, config, loss_ids, features, begun.network, processes)
        course = _Course(known, trainer, runtime, draft_ids, held_out, features, progress)
        trainer.run(work, progress, lambda network: course.glance(evaluation_folder(work), network))
        if not processes.is_first:
            return {}
        origin = (provenance or {}) | ({} if start is None else {"started_from": start.resolve().name})
        return course.install(place, trainer.best_network(), origin)


def head_document(
    runtime: TorchDraftRuntime, network: HeadNetwork, entries: dict[str, Any]
) -> dict[str, Any]:
    """config.json of a network: its sizes, what ties it to its target, and further entries."""
    return {
        **network.document(),
        "vocab_size": runtime.target.vocab_size,
        "max_position_embeddings": runtime.target.context_limit,
        "target_fingerprint": runtime.target.fingerprint,
        "base_fingerprint": runtime.target.base_fingerprint,
        **entries,
    }


@dataclass(frozen=True)
class _Begun:
    """What a run begins with: fresh weights, or those of a head."""

    config: Recipe
    network: HeadNetwork | None = None
    draft_ids: Ints | None = None


def _begin(kind: HeadKind[Any], runtime: TorchDraftRuntime, config: Recipe, start: Path | None) -> _Begun:
    trainer = trainer_of(kind)
    if start is None:
        return _Begun(trainer.sized_like(config, None))
    _drafter(trainer, runtime, start)  # refuses a head for another target
    head = read_head(kind, start)
    config = trainer.sized_like(config, head.config)
    network = trainer.make_network(runtime, config)
    try:
        network.load_weights(head.weights)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"the head {start} to start from has other sizes than the recipe ({reason}); give its sizes."
        ) from error
    return _Begun(config, network, head.draft_ids)


@dataclass(frozen=True)
class _Course:
    """Turns a run's networks into heads: measured along the way, installed at its end."""

    kind: HeadKind[Any]
    trainer: Trainer[Any, Any]
    runtime: TorchDraftRuntime
    draft_ids: Ints | None
    held_out: list[Sample]
    features: FeatureSource
    progress: Progress

    def glance(self, folder: Path, network: HeadNetwork) -> dict[str, Any]:
        """What a few held-out answers say of a network, which is written into `folder`."""
        drafter, accuracy = self._write(folder, network, {}), self._accuracy(network)
        found = {} if accuracy is None else {"accuracy": accuracy}
        case = self.trainer.quick_case or self.trainer.cases[0]
        return found | glance(self.runtime, drafter, case, self.held_out, self.features)

    def install(self, place: Path, network: HeadNetwork, origin: dict[str, Any]) -> dict[str, Any]:
        """Fit, write into `place` and measure; the simulated acceptance lengths."""
        trainer, config, minutes = self.trainer, self.trainer.config, self.trainer.config.minutes
        seconds = None if minutes is None else 60 * FIT_SHARE * minutes
        entries = trainer.fitted(network, self.draft_ids, seconds, self.progress)
        entries["provenance"] = (
            origin
            | origin_of(config, trainer.train, trainer.state.seconds)
            | {"evaluations": trainer.state.evaluations}
        )
        with replacing(place, self.kind.name) as folder:
            drafter = self._write(folder, network, entries)
            measured = measure(
                self.runtime, drafter, trainer.cases, self.held_out, self.features, self.progress
            )
            measured |= self._in_int8(folder)
            accuracy = self._accuracy(network)
            more = {} if accuracy is None else {"accuracy_by_depth": accuracy}
            add_provenance(folder, simulated_acceptance_length=measured, **more)
            if not self.kind.folder:
                _keep_other_kinds(place, folder)
        warning = what_int8_costs(measured, trainer.cases[0])
        if warning is not None:
            logger.warning("%s", warning)
        return measured

    def _in_int8(self, folder: Path) -> dict[str, Any]:
        """The first case once more, in the precision that the native runtime drafts with."""
        runtime: Any = Int8Drafts(self.runtime)
        drafter, case = _drafter(type(self.trainer), runtime, folder), in_int8(self.trainer.cases[0])
        return measure(self.runtime, drafter, [case], self.held_out, self.features, self.progress)

    def _accuracy(self, network: HeadNetwork) -> list[float] | None:
        return self.trainer.accuracy(network, self.held_out[:HELD_OUT_ANSWERS])

    def _write(self, folder: Path, network: HeadNetwork, entries: dict[str, Any]) -> Drafter:
        document = head_document(self.runtime, network, entries)
        precision = self.trainer.config.precision
        write_head(self.kind, folder, network.to_weights(), document, self.draft_ids, precision)
        return _drafter(type(self.trainer), self.runtime, folder)


def _drafter(trainer: type[Trainer[Any, Any]], runtime: Any, folder: Path) -> Drafter:
    return find_method(trainer.method).drafter.load(runtime, DraftFiles(head=lambda: folder))


def _keep_other_kinds(place: Path, folder: Path) -> None:
    """Copy the heads of other kinds, which lie in folders below."""
    for other in place.glob("*/config.json"):
        shutil.copytree(other.parent, folder / other.parent.name)
