"""Recipes: how prompts are answered, and how a head is trained. No framework is imported here."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from eyas.config import MAX_SEED, Option, Options
from eyas.drafters.head_arrays import StoredPrecision
from eyas.drafters.head_layers import MAX_LAYERS
from eyas.errors import ConfigError

SHORTEST_SEQUENCE = 3  # tokens: one of the prompt, one of the answer, and the one that follows them


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig(Options):
    """How prompts are answered."""

    title: ClassVar[str] = "recipe"

    temperatures: Annotated[
        tuple[float, ...], Option("temperatures at which prompts are answered", "T,..", at_least=0)
    ] = (0.0, 0.7, 1.0)
    shares: Annotated[
        tuple[float, ...], Option("share of the prompts for each of the temperatures", "X,..", at_least=0)
    ] = (0.5, 0.15, 0.35)
    max_new_tokens: Annotated[int, Option("tokens of an answer at most", at_least=1)] = 256
    max_prompt_tokens: Annotated[int, Option("leave out prompts of more tokens than this", at_least=1)] = 1024
    batch_size: Annotated[int, Option("prompts answered at a time", at_least=1)] = 64
    loop_tokens: Annotated[
        int,
        Option("end an answer after this many tokens in a row that repeat earlier ones", at_least=0, off=0),
    ] = 0
    limit: Annotated[int | None, Option("answer only the first N prompts that fit", at_least=1)] = None
    seed: Annotated[int, Option("seed of the random draws", "S", at_least=0, at_most=MAX_SEED)] = 0

    def check(self) -> None:
        """Raise ConfigError where temperatures and shares do not make pairs."""
        if len(self.temperatures) != len(self.shares) or not self.temperatures:
            raise ConfigError(
                f"{len(self.temperatures)} temperatures and {len(self.shares)} shares; give one share for "
                "each temperature."
            )
        if not 0 < sum(self.shares) < math.inf:
            raise ConfigError(f"shares are {self.shares}, but their sum must be a number above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(Options):
    """Options of every training run."""

    title: ClassVar[str] = "recipe"

    draft_vocab: Annotated[
        int | None,
        Option("keep the N most frequent tokens as draft vocabulary; without it the whole one", at_least=1),
    ] = None
    max_length: Annotated[
        int, Option("tokens of a training sequence at most; the rest is cut off", at_least=SHORTEST_SEQUENCE)
    ] = 2048
    epochs: Annotated[float, Option("passes over the answers", above=0)] = 20.0
    minutes: Annotated[
        float | None,
        Option("train for this many minutes instead of --epochs; evaluations take extra time", above=0),
    ] = None
    batch_rows: Annotated[int, Option("tokens of a batch, padding included", at_least=1)] = 4096
    learning_rate: Annotated[float, Option("peak learning rate of AdamW", above=0)] = 3e-5
    warmup: Annotated[
        float, Option("share of the run in which the learning rate rises", at_least=0, at_most=1)
    ] = 0.025
    schedule: Annotated[
        Literal["linear", "cosine"], Option("how the learning rate falls after the warm-up")
    ] = "linear"
    weight_decay: Annotated[
        float, Option("weight decay of matrices; norms and biases have none", at_least=0)
    ] = 0.01
    clip_norm: Annotated[float, Option("clip gradients to this norm", above=0)] = 0.5
    prompt_share: Annotated[
        float,
        Option("share of prompt tokens that also count in the loss, at half weight", at_least=0, at_most=1),
    ] = 0.0
    ema: Annotated[
        float,
        Option(
            "decay of the moving average of the weights, which is what is kept; 0 keeps the last weights",
            at_least=0,
            at_most=1,
        ),
    ] = 0.0
    held_out_every: Annotated[int, Option("hold out one answer in N for evaluation", at_least=2)] = 24
    save_every: Annotated[int, Option("steps between two saved states", at_least=1)] = 200
    evaluate_every: Annotated[
        int, Option("steps between two measurements of acceptance on held-out answers", at_least=1)
    ] = 1000
    seed: Annotated[
        int, Option("seed of initial weights, data order and noise", "S", at_least=0, at_most=MAX_SEED)
    ] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig(TrainingConfig):
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
    closed_form_start: Annotated[bool, Option("initialise with a linear map fitted in closed form")] = (
        False  # eyas.training.initialise
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig(TrainingConfig):
    """How to train the networks of the other methods, with the target's own distribution as the label."""

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
    precision: Annotated[
        StoredPrecision, Option("precision of the stored matrices; int8 takes half the space")
    ] = "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class MedusaConfig(DraftConfig):
    """How to train Medusa heads (arXiv 2401.10774, Sec. 2.2: heads alone, the target frozen)."""

    heads: Annotated[int, Option("number of heads; each drafts one level", at_least=1)] = 4
    layers: Annotated[int, Option("residual blocks of a head", at_least=1)] = 1
    head_decay: Annotated[
        float, Option("weight of head k = 0.. is this to the power of k", at_least=0, at_most=1)
    ] = 0.8
    closed_form_start: Annotated[bool, Option("initialise with linear maps fitted in closed form")] = (
        True  # eyas.training.initialise
    )
    warmup: float = 0.05
    weight_decay: float = 0.0
    precision: StoredPrecision = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class HydraConfig(DraftConfig):
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
    closed_form_start: Annotated[bool, Option("initialise with linear maps fitted in closed form")] = (
        True  # eyas.training.initialise
    )
    learning_rate: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 0.1
    precision: StoredPrecision = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLMConfig(DraftConfig):
    """How to train a small draft language model on the target's embedding and LM head."""

    layers: Annotated[int, Option("decoder layers", at_least=1, at_most=MAX_LAYERS)] = 2
    intermediate_size: Annotated[
        int | None, Option("width of the layers' MLPs; without it the target's", at_least=1)
    ] = None
    target_start: Annotated[
        bool, Option("initialise with copies of the target's first layers; off, at random")
    ] = True
    weight_decay: float = 0.1


DRAFT_CONFIGS = {"medusa": MedusaConfig, "hydra": HydraConfig, "draft-lm": DraftLMConfig}
