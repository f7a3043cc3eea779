"""Medusa, Hydra and the draft language model as modules that training can run on whole sequences.

All read rows t of a sequence, tokens x_t and the target's features f_t, and name a feature f_u that they want
to stand in for: from it the target's own LM head gives the token at u + 1.

    network         output k reads                                  stands in for
    Medusa          f_t                                             f_{t+1+k}
    Hydra           f_t (Hydra++: f_0..f_t), x_{t+1}..x_{t+1+k}     f_{t+1+k}
    draft LM        x_0..x_t                                        f_t

In decoding t is the row before the root; for the draft model, the root's or a drafted token's own.

Shapes: B samples, T rows, H hidden size, R rows that are asked for.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from eyas.drafters.head_layers import stack_document
from eyas.drafters.hydra import PREFIX, HydraHeadConfig
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.layers import DecoderStack, grouped_attention

Rows = tuple[Tensor, Tensor]  # (R,) samples and (R,) rows in them


class DraftNetwork(Protocol):
    """What a training run needs of a network beside its parameters."""

    ahead: int  # output 0 at row t stands in for the feature at t + ahead, output k for that k rows on

    def __call__(self, embeddings: Tensor, features: Tensor, rows: Rows) -> list[Tensor]:
        """Outputs (R, H) for (B, T, H) embeddings of x_0.. and features f_0.."""
        ...

    def document(self) -> dict[str, Any]:
        """Its sizes, as entries of config.json."""
        ...

    def to_weights(self) -> dict[str, NDArray[Any]]:
        """float32 arrays by the names of the checkpoint."""
        ...


class MedusaNetwork(nn.Module):
    """Heads of residual blocks, which begin as the identity, each with a map before the LM head."""

    ahead = 1

    def __init__(self, hidden: int, heads: int, layers: int) -> None:
        super().__init__()
        self.sizes = (hidden, heads, layers)
        self.heads = nn.ModuleList(
            nn.ModuleList(_zeroed(nn.Linear(hidden, hidden)) for _ in range(layers)) for _ in range(heads)
        )
        self.maps = nn.ModuleList(_identity(hidden) for _ in range(heads))

    def forward(self, embeddings: Tensor, features: Tensor, rows: Rows) -> list[Tensor]:
        """Each head on the same features."""
        outputs = []
        for head, output in enumerate(self.parts(embeddings, features, rows)):
            for block in self.heads[head]:  # type: ignore[attr-defined]
                output = output + functional.silu(block(output))
            outputs.append(self.maps[head](output))
        return outputs

    def parts(self, embeddings: Tensor, features: Tensor, rows: Rows) -> Iterator[Tensor]:
        """Per head (R, H): the same features for all."""
        del embeddings
        for _ in self.heads:
            yield features[rows]

    def document(self) -> dict[str, Any]:
        """Entries of config.json."""
        hidden, heads, layers = self.sizes
        return {"hidden_size": hidden, "medusa_num_heads": heads, "medusa_num_layers": layers}

    def to_weights(self) -> dict[str, NDArray[Any]]:
        """By the names of the checkpoint."""
        return _arrays({_medusa_name(*name.split(".")): tensor for name, tensor in self.state_dict().items()})


class HydraNetwork(nn.Module):
    """Heads over feature and path; with a decoder layer over the features first (Hydra++), or without.

    The layer begins as its final norm alone, and a block as its linear shortcut.
    """

    ahead = 1

    def __init__(self, sizes: HydraHeadConfig) -> None:
        super().__init__()
        hidden = sizes.hidden_size
        widths = [(head + 2) * hidden for head in range(sizes.heads)]
        self.sizes = sizes
        self.prefix = None if sizes.prefix is None else quiet(DecoderStack(sizes.prefix))
        self.shortcuts = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.first = nn.ModuleList(_zeroed(nn.Linear(width, hidden)) for width in widths)
        self.shared = nn.ModuleList(
            _zeroed(nn.Linear(hidden, hidden)) for _ in range(sizes.heads if sizes.layers > 1 else 0)
        )

    @property
    def maps(self) -> nn.ModuleList:
        """Per head the linear layer that a closed-form start fits to its `parts`."""
        return self.shortcuts

    def forward(self, embeddings: Tensor, features: Tensor, rows: Rows) -> list[Tensor]:
        """Head by head, each one token further."""
        outputs = []
        for head, parts in enumerate(self.parts(embeddings, features, rows)):
            output = self.shortcuts[head](parts) + functional.silu(self.first[head](parts))
            for _ in range(self.sizes.layers - 1):
                output = output + functional.silu(self.shared[head](output))
            outputs.append(output)
        return outputs

    def parts(self, embeddings: Tensor, features: Tensor, rows: Rows) -> Iterator[Tensor]:
        """Per head (R, (head + 2) H): what its first block reads; behind the last token that one again."""
        samples, at = rows
        context = features if self.prefix is None else run_causally(self.prefix, features)
        parts = [context[rows].to(features.dtype)]
        for head in range(self.sizes.heads):
            ahead = (at + 1 + head).clamp(max=embeddings.shape[1] - 1)
            parts.append(embeddings[samples, ahead])
            yield torch.cat(parts, dim=-1)

    def document(self) -> dict[str, Any]:
        """Entries of config.json."""
        sizes = self.sizes
        return {
            "hidden_size": sizes.hidden_size,
            "hydra_num_heads": sizes.heads,
            "hydra_num_layers": sizes.layers,
            "hydra_head_arch": "mlp" if sizes.prefix is None else "prefix-mlp",
            "grounded_heads": True,
            **({} if sizes.prefix is None else stack_document(sizes.prefix)),
        }

    def to_weights(self) -> dict[str, NDArray[Any]]:
        """By the names of the checkpoint."""
        first, *later = self.sizes.places
        kinds = {"shortcuts": f"{first}.res_connection", "first": f"{first}.linear"}
        kinds |= {"shared": f"{later[0]}.linear"} if later else {}
        named = {}
        for name, tensor in self.state_dict().items():
            part, rest = name.split(".", 1)
            if part == "prefix":
                named[PREFIX + rest] = tensor
            else:
                head, kind = rest.split(".")
                named[f"hydra_mlp.{head}.{kinds[part]}.{kind}"] = tensor
        return _arrays(named)


class DraftLMNetwork(nn.Module):
    """Decoder layers between the target's embedding and LM head."""

    ahead = 0

    def __init__(self, config: StackSpec) -> None:
        super().__init__()
        self.stack = quiet(DecoderStack(config))

    def forward(self, embeddings: Tensor, features: Tensor, rows: Rows) -> list[Tensor]:
        """One output: a language model looks one token ahead."""
        del features
        return [run_causally(self.stack, embeddings)[rows]]

    def document(self) -> dict[str, Any]:
        """Entries of config.json."""
        return {"model_type": "eyas-draft-lm", **stack_document(self.stack.spec)}

    def to_weights(self) -> dict[str, NDArray[Any]]:
        """By the names of the checkpoint."""
        return _arrays(self.stack.state_dict())


def run_causally(stack: DecoderStack, inputs: Tensor) -> Tensor:
    """(B, T, H) outputs where a row sees itself and those before it; padding stands behind."""

    def attend(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return grouped_attention(query, key, value, None, causal=True)

    outputs: Tensor = stack(inputs, torch.arange(inputs.shape[1], device=inputs.device), attend)
    return outputs


def quiet(stack: DecoderStack) -> DecoderStack:
    """Layers that add nothing to the residual stream yet, with small random weights elsewhere."""
    for name, weight in stack.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")) or name.endswith(".bias"):
            nn.init.zeros_(weight)
        elif weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)
    return stack


def _zeroed(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _identity(size: int) -> nn.Linear:
    linear = _zeroed(nn.Linear(size, size))
    nn.init.eye_(linear.weight)
    return linear


def _medusa_name(part: str, head: str, *rest: str) -> str:
    if part == "maps":
        return f"{head}.output.{rest[0]}"
    block, kind = rest
    return f"{head}.{block}.linear.{kind}"


def _arrays(named: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().to(torch.float32).cpu().numpy() for name, tensor in named.items()}
