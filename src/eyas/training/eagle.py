"""Trains an EAGLE head: module, recipe and loss.

Source: EAGLE (arXiv 2401.15077), Sec. 4.2 and App.; the defaults of `EagleRecipe` are that recipe. Options
raise the acceptance of a small target beyond it (closed-form start, cross-entropy weight, training-time test,
more layers, draft vocabulary); docs/training.md says which were used for the head that ships, and why.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from eyas.config import Option
from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.head_arrays import Arrays
from eyas.drafters.head_layers import stack_document
from eyas.engine.tree import Ints
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.runtimes.torch.layers import Attend, DecoderStack
from eyas.training.chains import ChainNetwork, ChainRecipe, ChainTrainer, Noise
from eyas.training.closed_form import fit_linear
from eyas.training.losses import classification_loss, regression_loss
from eyas.training.networks import layers_like_the_targets
from eyas.training.trainer import some_rows

FIT_ROWS = 45_000  # of the closed-form start


@dataclass(frozen=True, slots=True, kw_only=True)
class EagleRecipe(ChainRecipe):
    """How to train an EAGLE head. Defaults: EAGLE-1's published recipe, with fewer steps."""

    loss_vocab: Annotated[
        int | None,
        Option("compare the N most frequent tokens in the loss; without it the draft vocabulary", at_least=1),
    ] = None
    regression_weight: Annotated[float, Option("weight of the loss on features", at_least=0)] = 1.0
    ce_weight: Annotated[float, Option("weight of the loss on token distributions", at_least=0)] = 0.1
    scaled_regression: Annotated[
        bool, Option("divide features by their standard deviation in each dimension")
    ] = False
    noise: Noise = 0.2
    closed_form_start: Annotated[bool, Option("initialise with a linear map fitted in closed form")] = False


class EagleNetwork(ChainNetwork):
    """fc over [embedding; feature], then decoder layers."""

    def __init__(self, spec: StackSpec) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * spec.hidden_size, spec.hidden_size)
        self.stack = DecoderStack(spec)

    def predict(self, embeddings: Tensor, features: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The next features."""
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

    def load_weights(self, weights: Arrays) -> None:
        """Take a head's weights; a missing fc.bias is zero."""
        bias = np.zeros(self.fc.out_features, dtype=np.float32)
        super().load_weights({"fc.bias": bias, **weights})


class EagleTrainer(ChainTrainer[EagleRecipe, EagleNetwork]):
    """A training run of an EAGLE head."""

    kind = EAGLE
    method = "eagle2"
    recipe = EagleRecipe

    @classmethod
    def make_network(cls, runtime: TorchDraftRuntime, config: EagleRecipe) -> EagleNetwork:
        """A head with random weights; its output lives in the target's feature space."""
        stack = layers_like_the_targets(
            runtime, config.layers or 1, config.intermediate_size, first_input_norm=False, final_norm=False
        )
        return EagleNetwork(stack)

    @classmethod
    def loss_vocab(cls, config: EagleRecipe) -> int | None:
        """As the recipe says."""
        return config.loss_vocab

    def initialise(self, network: EagleNetwork) -> None:
        """Where the recipe asks for it, fit fc in closed form, with layers that add nothing yet."""
        if self.config.closed_form_start:
            silence(network, self.config.seed)
            fit_linear(network.fc, self._fit_rows())

    def draft_logits(self, network: EagleNetwork, draft_ids: Ints | None) -> Callable[[Tensor], Tensor]:
        """Those of the target's LM head."""
        del network  # whatever it is, its outputs are features
        lm_head = self._runtime.lm_head(draft_ids)
        return lambda outputs: lm_head.raw_logits(outputs.to(self._runtime.dtype))

    def loss_of(self, outputs: Tensor, features: Tensor, weights: Tensor) -> tuple[Tensor, float]:
        """Regression to the feature, and cross-entropy of what the LM head makes of both."""
        config, total = self.config, self.processes.total(weights)
        loss, agreement = classification_loss(outputs, features, self._head_weight, weights, total)
        loss = config.ce_weight * loss
        if config.regression_weight:
            distance = regression_loss(outputs, features, self._spread, weights, total)
            loss = loss + config.regression_weight * distance
        return loss, agreement

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
