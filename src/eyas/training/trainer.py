"""A training run: batches, learning rate, averaged weights, saving and continuing.

A kind of heads derives from `Trainer` and names its class in `register_head(trainer="module:class")`.

A run ends after a number of epochs or, with `minutes`, after so much time spent on steps; the learning rate
has finished its schedule either way. Everything random is a function of (seed, step), so a run of epochs that
was interrupted and resumed gives the same network as one that was not. With `minutes` a resumed run
continues at the share of its time at which it stopped.
"""

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from eyas.drafters.heads import HeadKind
from eyas.engine.interfaces import FINAL, Taps
from eyas.engine.tree import Ints
from eyas.errors import ConfigError
from eyas.models import Progress, silent
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.config import Recipe
from eyas.training.data import Sample, plan_batches
from eyas.training.features import FeatureSource
from eyas.training.measure import Case
from eyas.training.networks import HeadNetwork
from eyas.training.place import own_folder
from eyas.training.processes import ALONE, Processes
from eyas.training.state import TrainingState, load_state, save_state, whole_step

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound=Recipe)
Network = TypeVar("Network", bound=HeadNetwork)


class Trainer(ABC, Generic[Config, Network]):
    """One training run of a head.

    Args:
        runtime: the target on torch.
        samples: its answers to train on, without those that are held out.
        config: the recipe.
        draft_ids: (M,) ascending ids whose logits the loss compares, or None for all.
        features: where features come from.
        start: a network to continue from, instead of fresh weights; it is changed.
        processes: this one and the others that train on parts of the same batches.

    Attributes:
        inputs: what decides the result besides the recipe, by name; a run continues only with the same.
        counts: how much the samples of a step count: 0 where a process has none of its own, else 1.
    """

    kind: ClassVar[HeadKind[Any]]  # of heads that it makes
    method: ClassVar[str]  # that is measured with them
    recipe: ClassVar[type[Recipe]]
    cases: ClassVar[tuple[Case, ...]]  # how it is measured; the first is the method's default
    quick_case: ClassVar[Case | None] = None  # how it is measured during the run; None is the first of these
    is_parallel: ClassVar[bool] = False  # whether its loss is that of several processes together

    def __init__(
        self,
        runtime: TorchDraftRuntime,
        samples: list[Sample],
        config: Config,
        draft_ids: Ints | None,
        features: FeatureSource,
        start: Network | None = None,
        processes: Processes = ALONE,
    ) -> None:
        check_samples(samples)
        check_room(samples, config)
        if processes.count > 1 and not self.is_parallel:
            raise ConfigError(f"several processes cannot train {self.kind.title}; start `eyas train` once.")
        self.config = config
        self.processes, self.counts = processes, 1.0
        self.inputs = {
            "recipe": type(config).__name__,
            "target": str(runtime.target.fingerprint),
            "answers": _digest(sample.digest.encode() for sample in samples),
            "draft vocabulary": vocabulary_digest(draft_ids),
            "start": "fresh weights" if start is None else weights_digest(start),
            "processes": str(processes.count),
        }
        self.device = runtime.device
        self.train = samples
        self.draft_ids = np.arange(runtime.target.vocab_size) if draft_ids is None else draft_ids
        self._runtime = runtime
        self._features = features
        # A runtime's tensors are made for inference; a copy may stand in a graph.
        self._head_weight = runtime.lm_head(draft_ids).weight.clone()
        network = start
        if network is None:
            torch.manual_seed(config.seed)
            network = self.make_network(runtime, config)
            self.initialise(network)
        self.network = network.to(self.device)
        processes.share_weights(self.network)
        self._lengths = [min(len(sample), config.max_length) for sample in samples]
        self.steps_per_epoch = len(self._plan(np.random.default_rng(0)))
        self.num_steps = max(1, math.ceil(config.epochs * self.steps_per_epoch))  # without `minutes`
        self.average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=config.learning_rate, betas=(0.9, 0.95), fused=True
        )
        self.state = TrainingState()

    @classmethod
    @abstractmethod
    def make_network(cls, runtime: TorchDraftRuntime, config: Config) -> Network:
        """A network of the recipe's sizes with fresh weights, drawn from torch's global generator."""

    @classmethod
    def sized_like(cls, config: Config, head: Any) -> Config:  # noqa: ARG003 - most recipes give every size
        """The recipe with the sizes that it leaves open.

        Args:
            config: the recipe.
            head: the sizes of the head to continue from, as `HeadKind.config` gives them; None for none.

        Raises:
            ConfigError: the recipe asks for other sizes than that head's.
        """
        return config

    @classmethod
    def taps(cls, runtime: TorchDraftRuntime, config: Config) -> Taps:  # noqa: ARG003 - most kinds read no others
        """Hidden states of the target that make up the features of training; the final one comes last."""
        return (FINAL,)

    @classmethod
    def loss_vocab(cls, config: Config) -> int | None:  # noqa: ARG003
        """How many tokens the loss compares; None are those of the draft vocabulary."""
        return None

    def initialise(self, network: Network) -> None:
        """Replace the fresh weights by better ones, say fitted to the answers."""

    def fitted(
        self,
        network: Network,  # noqa: ARG002 - most kinds have nothing to fit
        draft_ids: Ints | None,  # noqa: ARG002
        seconds: float | None,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Entries of config.json that are fitted to the answers when the network is finished.

        Args:
            network: the finished one.
            draft_ids: (M,) ascending ids of its draft vocabulary, or None for all.
            seconds: that the fit may take at most; None does not bound it.
            progress: told how far it is.
        """
        return {}

    def accuracy(self, network: Network, samples: Sequence[Sample]) -> list[float] | None:  # noqa: ARG002
        """Per output, how often its best token is the target's in these answers; None: not measured."""
        return None

    @abstractmethod
    def loss(self, samples: list[Sample], generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """A batch's loss, and how often draft and target agree on the best token, by depth."""

    def run(
        self,
        folder: Path,
        progress: Progress = silent,
        evaluate: Callable[[Network], dict[str, Any]] | None = None,
    ) -> None:
        """Train to the end, saving into `folder`; continues from what is saved there.

        `evaluate` measures the network every `evaluate_every` steps; the state keeps its results. Ctrl-C
        waits for the end of a step and saves the state before it is raised.

        Raises:
            DataError: `folder` cannot be written, or another run uses it; the state saved before is whole.
            CheckpointError: what is saved there is broken, or of a run with another recipe or other inputs.
            ConfigError: the loss is not finite; the state saved before is kept.
        """
        with own_folder(folder) if self.processes.is_first else nullcontext():
            load_state(folder, self)
            try:
                self._evaluate(evaluate)  # what an interruption cut short
                for batch in self._batches():
                    with whole_step():
                        self._train_on(batch)
                    progress("training", *self._done())
                    if self.state.step % self.config.save_every == 0:
                        self._save(folder)
                        logger.info("%s", self.state.last_line())
                    self._evaluate(evaluate)
            except KeyboardInterrupt:
                self._save(folder)
                raise
            self._save(folder)

    def best_network(self) -> Network:
        """The averaged network where an average is kept, else the last one."""
        if not self.config.ema:
            return self.network
        network = deepcopy(self.network)
        network.load_state_dict(self.average)
        return network

    def learning_rate(self, share: float) -> float:
        """Linear warm-up, then linear or cosine decay to zero, at a share of the run in [0, 1]."""
        config = self.config
        if share < config.warmup:
            return config.learning_rate * share / config.warmup
        left = (1 - share) / (1 - config.warmup) if config.warmup < 1 else 0.0
        factor = left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
        return config.learning_rate * max(factor, 0.0)

    def _save(self, folder: Path) -> None:
        if self.processes.is_first:
            save_state(folder, self)

    def _evaluate(self, evaluate: Callable[[Network], dict[str, Any]] | None) -> None:
        """Measure the network where that is due and not done."""
        step, known = self.state.step, self.state.evaluations
        is_due = step > 0 and step % self.config.evaluate_every == 0
        is_ours = evaluate is not None and self.processes.is_first
        if evaluate is None or not is_ours or not is_due or any(row["step"] == step for row in known):
            return
        known.append({"step": step, **evaluate(self.best_network())})
        logger.info("%s", known[-1])

    def _done(self) -> tuple[int, int]:
        """Steps, or seconds, and how many there will be."""
        if self.config.minutes is None:
            return self.state.step, self.num_steps
        total = math.ceil(60 * self.config.minutes)
        return min(int(self.state.seconds), total), total

    @property
    def _share(self) -> float:
        """Share of the run that is over after the next step; above 1 once it has ended."""
        if self.config.minutes is None:
            return (self.state.step + 1) / self.num_steps
        mean = self.state.seconds / max(1, self.state.step)
        return (self.state.seconds + mean) / (60 * self.config.minutes)

    def _batches(self) -> Iterator[list[int]]:
        while True:
            epoch, done = divmod(self.state.step, self.steps_per_epoch)
            rng = np.random.default_rng([self.config.seed, epoch])
            batches = self._plan(rng)
            # Epochs are cut differently; the count of the first one rules them all.
            for batch in (batches * 2)[done : self.steps_per_epoch]:
                if self._share > 1:
                    return
                yield batch

    def _plan(self, rng: np.random.Generator) -> list[list[int]]:
        """Batches of all processes together."""
        return plan_batches(self._lengths, self.config.batch_rows * self.processes.count, rng)

    def _train_on(self, batch: list[int]) -> None:
        began = perf_counter()
        part = self.processes.part(batch)
        self.counts = 1.0 if part else 0.0
        losses = self._step([self.train[index] for index in part or batch[:1]])
        self.state.step += 1
        # Means: all processes have to agree on the end of a run.
        self.state.seconds += self.processes.means([perf_counter() - began])[0]
        self.state.record(losses)

    def _step(self, samples: list[Sample]) -> list[float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self._share)
        number = self.state.step + self.processes.rank * 1_000_000_007
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        loss, parts = self.loss(samples, generator)
        self.optimizer.zero_grad()
        if loss.requires_grad:  # else nothing counts in this batch
            loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(self.network.parameters())
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        found, *parts = self.processes.means([float(loss.detach()), *parts])
        if not (math.isfinite(found) and math.isfinite(float(norm))):
            raise ConfigError(
                f"the loss is {found} and its gradient {float(norm)} at step {self.state.step + 1}; "
                f"lower --learning-rate, which is {self.config.learning_rate:g}, and use another --work."
            )
        self.optimizer.step()
        self._update_average()
        return [found, *parts]

    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.state.step) / (10 + self.state.step))
        if not self.config.ema:
            return
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                self.average[name].lerp_(tensor, 1 - decay)

    def _groups(self) -> list[dict[str, Any]]:
        """Norms and biases are not decayed."""
        wide = [p for p in self.network.parameters() if p.dim() > 1]
        flat = [p for p in self.network.parameters() if p.dim() <= 1]
        return [
            {"params": wide, "weight_decay": self.config.weight_decay},
            {"params": flat, "weight_decay": 0.0},
        ]

    def _autocast(self) -> torch.autocast:
        """bfloat16 products where the target's are."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._runtime.dtype == torch.bfloat16)


def check_samples(samples: Sequence[Sample]) -> None:
    """Refuse a run without answers."""
    if not samples:
        raise ConfigError("no answer is left to train on; distil more.")


def check_room(samples: Sequence[Sample], config: Recipe) -> None:
    """Refuse a run in which no row of an answer counts."""
    if not config.prompt_share and all(
        len(sample.prompt_ids) + 2 > min(len(sample), config.max_length) for sample in samples
    ):
        shortest = min(len(sample.prompt_ids) for sample in samples)
        raise ConfigError(
            f"max_length is {config.max_length}, but prompts have {shortest} tokens and more, and an answer "
            "needs two to be learnt from; raise --max-length, or distil longer answers."
        )


def vocabulary_digest(draft_ids: Ints | None) -> str:
    """What names a draft vocabulary: its size and a hash."""
    return "whole" if draft_ids is None else f"{len(draft_ids)} ids {_digest([draft_ids.tobytes()])}"


def weights_digest(network: HeadNetwork) -> str:
    """What names a network's weights."""
    tensors = network.state_dict().items()
    return _digest(name.encode() + weight.float().cpu().numpy().tobytes() for name, weight in tensors)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def some_rows(
    samples: Sequence[Sample], features: FeatureSource, seed: int, count: int
) -> Iterator[tuple[Sample, Tensor]]:
    """Samples in random order with their features (T, H), until these are about `count` rows."""
    check_samples(samples)
    seen = 0
    for index in np.random.default_rng(seed).permutation(len(samples)):
        [feature] = features.get([samples[index]])
        yield samples[index], feature
        seen += len(feature) - 1
        if seen >= count:
            return
