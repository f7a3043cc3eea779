"""Options of distillation, and those that all training runs have. Imports no framework."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from eyas.config import MAX_SEED, Option, Options
from eyas.drafters.head_arrays import StoredPrecision
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
class Recipe(Options):
    """Options of every training run. A kind of heads adds its own."""

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
    precision: Annotated[
        StoredPrecision, Option("precision of the stored matrices; int8 takes half the space")
    ] = "bfloat16"
    held_out_every: Annotated[int, Option("hold out one answer in N for evaluation", at_least=2)] = 24
    save_every: Annotated[int, Option("steps between two saved states", at_least=1)] = 200
    evaluate_every: Annotated[
        int, Option("steps between two measurements of acceptance on held-out answers", at_least=1)
    ] = 1000
    seed: Annotated[
        int, Option("seed of initial weights, data order and noise", "S", at_least=0, at_most=MAX_SEED)
    ] = 0
