"""Trains an EAGLE head for a target from its answers.

Source: EAGLE (arXiv 2401.15077), Sec. 4.2 and App.; the defaults of `HeadConfig` are that recipe. What
raises the acceptance of a small target beyond it (closed-form start, cross-entropy weight, training-time
test, more layers, draft vocabulary) are options; docs/training.md says which were used for the head that
ships, and why.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyas.models.spec import StackSpec, llama_stack
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.training.config import HeadConfig
from eyas.training.data import Sample
from eyas.training.features import FeatureSource
from eyas.training.initialise import initialise
from eyas.training.losses import classification_loss, regression_loss
from eyas.training.network import HeadNetwork, pad_rows
from eyas.training.trainer import Trainer, some_rows, vocabulary_digest, weights_digest


class HeadTrainer(Trainer[HeadConfig, HeadNetwork]):
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
        torch.manual_seed(config.seed)
        started_from = "fresh weights" if start is None else weights_digest(start)
        network = start or HeadNetwork(stack_of(runtime, config))
        if start is None and config.closed_form_start:
            initialise(network, _fit_rows(runtime, samples, features, config.seed), config.seed)
        super().__init__(runtime, samples, config, network, features)
        self.inputs |= {"draft vocabulary": vocabulary_digest(draft_ids), "start": started_from}
        # A runtime's tensors are made for inference; a copy may stand in a graph.
        self._head_weight = runtime.lm_head(draft_ids).weight.clone()
        self._scale = self._spread() if config.scaled_regression else None

    def empty_network(self) -> HeadNetwork:
        """A head of the same layers."""
        return HeadNetwork(self.network.stack.spec)

    def loss(self, samples: list[Sample], generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """A batch's loss, and per step the share of rows where draft and target agree on the best token."""
        config = self.config
        clean = self._features.get(samples)
        rows = max(map(len, clean)) - 1
        tokens = pad_rows(
            [torch.tensor(s.token_ids[1 : len(f)]) for s, f in zip(samples, clean, strict=True)], rows
        )
        noisy = pad_rows([f[:-1] + self._noise(f[:-1], generator) for f in clean], rows).to(self.device)
        weights = pad_rows(
            [self._weights(s, len(f), generator) for s, f in zip(samples, clean, strict=True)], rows
        )
        following = pad_rows([feature[1:] for feature in clean], rows).to(self.device)
        embeddings = self._runtime.embed(tokens.numpy().ravel()).view(*tokens.shape, -1)
        anchors = asked = None
        if config.steps > 1:
            drawn = draw_chains(weights, config.step_share, generator)
            anchors, asked = (part.to(self.device) for part in drawn)
        weights = weights.to(self.device)
        with self._autocast():
            outputs = self.network.unroll(embeddings, noisy, config.steps, anchors)
        at_row = torch.arange(rows, device=self.device)
        last = ((weights > 0) * at_row).amax(dim=1, keepdim=True)  # row that counts
        total, agreements = torch.zeros((), device=self.device), []
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

    def _spread(self) -> Tensor:
        rows = torch.cat(self._features.get(self.train[:64])).float()
        return rows.std(dim=0).clamp(min=1e-6).to(self.device)


def _fit_rows(
    runtime: TorchRuntime, samples: list[Sample], features: FeatureSource, seed: int, count: int = 45_000
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """About `count` rows for the closed-form start."""
    for sample, feature in some_rows(samples, features, seed, count):
        ids = np.array(sample.token_ids[1 : len(feature)])
        yield runtime.embed(ids).cpu().float(), feature[:-1].float(), feature[1:].float()


def draw_chains(weights: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, N) rows where chains begin, a random `share` of those that count, and (B, N) what they count.

    Sequences with fewer chains are filled up with ones that count nothing.
    """
    chosen = (weights > 0) & (torch.rand(weights.shape, generator=generator) < share)
    found = [row.nonzero()[:, 0] for row in chosen]
    most = max(1, *map(len, found))
    asked = [row[anchors] for row, anchors in zip(weights, found, strict=True)]
    return pad_rows(found, most), pad_rows(asked, most)


def stack_of(runtime: TorchRuntime, config: HeadConfig) -> StackSpec:
    """A head's layers: no input norm in the first, and an output in the target's feature space."""
    return layers_of(
        runtime, config.layers or 1, config.intermediate_size, first_input_norm=False, final_norm=False
    )


def layers_of(
    runtime: TorchRuntime,
    count: int,
    intermediate_size: int | None,
    *,
    first_input_norm: bool = True,
    final_norm: bool = True,
) -> StackSpec:
    """Decoder layers sized like the target's."""
    target = runtime.model.config.get_text_config(decoder=True)
    heads = int(target.num_attention_heads)
    return llama_stack(
        hidden_size=runtime.target.hidden_size,
        intermediate_size=intermediate_size or int(target.intermediate_size),
        num_layers=count,
        num_heads=heads,
        num_kv_heads=int(getattr(target, "num_key_value_heads", None) or heads),
        head_dim=runtime.target.hidden_size // heads,
        rms_norm_eps=float(getattr(target, "rms_norm_eps", 1e-6)),
        rope_theta=_rope_theta(target),
        first_input_norm=first_input_norm,
        final_norm=final_norm,
    )


def _rope_theta(target: Any) -> float:
    """The target's own base: positions mean the same to both. It is written into the head's config."""
    parameters = getattr(target, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta", getattr(target, "rope_theta", 10000.0)))
