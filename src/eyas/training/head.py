"""Trains an EAGLE head for a target from its answers.

Source: EAGLE (arXiv 2401.15077), Sec. 4.2 and App.; the defaults of `HeadConfig` are that recipe. What
raises the acceptance of a small target beyond it (closed-form start, cross-entropy weight, training-time
test, more layers, draft vocabulary) are options; docs/training.md says which were used for the head that
ships, and why.

Everything random is a function of (seed, step), so a run that was interrupted and resumed gives the same
head as one that was not.
"""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eyas.config import StackConfig
from eyas.errors import ConfigError
from eyas.models import Progress, silent
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.training.config import HeadConfig
from eyas.training.data import Sample, plan_batches
from eyas.training.features import FeatureSource
from eyas.training.initialise import initialise
from eyas.training.losses import classification_loss, regression_loss
from eyas.training.network import HeadNetwork, pad_rows
from eyas.training.state import TrainingState, load_state, save_state, whole_step

logger = logging.getLogger(__name__)

Evaluate = Callable[[HeadNetwork], dict[str, float | None]]


class HeadTrainer:
    """One training run.

    Args:
        runtime: the target on torch.
        samples: its answers to train on; whoever held some out has left them away.
        config: the recipe.
        draft_ids: (M,) ascending ids whose logits are compared, or None for all.
        features: where features come from.
        start: weights to go on from, instead of fresh ones.
    """

    def __init__(
        self,
        runtime: TorchRuntime,
        samples: list[Sample],
        config: HeadConfig,
        draft_ids: Any,
        features: FeatureSource,
        start: HeadNetwork | None = None,
    ) -> None:
        self.config = config
        if not samples:
            raise ConfigError("no answer is left to train on; distil more.")
        self.train = samples
        self._runtime = runtime
        self._features = features
        # A runtime's tensors are made for inference; a copy may stand in a graph.
        self._head_weight = runtime.lm_head(draft_ids).weight.clone()
        self.network = start or HeadNetwork(stack_of(runtime, config))
        self._scale = self._spread() if config.scaled_regression else None
        if start is None:
            self._start()
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=config.learning_rate, betas=(0.9, 0.95), fused=True
        )
        lengths = [min(len(sample), config.max_length) for sample in self.train]
        self._lengths = lengths
        self.steps_per_epoch = len(plan_batches(lengths, config.batch_rows, np.random.default_rng(0)))
        self.num_steps = max(1, math.ceil(config.epochs * self.steps_per_epoch))
        self.state = TrainingState()

    def run(self, folder: Path, progress: Progress = silent, evaluate: Evaluate | None = None) -> None:
        """Train to the end, saving into `folder`; goes on from what is saved there.

        `evaluate` measures the network now and then; its numbers stand in the state. Ctrl-C waits for the
        end of a step and saves it before it is passed on.

        Raises:
            DataError: `folder` cannot be written; the state saved before is whole.
        """
        load_state(folder, self)
        try:
            for batch in self._batches():
                with whole_step():
                    self._train_on(batch)
                progress("training", self.state.step, self.num_steps)
                if self.state.step % self.config.save_every == 0:
                    save_state(folder, self)
                    logger.info("%s", self.state.last_line(self.num_steps))
                if evaluate and self.state.step % self.config.evaluate_every == 0:
                    self.state.evaluations.append({"step": self.state.step, **evaluate(self.best_network())})
                    logger.info("%s", self.state.evaluations[-1])
        except KeyboardInterrupt:
            save_state(folder, self)
            raise
        save_state(folder, self)

    def _train_on(self, batch: list[int]) -> None:
        began = perf_counter()
        losses = self._step([self.train[index] for index in batch])
        self.state.step += 1
        self.state.seconds += perf_counter() - began
        self.state.record(losses)

    def best_network(self) -> HeadNetwork:
        """The averaged network where an average is kept, else the last one."""
        if not self.config.ema:
            return self.network
        network = HeadNetwork(self.network.stack.config)
        network.load_state_dict(self.average)
        return network

    def _batches(self) -> Iterator[list[int]]:
        while self.state.step < self.num_steps:
            epoch, done = divmod(self.state.step, self.steps_per_epoch)
            rng = np.random.default_rng([self.config.seed, epoch])
            batches = plan_batches(self._lengths, self.config.batch_rows, rng)
            # Epochs are cut differently; the count of the first one rules them all.
            batches = (batches * 2)[: self.steps_per_epoch]
            yield from batches[done : done + self.num_steps - self.state.step]

    def _step(self, samples: list[Sample]) -> list[float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.state.step)
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.state.step)
        loss, parts = self.loss(samples, generator)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self._update_average()
        return [float(loss.detach()), *parts]

    def loss(self, samples: list[Sample], generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """A batch's loss, and per step the share of rows where draft and target agree on the best token."""
        config = self.config
        clean = self._features.get(samples)
        rows = max(map(len, clean)) - 1
        tokens = pad_rows(
            [torch.tensor(s.token_ids[1 : len(f)]) for s, f in zip(samples, clean, strict=True)], rows
        )
        noisy = [feature[:-1] + self._noise(feature[:-1], generator) for feature in clean]
        weights = pad_rows(
            [self._weights(s, len(f), generator) for s, f in zip(samples, clean, strict=True)], rows
        )
        following = pad_rows([feature[1:] for feature in clean], rows)
        embeddings = self._runtime.embed(tokens.numpy().ravel()).view(*tokens.shape, -1)
        anchors = asked = None
        if config.steps > 1:
            anchors, asked = draw_chains(weights, config.step_share, generator)
        with torch.autocast(self._runtime.device.type, torch.bfloat16, enabled=self._uses_bfloat16()):
            outputs = self.network.unroll(embeddings, pad_rows(noisy, rows), config.steps, anchors)
        last = ((weights > 0) * torch.arange(rows)).amax(dim=1, keepdim=True)  # row that counts
        total, agreements = torch.zeros(()), []
        for step, output in enumerate(outputs):
            wanted = following
            if anchors is not None and asked is not None and step:
                at = anchors + step
                weights = asked * (at <= last)
                wanted = following.take_along_dim(at.clamp(max=rows - 1)[..., None], dim=1)
            counts = weights > 0
            loss, agreement = self._loss_of(output[counts], wanted[counts], weights[counts])
            total = total + config.step_decay**step * loss
            agreements.append(agreement)
        return total, agreements

    def _loss_of(self, output: Tensor, feature: Tensor, weights: Tensor) -> tuple[Tensor, float]:
        config = self.config
        loss, agreement = classification_loss(output, feature, self._head_weight, weights)
        loss = config.ce_weight * loss
        if config.regression_weight:
            loss = loss + config.regression_weight * regression_loss(output, feature, self._scale, weights)
        return loss, agreement

    def _weights(self, sample: Sample, rows: int, generator: torch.Generator) -> Tensor:
        """(rows - 1,) what each pair counts; see the drawing in `eyas.training.data`."""
        prompt, config = len(sample.prompt_ids), self.config
        weights = torch.zeros(rows - 1)
        weights[prompt:] = 1
        if config.first_pair and prompt <= len(weights):
            weights[prompt - 1] = 1
        if config.prompt_share and prompt > 1:
            chosen = torch.rand(prompt - 1, generator=generator) < config.prompt_share
            weights[: prompt - 1][chosen[: rows - 1]] = 0.5
        if rows == len(sample):
            weights[-1] = 0  # what follows the answer's last token is nobody's business
        return weights

    def _noise(self, feature: Tensor, generator: torch.Generator) -> Tensor:
        if not self.config.noise:
            return torch.zeros_like(feature)
        size = self.config.noise * 512 / (len(feature) + 1)
        return ((torch.rand(feature.shape, generator=generator) - 0.5) * size).to(feature.dtype)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear or cosine decay to zero."""
        config, share = self.config, (step + 1) / self.num_steps
        if share < config.warmup:
            return config.learning_rate * share / config.warmup
        left = (1 - share) / (1 - config.warmup) if config.warmup < 1 else 0.0
        factor = left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
        return config.learning_rate * max(factor, 0.0)

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

    def _spread(self) -> Tensor:
        rows = torch.cat(self._features.get(self.train[:64])).float()
        return rows.std(dim=0).clamp(min=1e-6)

    def _start(self) -> None:
        torch.manual_seed(self.config.seed)
        if self.config.closed_form_start:
            initialise(self.network, self._fit_rows(), self.config.seed)

    def _fit_rows(self, count: int = 45_000) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """About `count` rows for the closed-form start."""
        order, seen = np.random.default_rng(self.config.seed).permutation(len(self.train)), 0
        for index in order:
            sample = self.train[index]
            [feature] = self._features.get([sample])
            ids = np.array(sample.token_ids[1 : len(feature)])
            yield self._runtime.embed(ids).float(), feature[:-1].float(), feature[1:].float()
            seen += len(ids)
            if seen >= count:
                return

    def _uses_bfloat16(self) -> bool:
        return self._runtime.dtype == torch.bfloat16


def draw_chains(weights: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, N) rows where chains begin, a random `share` of those that count, and (B, N) what they count.

    Sequences with fewer chains are filled up with ones that count nothing.
    """
    chosen = (weights > 0) & (torch.rand(weights.shape, generator=generator) < share)
    found = [row.nonzero()[:, 0] for row in chosen]
    most = max(1, *map(len, found))
    asked = [row[anchors] for row, anchors in zip(weights, found, strict=True)]
    return pad_rows(found, most), pad_rows(asked, most)


def stack_of(runtime: TorchRuntime, config: HeadConfig) -> StackConfig:
    """A head's layers, sized like the target's."""
    target = runtime.model.config.get_text_config(decoder=True)
    heads = int(target.num_attention_heads)
    return StackConfig(
        hidden_size=runtime.target.hidden_size,
        intermediate_size=config.intermediate_size or int(target.intermediate_size),
        num_layers=config.layers,
        num_heads=heads,
        num_kv_heads=int(getattr(target, "num_key_value_heads", None) or heads),
        head_dim=runtime.target.hidden_size // heads,
        rms_norm_eps=float(getattr(target, "rms_norm_eps", 1e-6)),
        rope_theta=_rope_theta(target),
        first_input_norm=False,
        final_norm=False,
    )


def _rope_theta(target: Any) -> float:
    """The target's own base: positions mean the same to both. It is written into the head's config."""
    parameters = getattr(target, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta", getattr(target, "rope_theta", 10000.0)))
