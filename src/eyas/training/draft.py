"""Trains what the other methods draft with: Medusa heads, Hydra heads, a small language model.

All three learn the target's own distribution: an output that stands in for the feature f_u is asked for
softmax(W f_u) over the draft vocabulary, W being the target's LM head (cross-entropy with soft labels). For
a Medusa head, which does not see the tokens in between, these labels have the mean of the tokens that
followed, with less noise. Source of the recipes: Medusa (arXiv 2401.10774), Sec. 2.2; Hydra (arXiv
2402.05109), Sec. 4 and its repository; distillation of a draft model, DistillSpec (arXiv 2310.08461).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from eyas.drafters.hydra import HydraHeadConfig
from eyas.engine.tree import Ints
from eyas.errors import ConfigError
from eyas.runtimes.torch.runtime import TorchRuntime
from eyas.training.config import DraftConfig, DraftLMConfig, HydraConfig, MedusaConfig
from eyas.training.data import Sample
from eyas.training.draft_networks import DraftLMNetwork, DraftNetwork, HydraNetwork, MedusaNetwork, Rows
from eyas.training.features import FeatureSource
from eyas.training.head import layers_of
from eyas.training.initialise import fit_linear
from eyas.training.losses import classification_loss
from eyas.training.network import pad_rows
from eyas.training.trainer import Trainer, some_rows, vocabulary_digest

FIT_ROWS = 30_000  # of a closed-form start


def make_network(runtime: TorchRuntime, config: DraftConfig) -> nn.Module:
    """A network of the recipe's kind and sizes, with fresh weights."""
    hidden = runtime.target.hidden_size
    torch.manual_seed(config.seed)
    if isinstance(config, MedusaConfig):
        return MedusaNetwork(hidden, config.heads, config.layers)
    if isinstance(config, HydraConfig):
        layer = layers_of(runtime, 1, config.intermediate_size)
        prefix = layer if config.arch == "prefix-mlp" else None
        return HydraNetwork(HydraHeadConfig(config.heads, config.layers, hidden, prefix))
    assert isinstance(config, DraftLMConfig), "one of the three recipes"
    network = DraftLMNetwork(layers_of(runtime, config.layers, config.intermediate_size))
    norm = getattr(runtime.model.get_decoder(), "norm", None)
    if norm is not None and network.stack.norm is not None:  # the LM head reads what that norm gives
        network.stack.norm.weight.data.copy_(norm.weight)
    if config.target_start:
        copy_layers(network, runtime)
    return network


def copy_layers(network: DraftLMNetwork, runtime: TorchRuntime) -> None:
    """Start from the target's first layers, which read the same embedding (docs/log.md, 2026-11-27).

    Raises:
        ConfigError: they have other sizes or parts.
    """
    for own, layer in zip(network.stack.layers, runtime.model.get_decoder().layers, strict=False):
        try:
            own.load_state_dict({name: weight.clone() for name, weight in layer.state_dict().items()})
        except RuntimeError as error:
            raise ConfigError(
                "the target's layers have other sizes or parts than the draft model's; "
                "train with --no-target-start."
            ) from error


class DraftTrainer(Trainer[DraftConfig, nn.Module]):
    """One training run of such a network.

    Args:
        runtime: the target on torch.
        samples: its answers to train on.
        config: the recipe, which also says what is trained.
        draft_ids: (M,) ascending ids of the draft vocabulary, or None for all.
        features: where features come from.
    """

    def __init__(
        self,
        runtime: TorchRuntime,
        samples: list[Sample],
        config: DraftConfig,
        draft_ids: Ints | None,
        features: FeatureSource,
    ) -> None:
        network = make_network(runtime, config)
        if isinstance(config, MedusaConfig | HydraConfig) and config.closed_form_start:
            assert isinstance(network, MedusaNetwork | HydraNetwork), "made for this recipe"
            fit_maps(network, runtime, samples, features, config.seed)
        super().__init__(runtime, samples, config, network, features)
        self.inputs |= {"draft vocabulary": vocabulary_digest(draft_ids)}
        self._draft_ids = np.arange(runtime.target.vocab_size) if draft_ids is None else draft_ids
        # A runtime's tensors are made for inference; a copy may stand in a graph.
        self._head_weight = runtime.lm_head(draft_ids).weight.clone()
        self._decay: float = getattr(config, "head_decay", 1.0)

    def empty_network(self) -> nn.Module:
        """A network of the same sizes."""
        return make_network(self._runtime, self.config)

    def loss(self, samples: list[Sample], generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """A batch's loss, and per output the share of rows where draft and target agree on the best token."""
        features = self._features.get(samples)
        weights = [
            row_weights(sample, len(feature), self.config.prompt_share, generator)
            for sample, feature in zip(samples, features, strict=True)
        ]
        total, agreements = torch.zeros((), device=self.device), []
        for depth, (output, wanted, counts) in enumerate(
            self._outputs(self.network, samples, features, weights)
        ):
            loss, agreement = classification_loss(output, wanted, self._head_weight, counts)
            total = total + self._decay**depth * loss
            agreements.append(agreement)
        return total, agreements

    @torch.no_grad()
    def accuracy(self, network: nn.Module, samples: Sequence[Sample]) -> list[float]:
        """Per output, how often its best token is the target's, of the *whole* vocabulary, in answers."""
        hits: list[list[Tensor]] = []
        whole = self._runtime.lm_head()
        for sample in samples:
            features = self._features.get([sample])
            weights = [row_weights(sample, len(features[0]), 0.0, torch.Generator())]
            for depth, (output, wanted, _) in enumerate(self._outputs(network, [sample], features, weights)):
                drafted = (output.to(self._head_weight.dtype) @ self._head_weight.T).argmax(dim=-1)
                best = whole.raw_logits(wanted).argmax(dim=-1).cpu()
                hits.extend([] for _ in range(depth + 1 - len(hits)))
                hits[depth].append(torch.from_numpy(self._draft_ids)[drafted.cpu()] == best)
        return [round(float(torch.cat(found).float().mean()), 4) for found in hits]

    def _outputs(
        self, network: nn.Module, samples: Sequence[Sample], features: list[Tensor], weights: list[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per output of the network: (R, H) itself, (R, H) features it stands in for, (R,) weights."""
        most = max(map(len, features))
        tokens = pad_rows(
            [torch.tensor(s.token_ids[: len(f)]) for s, f in zip(samples, features, strict=True)], most
        )
        embeddings = self._runtime.embed(tokens.numpy().ravel()).clone().view(*tokens.shape, -1)
        padded, counts = (pad_rows(part, most).to(self.device) for part in (features, weights))
        known_rows = [teacher_rows(s, len(f)) for s, f in zip(samples, features, strict=True)]
        ends = torch.tensor(known_rows, device=self.device)
        rows: Rows = counts.nonzero(as_tuple=True)  # type: ignore[assignment]
        draft = cast(DraftNetwork, network)
        with self._autocast():
            outputs = draft(embeddings, padded, rows)
        for depth, output in enumerate(outputs):
            wanted = rows[1] + draft.ahead + depth
            known = wanted < ends[rows[0]]
            if known.any():
                at = (rows[0][known], wanted[known])
                yield output[known], padded[at], counts[rows][known]


def row_weights(sample: Sample, rows: int, prompt_share: float, generator: torch.Generator) -> Tensor:
    """(rows,) what drafting from each row counts: 1 from the last prompt row on, where decoding begins."""
    first = len(sample.prompt_ids) - 1
    weights = torch.zeros(rows)
    weights[first:] = 1
    if prompt_share:
        chosen = torch.rand(first, generator=generator) < prompt_share
        weights[:first][chosen[:rows]] = 0.5
    return weights


def teacher_rows(sample: Sample, rows: int) -> int:
    """How many of the first `rows` features count: what follows the last token is nobody's business."""
    return min(rows, len(sample) - 1)


def fit_maps(
    network: MedusaNetwork | HydraNetwork,
    runtime: TorchRuntime,
    samples: list[Sample],
    features: FeatureSource,
    seed: int,
) -> None:
    """Start each head from the linear map of what it reads to the feature that it stands in for."""

    def rows_of(head: int) -> Iterable[tuple[Sequence[Tensor], Tensor]]:
        for sample, feature in some_rows(samples, features, seed, FIT_ROWS):
            count = teacher_rows(sample, len(feature)) - 1 - head
            if count > 0:
                ids = np.array(sample.token_ids[: len(feature)])
                embeddings, clean = runtime.embed(ids).cpu().float()[None], feature.float()[None]
                at = (torch.zeros(count, dtype=torch.long), torch.arange(count))
                inputs = [*network.parts(embeddings, clean, at)][head]
                yield torch.split(inputs, feature.shape[1], dim=-1), feature[1 + head :][:count]

    with torch.no_grad():
        for head, linear in enumerate(network.maps):
            assert isinstance(linear, nn.Linear), "a linear map"
            fit_linear(linear, rows_of(head))
