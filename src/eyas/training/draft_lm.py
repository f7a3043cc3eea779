"""Trains a small draft language model: module and recipe; the loss is that of `distillation`.

Decoder layers between the target's own embedding and LM head. They read x_0..x_t and stand in for f_t.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from eyas.config import Option
from eyas.drafters.head_layers import MAX_LAYERS, stack_document
from eyas.drafters.sps import DRAFT_LM, SpsOptions
from eyas.errors import ConfigError
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.runtimes.torch.layers import DecoderStack
from eyas.training.distillation import DistillationRecipe, DistillationTrainer, DistilledNetwork, Rows
from eyas.training.measure import UNCOUPLED, Case
from eyas.training.networks import layers_like_the_targets, run_causally, silenced


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLMRecipe(DistillationRecipe):
    """How to train a small draft language model on the target's embedding and LM head."""

    layers: Annotated[int, Option("decoder layers", at_least=1, at_most=MAX_LAYERS)] = 2
    intermediate_size: Annotated[
        int | None, Option("width of the layers' MLPs; without it the target's", at_least=1)
    ] = None
    target_start: Annotated[
        bool, Option("initialise with copies of the target's first layers; off, at random")
    ] = True
    weight_decay: float = 0.1


class DraftLMNetwork(DistilledNetwork):
    """Decoder layers between the target's embedding and LM head."""

    ahead = 0

    def __init__(self, spec: StackSpec) -> None:
        super().__init__()
        self.stack = silenced(DecoderStack(spec))

    def forward(self, embeddings: Tensor, features: Tensor, rows: Rows) -> list[Tensor]:
        """One output: a language model looks one token ahead."""
        del features
        return [run_causally(self.stack, embeddings)[rows]]

    def document(self) -> dict[str, Any]:
        """Entries of config.json."""
        return {"model_type": "eyas-draft-lm", **stack_document(self.stack.spec)}

    def tensor_name(self, name: str) -> str:
        """As in a Llama's file, without a prefix."""
        return name.removeprefix("stack.")


class DraftLMTrainer(DistillationTrainer[DraftLMRecipe, DraftLMNetwork]):
    """A training run of a draft language model."""

    kind = DRAFT_LM
    method = "sps"
    recipe = DraftLMRecipe
    cases = (
        Case(name="heuristic", options=SpsOptions()),
        Case(name="confidence", options=SpsOptions(sps_length="confidence")),
        Case(name="heuristic, top-k", tree=UNCOUPLED, options=SpsOptions(), is_sampled=True),
    )

    @classmethod
    def make_network(cls, runtime: TorchDraftRuntime, config: DraftLMRecipe) -> DraftLMNetwork:
        """Layers like the target's, with its final norm and, where the recipe says so, its first layers."""
        network = DraftLMNetwork(layers_like_the_targets(runtime, config.layers, config.intermediate_size))
        norm = runtime.norm_weight
        if norm is not None and network.stack.norm is not None:  # the LM head reads what that norm gives
            network.stack.norm.weight.data.copy_(norm)
        if config.target_start:
            copy_layers(network, runtime)
        return network


def copy_layers(network: DraftLMNetwork, runtime: TorchDraftRuntime) -> None:
    """Copy the target's first layers, which read the same embedding (docs/log.md, 2026-11-27).

    Raises:
        ConfigError: they have other sizes or parts.
    """
    for index, own in zip(range(runtime.target.num_layers), network.stack.layers, strict=False):
        weights = runtime.layer_weights(index)
        try:
            own.load_state_dict({name: weight.clone() for name, weight in weights.items()})
        except RuntimeError as error:
            raise ConfigError(
                "the target's layers have other sizes or parts than the draft model's; "
                "train with --no-target-start."
            ) from error
