"""Training-time test: an EAGLE head learns on chains of its own outputs, as it drafts.

Source: EAGLE-3 (arXiv 2503.01840), Sec. 3.2, and HASS (arXiv 2408.15766), for heads of every
EAGLE. A chain begins at an anchor a, whose pair is true, and its step s is the pair at row a + s. It may see
true pairs only up to its anchor, and then the drafted ones of its own chain:

    step 0, row a        keys: true pairs 0..a
    step 1, row a + 1    true 0..a, own pair of step 1
    step 2, row a + 2    true 0..a, pair of step 1 at a + 1, own pair of step 2

A pair of step s at row i is (output of the chain's step s - 1, x_{i+1}): the prediction of f_i from one row
earlier. Masks and positions are therefore those of decoding, exactly. Chains cost by their number, so steps
after the first may ask a share of the rows.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from eyas.config import Option
from eyas.drafters.eagle2 import Eagle2Options
from eyas.drafters.head_layers import MAX_LAYERS
from eyas.engine.tree import Ints
from eyas.errors import ConfigError
from eyas.models import Progress
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.layers import Attend, DecoderStack, grouped_attention
from eyas.training.config import Recipe
from eyas.training.coupling import fit_coupled_scale
from eyas.training.data import Sample
from eyas.training.measure import UNCOUPLED, Case
from eyas.training.networks import HeadNetwork, pad_rows
from eyas.training.trainer import Trainer

SCALE_ANSWERS = 400  # that coupled scales are fitted to, at most

Steps = Annotated[
    int,
    Option("steps of training-time test, in which the head reads its own output; 1 has none", at_least=1),
]
Noise = Annotated[float, Option("size of the uniform noise on features, times 512 / length", at_least=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRecipe(Recipe):
    """How to train a head of any EAGLE."""

    layers: Annotated[
        int | None,
        Option(
            "decoder layers of the head; without it 1, or those of --start", at_least=1, at_most=MAX_LAYERS
        ),
    ] = None
    intermediate_size: Annotated[
        int | None,
        Option("width of the head's MLP; without it the target's, or that of --start", at_least=1),
    ] = None
    noise: Noise = 0.0
    steps: Steps = 1
    step_decay: Annotated[float, Option("weight of step s is this to the power of s", at_least=0)] = 0.8
    step_share: Annotated[
        float, Option("share of tokens that the steps after the first continue from", at_least=0, at_most=1)
    ] = 1.0
    first_pair: Annotated[
        bool, Option("also train on the pair of the prompt's last feature and the answer's first token")
    ] = False


Config = TypeVar("Config", bound=ChainRecipe)
Network = TypeVar("Network", bound="ChainNetwork")


class ChainNetwork(HeadNetwork):
    """Decoder layers over (embedding, feature); their outputs take the place of features.

    Attributes:
        stack: the layers.
    """

    stack: DecoderStack

    def take(self, features: Tensor) -> Tensor:
        """(B, T, H) what a chain begins with, of the target's features (B, T, F)."""
        return features

    @abstractmethod
    def predict(self, embeddings: Tensor, features: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """(B, T, H) the next features."""

    def unroll(
        self, embeddings: Tensor, features: Tensor, steps: int, anchors: Tensor | None = None
    ) -> list[Tensor]:
        """Outputs of each step.

        Args:
            embeddings: (B, T, H) of the tokens x_1..x_T.
            features: (B, T, F) true features f_0..f_{T-1}.
            steps: 1 is teacher forcing alone; further steps feed outputs back.
            anchors: (B, N) rows where chains begin; None is every row.

        Returns:
            (B, T, H) of the first step: row j predicts f_{j+1}. Then (B, N, H) for each further step s:
            entry (b, i) is at row anchors[b, i] + s; beyond the last row it is undefined.
        """
        count, device = embeddings.shape[1], embeddings.device
        kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.stack.layers]
        rows = torch.arange(count, device=device)
        if anchors is None:
            anchors = rows.expand(len(embeddings), count)
        outputs = [self._advance(embeddings, self.take(features), rows, kept, None)]
        before = outputs[0].take_along_dim(anchors[..., None], dim=1) if steps > 1 else outputs[0]
        for step in range(1, steps):
            at = (anchors + step).clamp(max=count - 1)
            tokens = embeddings.take_along_dim(at[..., None], dim=1)
            mask = chain_mask(anchors, count, step)
            before = self._advance(tokens, before.to(features.dtype), at[:, None], kept, mask)
            outputs.append(before)
        return outputs

    def _advance(
        self,
        embeddings: Tensor,
        features: Tensor,
        positions: Tensor,
        kept: list[list[tuple[Tensor, Tensor]]],
        mask: Tensor | None,
    ) -> Tensor:
        """One step; its keys and values join those `kept` per layer."""

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            kept[layer].append((key, value))
            keys = torch.cat([k for k, _ in kept[layer]], dim=2)
            values = torch.cat([v for _, v in kept[layer]], dim=2)
            return grouped_attention(query, keys, values, mask, causal=mask is None)

        return self.predict(embeddings, features, positions, attend)

    def tensor_name(self, name: str) -> str:
        """The published name."""
        return name.removeprefix("stack.")


def chain_mask(anchors: Tensor, rows: int, step: int) -> Tensor:
    """(B, 1, N, rows + step * N) which keys each of N chains sees: the true ones, then those of its steps.

    For 3 rows, the chains of all of them, and step 1:

        row 0 + 1    x . .   x . .
        row 1 + 1    x x .   . x .
        row 2 + 1    x x x   . . x
    """
    true = torch.arange(rows, device=anchors.device) <= anchors[..., None]
    own = torch.eye(anchors.shape[1], dtype=torch.bool, device=anchors.device).expand(len(anchors), -1, -1)
    return torch.cat((true, *[own] * step), dim=-1)[:, None]


def draw_chains(weights: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, N) rows where chains begin, a random `share` of those that count, and (B, N) what they count.

    Sequences with fewer chains are filled up with ones that count nothing.
    """
    chosen = (weights > 0) & (torch.rand(weights.shape, generator=generator) < share)
    found = [row.nonzero()[:, 0] for row in chosen]
    most = max(1, *map(len, found))
    asked = [row[anchors] for row, anchors in zip(weights, found, strict=True)]
    return pad_rows(found, most), pad_rows(asked, most)


class ChainTrainer(Trainer[Config, Network], Generic[Config, Network]):
    """A training run of a head of any EAGLE; a kind adds what its loss compares."""

    is_parallel = True
    # Trees by the target's query tokens, root included.
    cases = (
        Case(name="60 rows", options=Eagle2Options()),
        Case(name="16 rows", options=Eagle2Options(draft_tokens=15)),
        Case(name="8 rows", options=Eagle2Options(draft_tokens=7, depth=3)),
        Case(name="60 rows, top-k", tree=UNCOUPLED, options=Eagle2Options(), is_sampled=True),
    )
    # Before coupled scales are fitted.
    quick_case = Case(name="60 rows", tree=UNCOUPLED, options=Eagle2Options())
    skips_other_tokens: ClassVar[bool] = False  # rows before tokens that are not in the draft vocabulary

    @classmethod
    def sized_like(cls, config: Config, head: Any) -> Config:
        """The recipe with its number of layers, and the sizes of the head to continue from."""
        if head is None:
            return replace(config, layers=config.layers or 1)
        stack: StackSpec = head.stack
        for name, given, has in (
            ("layers", config.layers, stack.num_layers),
            ("intermediate_size", config.intermediate_size, stack.mlp_size),
        ):
            if given not in (None, has):
                raise ConfigError(
                    f"{name} is {given}, but the head to start from has {has}; leave out one of the two."
                )
        return replace(config, layers=stack.num_layers, intermediate_size=stack.mlp_size)

    @abstractmethod
    def draft_logits(self, network: Network, draft_ids: Ints | None) -> Callable[[Tensor], Tensor]:
        """What gives (R, M) logits of the draft vocabulary for a network's outputs (R, H)."""

    @abstractmethod
    def loss_of(self, outputs: Tensor, features: Tensor, weights: Tensor) -> tuple[Tensor, float]:
        """The loss of outputs (R, H) where the target's final features (R, H) were to come, by weight (R,).

        Returns:
            The loss, and how often draft and target agree on the best token.
        """

    def inputs_of(self, features: Tensor) -> Tensor:
        """(.., F) what the head reads of the trainer's features: all, unless a kind differs."""
        return features

    def fitted(
        self, network: Network, draft_ids: Ints | None, seconds: float | None, progress: Progress
    ) -> dict[str, Any]:
        """The scale of coupled confidences."""
        network = network.to(self.device)
        scale = fit_coupled_scale(
            self._runtime,
            lambda embeddings, features, *rest: network.unroll(embeddings, self.inputs_of(features), *rest),
            self.draft_logits(network, draft_ids),
            self._features,
            self.train[:SCALE_ANSWERS],
            draft_ids,
            seconds=seconds,
            progress=progress,
        )
        return {"coupled_scale": list(scale)}

    def loss(self, samples: list[Sample], generator: torch.Generator) -> tuple[Tensor, list[float]]:
        """A batch's loss, and per step the share of rows where draft and target agree on the best token."""
        config = self.config
        clean = self._features.get(samples)
        rows = max(map(len, clean)) - 1
        tokens = pad_rows(
            [torch.tensor(s.token_ids[1 : len(f)]) for s, f in zip(samples, clean, strict=True)], rows
        )
        noisy = [(part := self.inputs_of(f[:-1])) + self._noise(part, generator) for f in clean]
        weights = pad_rows(
            [self.counts * self._weights(s, len(f), generator) for s, f in zip(samples, clean, strict=True)],
            rows,
        )
        hidden = self._runtime.target.hidden_size
        following = pad_rows([feature[1:, -hidden:] for feature in clean], rows).to(self.device)
        embeddings = self._runtime.embed(tokens.numpy().ravel()).view(*tokens.shape, -1)
        anchors = asked = None
        if config.steps > 1:
            drawn = draw_chains(weights, config.step_share, generator)
            anchors, asked = (part.to(self.device) for part in drawn)
        weights = weights.to(self.device)
        with self._autocast():
            outputs = self.network.unroll(
                embeddings, pad_rows(noisy, rows).to(self.device), config.steps, anchors
            )
        last = ((weights > 0) * torch.arange(rows, device=self.device)).amax(dim=1, keepdim=True)
        learnable = pad_rows([self._learnable(s, len(f)) for s, f in zip(samples, clean, strict=True)], rows)
        learnable = learnable.to(self.device)
        total, agreements = torch.zeros((), device=self.device), []
        for step, output in enumerate(outputs):
            counting, wanted = weights * learnable, following
            if anchors is not None and asked is not None and step:
                at = (anchors + step).clamp(max=rows - 1)
                counting = asked * (anchors + step <= last) * learnable.take_along_dim(at, dim=1)
                wanted = following.take_along_dim(at[..., None], dim=1)
            counts = counting > 0
            loss, agreement = self.loss_of(output[counts], wanted[counts], counting[counts])
            total = total + config.step_decay**step * loss
            agreements.append(agreement)
        return total, agreements

    def _learnable(self, sample: Sample, rows: int) -> Tensor:
        """(rows - 1,) 1 where the head can draft the token that a pair leads to, else 0."""
        if not self.skips_other_tokens:
            return torch.ones(rows - 1)
        led_to = np.array(sample.token_ids[2 : rows + 1])
        found = torch.from_numpy(np.isin(led_to, self.draft_ids)).float()
        return pad_rows([found], rows - 1)[0]

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
            weights[-1] = 0  # nothing is known beyond the answer's last token
        return weights

    def _noise(self, feature: Tensor, generator: torch.Generator) -> Tensor:
        if not self.config.noise:
            return torch.zeros_like(feature)
        size = self.config.noise * 512 / (len(feature) + 1)
        return ((torch.rand(feature.shape, generator=generator) - 0.5) * size).to(feature.dtype)
