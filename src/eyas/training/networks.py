"""What the networks of all kinds of heads share: names in their file, parts, fresh weights, causal passes.

Shapes: B samples, T tokens of a padded batch, H hidden size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eyas.drafters.head_arrays import Arrays
from eyas.models.spec import StackSpec, llama_stack
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.runtimes.torch.layers import DecoderStack, grouped_attention


class HeadNetwork(nn.Module, ABC):
    """A head as a module that training runs on whole sequences."""

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """Its sizes, as entries of config.json."""

    def tensor_name(self, name: str) -> str:
        """The name in the head's file of the parameter `name`; the same unless a kind says otherwise."""
        return name

    def to_weights(self) -> Arrays:
        """float32 arrays by their names in the head's file."""
        return {
            self.tensor_name(name): weight.detach().to(torch.float32).cpu().numpy()
            for name, weight in self.state_dict().items()
        }

    def load_weights(self, weights: Arrays) -> None:
        """Take the weights of a head's file.

        Raises:
            KeyError: a tensor is missing, or the network has none of that name.
            RuntimeError: a tensor has another shape.
        """
        names = {self.tensor_name(name): name for name in self.state_dict()}
        if differing := sorted(names.keys() ^ weights.keys()):
            raise KeyError(differing[0])
        named = {names[tensor]: array for tensor, array in weights.items()}
        self.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in named.items()})


def layers_like_the_targets(
    runtime: TorchDraftRuntime,
    count: int,
    intermediate_size: int | None,
    *,
    first_input_norm: bool = True,
    final_norm: bool = True,
) -> StackSpec:
    """Decoder layers sized like the target's; `intermediate_size` None is the target's too."""
    target = runtime.text_config
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


def run_causally(stack: DecoderStack, inputs: Tensor) -> Tensor:
    """(B, T, H) outputs where a token sees itself and those before it; padding comes last."""

    def attend(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return grouped_attention(query, key, value, None, causal=True)

    outputs: Tensor = stack(inputs, torch.arange(inputs.shape[1], device=inputs.device), attend)
    return outputs


def silenced(stack: DecoderStack) -> DecoderStack:
    """Layers that add nothing to the residual stream yet, with small random weights elsewhere."""
    for name, weight in stack.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")) or name.endswith(".bias"):
            nn.init.zeros_(weight)
        elif weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)
    return stack


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer of zeros."""
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def identity_linear(size: int) -> nn.Linear:
    """A linear layer that passes its input on."""
    linear = zero_linear(size, size)
    nn.init.eye_(linear.weight)
    return linear


def pad_rows(arrays: Sequence[Tensor], rows: int) -> Tensor:
    """(B, rows, ..) of arrays (T_i, ..), zeros after each."""
    padded = arrays[0].new_zeros((len(arrays), rows, *arrays[0].shape[1:]))
    for index, array in enumerate(arrays):
        padded[index, : len(array)] = array
    return padded
