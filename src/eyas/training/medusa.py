"""Trains Medusa heads: module and recipe; the loss is that of `distillation`.

Source: Medusa (arXiv 2401.10774), Sec. 2.2. Head k reads the feature f_t and stands in for f_{t+1+k}.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn
from torch.nn import functional

from eyas.config import Option
from eyas.drafters.head_arrays import StoredPrecision
from eyas.drafters.medusa import MEDUSA, MedusaOptions
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.training.distillation import DistillationRecipe, DistillationTrainer, MappedNetwork, Rows
from eyas.training.measure import UNCOUPLED, Case
from eyas.training.networks import identity_linear, zero_linear


@dataclass(frozen=True, slots=True, kw_only=True)
class MedusaRecipe(DistillationRecipe):
    """How to train Medusa heads (arXiv 2401.10774, Sec. 2.2: heads alone, the target frozen)."""

    heads: Annotated[int, Option("number of heads; each drafts one level", at_least=1)] = 4
    layers: Annotated[int, Option("residual blocks of a head", at_least=1)] = 1
    head_decay: Annotated[
        float, Option("weight of head k = 0.. is this to the power of k", at_least=0, at_most=1)
    ] = 0.8
    closed_form_start: Annotated[bool, Option("initialise with linear maps fitted in closed form")] = True
    warmup: float = 0.05
    weight_decay: float = 0.0
    precision: StoredPrecision = "int8"


class MedusaNetwork(MappedNetwork):
    """Heads of residual blocks, which begin as the identity, each with a map before the LM head."""

    def __init__(self, hidden: int, heads: int, layers: int) -> None:
        super().__init__()
        self.sizes = (hidden, heads, layers)
        self.heads = nn.ModuleList(
            nn.ModuleList(zero_linear(hidden, hidden) for _ in range(layers)) for _ in range(heads)
        )
        self.maps = nn.ModuleList(identity_linear(hidden) for _ in range(heads))

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

    def tensor_name(self, name: str) -> str:
        """The published name of a block, our own of a map."""
        part, head, *rest = name.split(".")
        if part == "maps":
            return f"{head}.output.{rest[0]}"
        block, kind = rest
        return f"{head}.{block}.linear.{kind}"


class MedusaTrainer(DistillationTrainer[MedusaRecipe, MedusaNetwork]):
    """A training run of Medusa heads."""

    kind = MEDUSA
    method = "medusa"
    recipe = MedusaRecipe
    cases = (
        Case(name="64 rows", options=MedusaOptions()),
        Case(name="16 rows", options=MedusaOptions(medusa_draft_tokens=15)),
        Case(name="64 rows, top-k", tree=UNCOUPLED, options=MedusaOptions(), is_sampled=True),
    )

    @classmethod
    def make_network(cls, runtime: TorchDraftRuntime, config: MedusaRecipe) -> MedusaNetwork:
        """Heads that pass the feature on."""
        return MedusaNetwork(runtime.target.hidden_size, config.heads, config.layers)
