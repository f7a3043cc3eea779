"""Trains an EAGLE head: module, recipe and loss.

Source: EAGLE (arXiv 2401.15077), Sec. 4.2 and App.; the defaults of `EagleRecipe` are that recipe. Options
raise the acceptance of a small target beyond it (closed-form start, cross-entropy weight, training-time test,
more layers, draft vocabulary); docs/training.md says which were used for the head that ships, and why.

Training-time test, from EAGLE-3 (arXiv 2503.01840) and HASS (arXiv 2408.15766), here for the EAGLE-1/2 head:
the head runs on its own outputs, as in decoding. A chain begins at an anchor a, whose pair is true, and its
step s is the pair at row a + s. It may see true pairs only up to its anchor, and then the drafted ones of its
own chain:

    step 0, row a        keys: true pairs 0..a
    step 1, row a + 1    true 0..a, own pair of step 1
    step 2, row a + 2    true 0..a, pair of step 1 at a + 1, own pair of step 2

A pair of step s at row i is (output of the chain's step s - 1, x_{i+1}): the prediction of f_i from one row
earlier. Masks and positions are therefore those of decoding, exactly. Chains cost by their number, so steps
after the first may ask a share of the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from eyas.config import Option
from eyas.drafters.eagle2 import Eagle2Options
from eyas.drafters.eagle_head import EAGLE, EagleHeadConfig
from eyas.drafters.head_arrays import Arrays
from eyas.drafters.head_layers import MAX_LAYERS, stack_document
from eyas.engine.tree import Ints
from eyas.errors import ConfigError
from eyas.models import Progress
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.runtimes.torch.layers import DecoderStack, grouped_attention
from eyas.training.closed_form import fit_linear
from eyas.training.config import Recipe
from eyas.training.coupling import fit_coupled_scale
from eyas.training.data import Sample
from eyas.training.losses import classification_loss, regression_loss
from eyas.training.measure import UNCOUPLED, Case
from eyas.training.networks import HeadNetwork, layers_like_the_targets, pad_rows
from eyas.training.trainer import Trainer, some_rows

FIT_ROWS = 45_000  # of the closed-form start
SCALE_ANSWERS = 400  # that coupled scales are fitted to, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class EagleRecipe(Recipe):
    """How to train an EAGLE head. Defaults: EAGLE-1's published recipe, with fewer steps."""

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
    loss_vocab: Annotated[
        int | None,
        Option("compare the N most frequent tokens in the loss; without it the draft vocabulary", at_least=1),
    ] = None
    regression_weight: Annotated[float, Option("weight of the loss on features", at_least=0)] = 1.0
    ce_weight: Annotated[float, Option("weight of the loss on token distributions", at_least=0)] = 0.1
    scaled_regression: Annotated[
        bool, Option("divide features by their standard deviation in each dimension")
    ] = False
    noise: Annotated[
        float, Option("size of the uniform noise on features, times 512 / length", at_least=0)
    ] = 0.2
    steps: Annotated[
        int,
        Option("steps of training-time test, in which the head reads its own output; 1 has none", at_least=1),
    ] = 1
    step_decay: Annotated[float, Option("weight of step s is this to the power of s", at_least=0)] = 0.8
    step_share: Annotated[
        float, Option("share of tokens that the steps after the first continue from", at_least=0, at_most=1)
    ] = 1.0
    first_pair: Annotated[
        bool, Option("also train on the pair of the prompt's last feature and the answer's first token")
    ] = False
    closed_form_start: Annotated[bool, Option("initialise with a linear map fitted in closed form")] = False


class EagleNetwork(HeadNetwork):
    """fc over [embedding; feature], then decoder layers."""

    def __init__(self, spec: StackSpec) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * spec.hidden_size, spec.hidden_size)
        self.stack = DecoderStack(spec)

    def unroll(
        self, embeddings: Tensor, features: Tensor, steps: int, anchors: Tensor | None = None
    ) -> list[Tensor]:
        """Outputs of each step.

        Args:
            embeddings: (B, T, H) of the tokens x_1..x_T.
            features: (B, T, H) true features f_0..f_{T-1}.
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
        outputs = [self._advance(embeddings, features, rows, kept, None)]
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

        output: Tensor = self.stack(self.fc(torch.cat((embeddings, features), dim=-1)), positions, attend)
        return output

    def document(self) -> dict[str, Any]:
        """Entries of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **stack_document(self.stack.spec),
            "torch_dtype": "bfloat16",
            "bias": True,
        }

    def tensor_name(self, name: str) -> str:
        """The published name."""
        return name.removeprefix("stack.")

    def load_weights(self, weights: Arrays) -> None:
        """Take a head's weights; a missing fc.bias is zero."""
        bias = np.zeros(self.fc.out_features, dtype=np.float32)
        super().load_weights({"fc.bias": bias, **weights})


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


class EagleTrainer(Trainer[EagleRecipe, EagleNetwork]):
    """A training run of an EAGLE head."""

    kind = EAGLE
    method = "eagle2"
    recipe = EagleRecipe
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

    @classmethod
    def make_network(cls, runtime: TorchDraftRuntime, config: EagleRecipe) -> EagleNetwork:
        """A head with random weights; its output lives in the target's feature space."""
        stack = layers_like_the_targets(
            runtime, config.layers or 1, config.intermediate_size, first_input_norm=False, final_norm=False
        )
        return EagleNetwork(stack)

    @classmethod
    def sized_like(cls, config: EagleRecipe, head: EagleHeadConfig | None) -> EagleRecipe:
        """The recipe with its number of layers, and the sizes of the head to continue from."""
        if head is None:
            return replace(config, layers=config.layers or 1)
        stack = head.stack
        for name, given, has in (
            ("layers", config.layers, stack.num_layers),
            ("intermediate_size", config.intermediate_size, stack.mlp_size),
        ):
            if given not in (None, has):
                raise ConfigError(
                    f"{name} is {given}, but the head to start from has {has}; leave out one of the two."
                )
        return replace(config, layers=stack.num_layers, intermediate_size=stack.mlp_size)

    @classmethod
    def loss_vocab(cls, config: EagleRecipe) -> int | None:
        """As the recipe says."""
        return config.loss_vocab

    def initialise(self, network: EagleNetwork) -> None:
        """Where the recipe asks for it, fit fc in closed form, with layers that add nothing yet."""
        if self.config.closed_form_start:
            silence(network, self.config.seed)
            fit_linear(network.fc, self._fit_rows())

    def fitted(
        self, network: EagleNetwork, draft_ids: Ints | None, seconds: float | None, progress: Progress
    ) -> dict[str, Any]:
        """The scale of coupled confidences."""
        answers = self.train[:SCALE_ANSWERS]
        network = network.to(self.device)
        scale = fit_coupled_scale(
            self._runtime,
            network.unroll,
            self._features,
            answers,
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
        noisy = pad_rows([f[:-1] + self._noise(f[:-1], generator) for f in clean], rows).to(self.device)
        weights = pad_rows(
            [self.counts * self._weights(s, len(f), generator) for s, f in zip(samples, clean, strict=True)],
            rows,
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
        config, total = self.config, self.processes.total(weights)
        loss, agreement = classification_loss(output, feature, self._head_weight, weights, total)
        loss = config.ce_weight * loss
        if config.regression_weight:
            distance = regression_loss(output, feature, self._spread, weights, total)
            loss = loss + config.regression_weight * distance
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
            weights[-1] = 0  # nothing is known beyond the answer's last token
        return weights

    def _noise(self, feature: Tensor, generator: torch.Generator) -> Tensor:
        if not self.config.noise:
            return torch.zeros_like(feature)
        size = self.config.noise * 512 / (len(feature) + 1)
        return ((torch.rand(feature.shape, generator=generator) - 0.5) * size).to(feature.dtype)

    @cached_property
    def _spread(self) -> Tensor | None:
        """(H,) standard deviation of features; None where the loss does not use it."""
        if not self.config.scaled_regression:
            return None
        rows = torch.cat(self._features.get(self.train[:64])).float()
        return rows.std(dim=0).clamp(min=1e-6).to(self.device)

    def _fit_rows(self) -> Iterator[tuple[Sequence[Tensor], Tensor]]:
        """Pairs and the features that follow, for the closed-form start."""
        for sample, feature in some_rows(self.train, self._features, self.config.seed, FIT_ROWS):
            ids = np.array(sample.token_ids[1 : len(feature)])
            yield [self._runtime.embed(ids).cpu().float(), feature[:-1].float()], feature[1:].float()


def silence(network: EagleNetwork, seed: int) -> None:
    """Random weights of layers that add nothing yet."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")) or name.endswith(".bias"):
            nn.init.zeros_(weight)
        elif weight.dim() > 1:
            nn.init.normal_(weight, std=0.02, generator=generator)


def draw_chains(weights: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, N) rows where chains begin, a random `share` of those that count, and (B, N) what they count.

    Sequences with fewer chains are filled up with ones that count nothing.
    """
    chosen = (weights > 0) & (torch.rand(weights.shape, generator=generator) < share)
    found = [row.nonzero()[:, 0] for row in chosen]
    most = max(1, *map(len, found))
    asked = [row[anchors] for row, anchors in zip(weights, found, strict=True)]
    return pad_rows(found, most), pad_rows(asked, most)
