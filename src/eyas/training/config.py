"""Recipes: how prompts are answered, and how a head is trained. No framework is imported here."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from eyas.config import at_least, check_seed, one_of
from eyas.drafters.network_files import MAX_LAYERS, StoredPrecision
from eyas.errors import ConfigError

SHORTEST_SEQUENCE = 3  # of which a pair counts


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """How prompts are answered."""

    temperatures: tuple[float, ...] = (0.0, 0.7, 1.0)
    shares: tuple[float, ...] = (0.5, 0.15, 0.35)  # of the prompts, one for each temperature
    max_new_tokens: int = 256
    max_prompt_tokens: int = 1024  # longer prompts are left out
    batch_size: int = 64
    loop_tokens: int = 0  # an answer ends after so many tokens in a row that repeat earlier ones; 0 goes on
    limit: int | None = None  # the first prompts that fit; None answers every one
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_prompt_tokens", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, but it must be at least 1.")
        check_seed(self.seed)
        if self.loop_tokens < 0:
            raise ConfigError(f"loop_tokens is {self.loop_tokens}, but it must be at least 0 (never).")
        if len(self.temperatures) != len(self.shares) or not self.temperatures:
            raise ConfigError(
                f"{len(self.temperatures)} temperatures and {len(self.shares)} shares; pair them."
            )
        for name in ("temperatures", "shares"):
            for value in getattr(self, name):
                at_least(f"one of {name}", value, 0)
        if not 0 < sum(self.shares) < math.inf:
            raise ConfigError(f"shares are {self.shares}, but their sum must be a number above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What all training runs have."""

    draft_vocab: int | None = None  # None is the whole vocabulary
    max_length: int = 2048  # rows of a sequence
    epochs: float = 20.0
    minutes: float | None = None  # of training steps; takes the place of epochs
    batch_rows: int = 4096  # padded rows of a batch
    learning_rate: float = 3e-5
    warmup: float = 0.025  # share of the run
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: float = 0.01
    clip_norm: float = 0.5
    prompt_share: float = 0.0  # share of prompt rows that count too, at half weight
    ema: float = 0.0  # decay of the averaged weights that are kept; 0 keeps the last ones
    held_out_every: int = 24  # one sample in so many is held out
    save_every: int = 200  # steps
    evaluate_every: int = 1000  # steps between two simulations on held-out answers
    seed: int = 0

    def __post_init__(self) -> None:
        self.check(
            positive=("max_length", "epochs", "batch_rows", "learning_rate", "clip_norm", "minutes"),
            shares=("warmup", "prompt_share", "ema"),
            natural=("weight_decay",),
        )
        self.check(positive=("draft_vocab", "held_out_every", "save_every", "evaluate_every"))
        check_seed(self.seed)
        if self.max_length < SHORTEST_SEQUENCE:
            raise ConfigError(
                f"max_length is {self.max_length}, but it must be at least {SHORTEST_SEQUENCE}: a prompt's "
                "token, an answer's, and the one that they lead to."
            )
        if self.schedule not in ("linear", "cosine"):
            raise ConfigError(f"schedule is {self.schedule!r}; it is 'linear' or 'cosine'.")
        if self.held_out_every < 2:
            raise ConfigError("held_out_every is 1, which leaves nothing to train on; it must be at least 2.")

    def check(
        self,
        positive: tuple[str, ...] = (),
        shares: tuple[str, ...] = (),
        natural: tuple[str, ...] = (),
    ) -> None:
        """Refuse fields that are no numbers above 0, in [0, 1], or of at least 0; None is left alone."""
        for name in positive:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}, but it must be a number above 0.")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must lie in [0, 1].")
        for name in natural:
            at_least(name, getattr(self, name), 0)


def check_layers(count: int | None) -> None:
    """Refuse more decoder layers than files of draft networks hold."""
    if count is not None and count > MAX_LAYERS:
        raise ConfigError(f"layers is {count}, but it must be at most {MAX_LAYERS}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig(TrainingConfig):
    """How to train an EAGLE head. Defaults: EAGLE-1's published recipe, with fewer steps."""

    layers: int | None = None  # None is 1, or those of the head to start from
    intermediate_size: int | None = None  # None is the target's, or that of the head to start from
    loss_vocab: int | None = None  # tokens whose logits are compared; None is the draft vocabulary
    regression_weight: float = 1.0
    ce_weight: float = 0.1
    scaled_regression: bool = False  # divide features by their spread per dimension
    noise: float = 0.2  # features get U(-1/2, 1/2) * noise * 512 / length
    steps: int = 1  # of training-time test; 1 is teacher forcing alone
    step_decay: float = 0.8  # weight of step s is step_decay ** s
    step_share: float = 1.0  # share of rows from which steps after the first go on
    first_pair: bool = False  # also the pair of last prompt feature and first answer token
    closed_form_start: bool = False  # see eyas.training.initialise

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        self.check(
            positive=("layers", "intermediate_size", "loss_vocab", "steps"),
            shares=("step_share",),
            natural=("regression_weight", "ce_weight", "noise", "step_decay"),
        )
        check_layers(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig(TrainingConfig):
    """How to train the networks of the other methods, with the target's own distribution as the label."""

    draft_vocab: int | None = 8192
    max_length: int = 1280
    epochs: float = 3.0
    batch_rows: int = 2400
    learning_rate: float = 1e-3
    schedule: Literal["linear", "cosine"] = "cosine"
    clip_norm: float = 1.0
    prompt_share: float = 0.1
    ema: float = 0.998
    precision: StoredPrecision = "bfloat16"  # of the file's matrices

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        one_of("precision", self.precision, get_args(StoredPrecision))


@dataclass(frozen=True, slots=True, kw_only=True)
class MedusaConfig(DraftConfig):
    """How to train Medusa heads (arXiv 2401.10774, Sec. 2.2: heads alone, the target frozen)."""

    heads: int = 4
    layers: int = 1  # residual blocks of a head
    head_decay: float = 0.8  # weight of head k = 0.. is head_decay ** k
    closed_form_start: bool = True  # see eyas.training.initialise
    warmup: float = 0.05
    weight_decay: float = 0.0
    precision: StoredPrecision = "int8"

    def __post_init__(self) -> None:
        DraftConfig.__post_init__(self)
        self.check(positive=("heads", "layers"), shares=("head_decay",))


@dataclass(frozen=True, slots=True, kw_only=True)
class HydraConfig(DraftConfig):
    """How to train Hydra heads (arXiv 2402.05109, Sec. 4 and its repository)."""

    heads: int = 4
    layers: int = 4  # residual blocks of a head; those after the first are one
    arch: Literal["prefix-mlp", "mlp"] = "prefix-mlp"  # with a decoder layer over the features, or without
    intermediate_size: int | None = None  # of that layer; None is the target's
    head_decay: float = 0.8  # weight of head i = 0.. is head_decay ** i
    closed_form_start: bool = True  # see eyas.training.initialise
    learning_rate: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 0.1
    precision: StoredPrecision = "int8"

    def __post_init__(self) -> None:
        DraftConfig.__post_init__(self)
        self.check(positive=("heads", "layers", "intermediate_size"), shares=("head_decay",))
        one_of("arch", self.arch, ("prefix-mlp", "mlp"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLMConfig(DraftConfig):
    """How to train a small draft language model on the target's embedding and LM head."""

    layers: int = 2
    intermediate_size: int | None = None  # None is the target's
    target_start: bool = True  # from copies of the target's first layers, without which from random ones
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        DraftConfig.__post_init__(self)
        self.check(positive=("layers", "intermediate_size"))
        check_layers(self.layers)


DRAFT_CONFIGS = {"medusa": MedusaConfig, "hydra": HydraConfig, "draft-lm": DraftLMConfig}
