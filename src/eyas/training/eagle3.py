"""Trains an EAGLE-3 head: module, recipe and loss.

Source: EAGLE-3 (arXiv 2503.01840), Sec. 3; the defaults of `Eagle3Recipe` are the authors' recipe, with fewer
steps of training-time test. The loss compares distributions alone: a feature of the head's own need not be
one of the target's. Rows that lead to a token outside the draft vocabulary do not count.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eyas.config import Option
from eyas.drafters.eagle3 import EAGLE3, Eagle3Config, with_embedding
from eyas.drafters.eagle3_layouts import SWITCHES, TAPS
from eyas.drafters.head_layers import stack_document
from eyas.engine.interfaces import Taps
from eyas.engine.tree import Ints
from eyas.errors import ConfigError
from eyas.models.spec import StackSpec
from eyas.runtimes.torch.draft_runtime import TorchDraftRuntime
from eyas.runtimes.torch.layers import Attend, DecoderStack, RMSNorm
from eyas.training.chains import ChainNetwork, ChainRecipe, ChainTrainer, Steps
from eyas.training.losses import classification_loss
from eyas.training.networks import layers_like_the_targets
from eyas.training.taps import EAGLE3 as AUTHORS_TAPS
from eyas.training.taps import parse_taps


@dataclass(frozen=True, slots=True, kw_only=True)
class Eagle3Recipe(ChainRecipe):
    """How to train an EAGLE-3 head."""

    taps: Annotated[
        str,
        Option("layers whose inputs the head reads, such as 2,14,25; --start keeps its own", "K,.."),
    ] = AUTHORS_TAPS
    norm_before_residual: Annotated[
        bool, Option("add the layer's output to the normed features, as the library speculators does")
    ] = False
    norm_before_fc: Annotated[bool, Option("norm all hidden states together before they are joined")] = False
    fc_norm: Annotated[bool, Option("norm each hidden state before they are joined")] = False
    norm_output: Annotated[bool, Option("feed the head's normed output back, as EAGLE-3.1 does")] = False
    target_lm_head: Annotated[
        bool, Option("use the target's LM head instead of one of the head's own: a smaller file")
    ] = False
    steps: Steps = 3

    def check(self) -> None:
        """Raise ConfigError for two ways of norming at once."""
        if self.norm_before_fc and self.fc_norm:
            raise ConfigError("norm_before_fc and fc_norm exclude each other; choose one.")


class Eagle3Network(ChainNetwork):
    """fc over the taps, decoder layers that also read the embedding, and an LM head of its own.

    Args:
        spec: the layers; the first one reads embeddings too, and the last one is normed with `norm_output`.
        taps: layers of the target whose inputs it reads.
        recipe: its variants.
        own_rows: rows of its own LM head; None where it has none.
        norm: (H,) the target's final norm, which the head's starts from; None starts from ones.
    """

    def __init__(
        self, spec: StackSpec, taps: Taps, recipe: Eagle3Recipe, own_rows: int | None, norm: Tensor | None
    ) -> None:
        super().__init__()
        self.taps, self.recipe = taps, recipe
        hidden, inputs, eps = spec.hidden_size, len(taps) * spec.hidden_size, spec.layers[0].norms.eps
        self.fc = nn.Linear(inputs, hidden, bias=False)
        self.stack = DecoderStack(spec)
        self.lm_head = None if own_rows is None else nn.Linear(hidden, own_rows, bias=False)
        self.input_norm = RMSNorm(inputs, eps) if recipe.norm_before_fc else None
        self.fc_norm = nn.ModuleList(RMSNorm(hidden, eps) for _ in taps) if recipe.fc_norm else None
        self.norm = None if recipe.norm_output else RMSNorm(hidden, eps)
        if norm is not None:
            with torch.no_grad():
                self._final_norm.weight.copy_(norm)

    @property
    def _final_norm(self) -> RMSNorm:
        norm = self.stack.norm if self.norm is None else self.norm
        assert norm is not None, "one of the two"
        return norm

    def take(self, features: Tensor) -> Tensor:
        """fc of the hidden states."""
        if self.input_norm is not None:
            features = self.input_norm(features)
        if self.fc_norm is not None:
            parts = features.chunk(len(self.taps), dim=-1)
            features = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], dim=-1)
        taken: Tensor = self.fc(features)
        return taken

    def predict(self, embeddings: Tensor, features: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The next features."""
        output: Tensor = self.stack(features, positions, attend, embeddings)
        return output

    def normed(self, outputs: Tensor) -> Tensor:
        """(.., H) what the LM head reads."""
        return outputs if self.norm is None else self.norm(outputs)

    def document(self) -> dict[str, Any]:
        """Entries of config.json."""
        return {
            "architectures": ["LlamaForCausalLMEagle3"],
            "model_type": "llama",
            **stack_document(self.stack.spec),
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            TAPS: list(self.taps),
            **{name: getattr(self.recipe, name) for name in SWITCHES},
        }


class Eagle3Trainer(ChainTrainer[Eagle3Recipe, Eagle3Network]):
    """A training run of an EAGLE-3 head."""

    kind = EAGLE3
    method = "eagle3"
    recipe = Eagle3Recipe
    skips_other_tokens = True

    @classmethod
    def taps(cls, runtime: TorchDraftRuntime, config: Eagle3Recipe) -> Taps:
        """The recipe's, and the final state."""
        return parse_taps(config.taps, runtime.target)

    @classmethod
    def make_network(cls, runtime: TorchDraftRuntime, config: Eagle3Recipe) -> Eagle3Network:
        """A head with random weights; its LM head and final norm start as the target's."""
        stack = layers_like_the_targets(
            runtime, config.layers or 1, config.intermediate_size, final_norm=config.norm_output
        )
        own_rows = None if config.target_lm_head else config.draft_vocab or runtime.target.vocab_size
        *taps, _ = cls.taps(runtime, config)
        spec = with_embedding(stack, config.norm_before_residual)
        return Eagle3Network(spec, tuple(taps), config, own_rows, runtime.norm_weight)

    @classmethod
    def sized_like(cls, config: Eagle3Recipe, head: Eagle3Config | None) -> Eagle3Recipe:
        """The recipe with the variants of the head to continue from."""
        config = super().sized_like(config, head)
        if head is None:
            return config
        return replace(
            config,
            taps=config.taps if head.taps is None else ",".join(map(str, head.taps)),
            norm_before_residual=head.stack.layers[0].residual_is_normed,
            norm_before_fc=head.norm_before_fc,
            fc_norm=head.fc_norm,
            norm_output=head.norm_output,
            target_lm_head=head.own_rows is None,
            draft_vocab=config.draft_vocab or head.own_rows,
        )

    def initialise(self, network: Eagle3Network) -> None:
        """Its own LM head starts as the rows of the target's."""
        if network.lm_head is not None:
            with torch.no_grad():
                network.lm_head.weight.copy_(self._head_weight)

    def inputs_of(self, features: Tensor) -> Tensor:
        """The taps; the final state is what the target's LM head reads."""
        return features[..., : -self._runtime.target.hidden_size]

    def draft_logits(self, network: Eagle3Network, draft_ids: Ints | None) -> Callable[[Tensor], Tensor]:
        """Those of the head's own LM head, or the target's."""
        weight = (
            network.lm_head.weight if network.lm_head is not None else self._runtime.lm_head(draft_ids).weight
        )

        def logits(outputs: Tensor) -> Tensor:
            normed = network.normed(outputs.float())
            return functional.linear(normed.to(weight.dtype), weight)

        return logits

    def loss_of(self, outputs: Tensor, features: Tensor, weights: Tensor) -> tuple[Tensor, float]:
        """Cross-entropy of the head's distribution against the target's, over the draft vocabulary."""
        own = None if self.network.lm_head is None else self.network.lm_head.weight
        normed, total = self.network.normed(outputs.float()), self.processes.total(weights)
        return classification_loss(normed, features, self._head_weight, weights, total, own)
