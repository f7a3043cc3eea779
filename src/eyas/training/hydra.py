"""Trains Hydra heads: module and recipe; the loss is that of `distillation`.

Source: Hydra (arXiv 2402.05109), Sec. 4 and its repository. Head k reads the feature f_t (Hydra++: f_0..f_t)
and the tokens x_{t+1}..x_{t+1+k}, and stands in for f_{t+1+k}.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from eyas.config import Option
from eyas.drafters.head_arrays import StoredPrecision
from eyas.drafters.head_layers import stack_document
from eyas.drafters.hydra import HYDRA, PREFIX, HydraHeadConfig, HydraOptions
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.runtimes.torch.layers import DecoderStack
from eyas.training.distillation import DistillationRecipe, DistillationTrainer, MappedNetwork, Rows
from eyas.training.measure import UNCOUPLED, Case
from eyas.training.networks import layers_like_the_targets, run_causally, silenced, zero_linear


@dataclass(frozen=True, slots=True, kw_only=True)
class HydraRecipe(DistillationRecipe):
    """How to train Hydra heads (arXiv 2402.05109, Sec. 4 and its repository)."""

    heads: Annotated[int, Option("number of heads; each drafts one level", at_least=1)] = 4
    layers: Annotated[
        int, Option("residual blocks of a head; those after the first share their weights", at_least=1)
    ] = 4
    arch: Annotated[
        Literal["prefix-mlp", "mlp"],
        Option("prefix-mlp: with a decoder layer over the features (Hydra++); mlp: without"),
    ] = "prefix-mlp"
    intermediate_size: Annotated[
        int | None, Option("width of the decoder layer's MLP; without it the target's", at_least=1)
    ] = None
    head_decay: Annotated[
        float, Option("weight of head k = 0.. is this to the power of k", at_least=0, at_most=1)
    ] = 0.8
    closed_form_start: Annotated[bool, Option("initialise with linear maps fitted in closed form")] = True
    learning_rate: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 0.1
    precision: StoredPrecision = "int8"


class HydraNetwork(MappedNetwork):
    """Heads over feature and path; with a decoder layer over the features first (Hydra++), or without.

    The layer begins as its final norm alone, and a block as its linear shortcut.
    """

    def __init__(self, sizes: HydraHeadConfig) -> None:
        super().__init__()
        hidden = sizes.hidden_size
        widths = [(head + 2) * hidden for head in range(sizes.heads)]
        self.sizes = sizes
        self.prefix = None if sizes.prefix is None else silenced(DecoderStack(sizes.prefix))
        self.shortcuts = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.first = nn.ModuleList(zero_linear(width, hidden) for width in widths)
        self.shared = nn.ModuleList(
            zero_linear(hidden, hidden) for _ in range(sizes.heads if sizes.layers > 1 else 0)
        )

    @property
    def maps(self) -> nn.ModuleList:  # type: ignore[override]
        """The shortcuts around the first blocks."""
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
        """Per head (R, (head + 2) H): what its first block reads; beyond the last token, that one again."""
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

    def tensor_name(self, name: str) -> str:
        """The published name."""
        part, rest = name.split(".", 1)
        if part == "prefix":
            return PREFIX + rest
        head, kind = rest.split(".")
        block = self.sizes.block(int(head), 1 if part == "shared" else 0)
        return f"{block}.{'res_connection' if part == 'shortcuts' else 'linear'}.{kind}"


class HydraTrainer(DistillationTrainer[HydraRecipe, HydraNetwork]):
    """A training run of Hydra heads."""

    kind = HYDRA
    method = "hydra"
    recipe = HydraRecipe
    cases = (
        Case(name="64 rows", options=HydraOptions()),
        Case(name="16 rows", options=HydraOptions(hydra_draft_tokens=15)),
        Case(name="64 rows, top-k", tree=UNCOUPLED, options=HydraOptions(), is_sampled=True),
    )

    @classmethod
    def make_network(cls, runtime: TorchDraftRuntime, config: HydraRecipe) -> HydraNetwork:
        """Heads with fresh weights."""
        layer = layers_like_the_targets(runtime, 1, config.intermediate_size)
        prefix = layer if config.arch == "prefix-mlp" else None
        return HydraNetwork(HydraHeadConfig(config.heads, config.layers, runtime.target.hidden_size, prefix))
