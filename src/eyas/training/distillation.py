"""Trains heads on the target's own distribution: Medusa heads, Hydra heads, draft models, and kinds to come.

A network reads tokens x_t and the target's features f_t, and gives outputs that stand in for features f_u:
from f_u the target's own LM head gives the token at u + 1. Such an output is asked for softmax(W f_u) over
the draft vocabulary, W being the LM head (cross-entropy with soft labels). Where the network does not see the
tokens in between, these labels have the mean of the tokens that followed, with less noise.

A kind of heads gives a network (`DistilledNetwork`), whose `ahead` says which features its outputs stand in
for; the loss, the accuracy and the closed-form start are here.

Source: DistillSpec (arXiv 2310.08461).

Shapes: B samples, T tokens of a padded batch, H hidden size, R rows: the tokens from which drafting begins.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from eyas.config import Option
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.closed_form import fit_linear
from eyas.training.config import Recipe
from eyas.training.data import Sample
from eyas.training.features import FeatureSource
from eyas.training.losses import classification_loss
from eyas.training.networks import HeadNetwork, pad_rows
from eyas.training.trainer import Trainer, some_rows

FIT_ROWS = 30_000  # of a closed-form start

Rows = tuple[Tensor, Tensor]  # (R,) samples and (R,) positions in them


class DistilledNetwork(HeadNetwork):
    """A network whose outputs stand in for the target's features.

    Attributes:
        ahead: output 0 at position t stands in for the feature at t + ahead, output k for that k further on.
            In decoding t is the position before the root, or for a draft model that of the root itself.
    """

    ahead = 1

    @abstractmethod
    def forward(self, embeddings: Tensor, features: Tensor, rows: Rows) -> list[Tensor]:
        """Outputs (R, H) for (B, T, H) embeddings of x_0.. and (B, T, len(taps) * H) features f_0.."""


class MappedNetwork(DistilledNetwork):
    """One that has a linear layer for each output, which can be fitted in closed form.

    Attributes:
        maps: for each output the linear layer that reads its `parts`.
    """

    maps: nn.ModuleList

    @abstractmethod
    def parts(self, embeddings: Tensor, features: Tensor, rows: Rows) -> Iterator[Tensor]:
        """For each output (R, k H): what its linear layer reads, in pieces of H."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationRecipe(Recipe):
    """Options of a run that learns the target's own distribution."""

    draft_vocab: Annotated[
        int | None, Option("keep the N most frequent tokens as draft vocabulary", at_least=1)
    ] = 8192
    max_length: int = 1280
    epochs: float = 3.0
    batch_rows: int = 2400
    learning_rate: float = 1e-3
    schedule: Literal["linear", "cosine"] = "cosine"
    clip_norm: float = 1.0
    prompt_share: float = 0.1
    ema: float = 0.998


DistilledRecipe = TypeVar("DistilledRecipe", bound=DistillationRecipe)
Distilled = TypeVar("Distilled", bound=DistilledNetwork)


class DistillationTrainer(Trainer[DistilledRecipe, Distilled], Generic[DistilledRecipe, Distilled]):
    """A training run of such a network. A kind says how it is made, and how its method is measured."""

    def initialise(self, network: Distilled) -> None:
        """Where the recipe asks for it, fit the maps in closed form."""
        if getattr(self.config, "closed_form_start", False):
            assert isinstance(network, MappedNetwork), "a network with maps"
            fit_maps(network, self._runtime, self.train, self._features, self.config.seed)

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
            total = total + self._decay(depth) * loss
            agreements.append(agreement)
        return total, agreements

    @torch.no_grad()
    def accuracy(self, network: Any, samples: Sequence[Sample]) -> list[float] | None:
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
                hits[depth].append(torch.from_numpy(self.draft_ids)[drafted.cpu()] == best)
        return [round(float(torch.cat(found).float().mean()), 4) for found in hits]

    def _decay(self, depth: int) -> float:
        """Weight of an output."""
        return float(getattr(self.config, "head_decay", 1.0)) ** depth

    def _outputs(
        self,
        network: DistilledNetwork,
        samples: Sequence[Sample],
        features: list[Tensor],
        weights: list[Tensor],
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per output of the network: (R, H) itself, (R, H) features it stands in for, (R,) weights."""
        most, hidden = max(map(len, features)), self._runtime.target.hidden_size
        tokens = pad_rows(
            [torch.tensor(s.token_ids[: len(f)]) for s, f in zip(samples, features, strict=True)], most
        )
        embeddings = self._runtime.embed(tokens.numpy().ravel()).clone().view(*tokens.shape, -1)
        padded, counts = (pad_rows(part, most).to(self.device) for part in (features, weights))
        known_rows = [teacher_rows(s, len(f)) for s, f in zip(samples, features, strict=True)]
        ends = torch.tensor(known_rows, device=self.device)
        rows: Rows = counts.nonzero(as_tuple=True)  # type: ignore[assignment]
        with self._autocast():
            outputs = network(embeddings, padded, rows)
        for depth, output in enumerate(outputs):
            wanted = rows[1] + network.ahead + depth
            known = wanted < ends[rows[0]]
            if known.any():
                at = (rows[0][known], wanted[known])
                yield output[known], padded[at][:, -hidden:], counts[rows][known]


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
    """How many of the first `rows` features count: nothing is known beyond the last token."""
    return min(rows, len(sample) - 1)


def fit_maps(
    network: MappedNetwork,
    runtime: TorchDraftRuntime,
    samples: list[Sample],
    features: FeatureSource,
    seed: int,
) -> None:
    """Start each output from the linear map of what it reads to the feature that it stands in for."""

    hidden = runtime.target.hidden_size

    def rows_of(head: int) -> Iterable[tuple[Sequence[Tensor], Tensor]]:
        for sample, feature in some_rows(samples, features, seed, FIT_ROWS):
            count = teacher_rows(sample, len(feature)) - 1 - head
            if count > 0:
                ids = np.array(sample.token_ids[: len(feature)])
                embeddings, clean = runtime.embed(ids).cpu().float()[None], feature.float()[None]
                at = (torch.zeros(count, dtype=torch.long), torch.arange(count))
                inputs = [*network.parts(embeddings, clean, at)][head]
                yield torch.split(inputs, hidden, dim=-1), feature[1 + head :][:count, -hidden:]

    with torch.no_grad():
        for head, linear in enumerate(network.maps):
            assert isinstance(linear, nn.Linear), "a linear map"
            fit_linear(linear, rows_of(head))
