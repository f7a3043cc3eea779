"""A kind of heads in one file, as a package of its own would bring it: an MLP that writes a chain.

From the newest feature, an inner hidden state of the target and the root's embedding it predicts the next
feature, and the target's LM head names the token. Then it continues from its own predictions, two steps more.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from eyas.config import Option
from eyas.drafters.heads import register_head
from eyas.drafters.registry import register_drafter
from eyas.drafters.target import AnswerHead, read_for_target
from eyas.engine.interfaces import FINAL, DraftOptions
from eyas.engine.tree import chain, root_only
from eyas.training.distillation import DistillationRecipe, DistillationTrainer, DistilledNetwork
from eyas.training.measure import Case

TAPS = (1, FINAL)

TOY = register_head(
    "toy",
    title="a toy head",
    config=lambda file: (file.number("hidden_size"), file.number("toy_width")),
    tensors=lambda sizes: {
        "up.weight": (sizes[1], 3 * sizes[0]),
        "up.bias": (sizes[1],),
        "down.weight": (sizes[0], sizes[1]),
        "down.bias": (sizes[0],),
    },
    trainer=f"{__name__}:ToyTrainer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyOptions(DraftOptions):
    """How far the toy looks ahead."""

    toy_length: Annotated[int, Option("tokens drafted at once", at_least=1)] = 3


@register_drafter("toy", options=ToyOptions, head="toy")
class Toy:
    """Chains of a toy head; needs one for the target."""

    num_forwards = 0
    taps = TAPS

    def __init__(self, runtime, up, down, draft_ids):
        self._parts = runtime, up, down, draft_ids

    @classmethod
    def load(cls, runtime, files):
        head = read_for_target(TOY, runtime, files.head(), lambda sizes: sizes[0])
        layers = (
            runtime.linear(head.weights[f"{name}.weight"], head.weights[f"{name}.bias"])
            for name in ("up", "down")
        )
        return cls(runtime, *layers, head.draft_ids)

    def open(self):
        return type(self)(*self._parts)

    def begin(self, context, keep=0):
        runtime, _, _, draft_ids = self._parts
        self.num_forwards = 0
        self._context = context
        self._lm_head = AnswerHead(runtime, draft_ids)

    def extend(self, features, token_ids):
        self._newest = features[-1:]

    def fork(self):
        return self.open()  # nothing is kept between answers

    def propose(self, token_ids, max_depth):
        runtime, up, down, _ = self._parts
        lm_head, feature = self._lm_head.after(token_ids), self._newest
        drafted, parts = [token_ids[-1]], [feature]
        for _ in range(min(max_depth, self._context.options.toy_length)):
            self.num_forwards += 1
            feature = down(up(runtime.embed(np.array(drafted[-1:])), *parts))
            parts = [feature, feature]
            drafted.append(int(lm_head.top_k(feature, 1).token_ids[0, 0]))
            if drafted[-1] in self._context.stop_token_ids:
                break
        return chain(drafted[0], drafted[1:]) if len(drafted) > 1 else root_only(drafted[0])


class ToyNetwork(DistilledNetwork):
    """Two linear layers; output k is the k-th step of the chain."""

    def __init__(self, hidden, width):
        super().__init__()
        self.up = torch.nn.Linear(3 * hidden, width)
        self.down = torch.nn.Linear(width, hidden)

    def forward(self, embeddings, features, rows):
        samples, at = rows
        output, outputs = features[rows], []
        for step in range(2):
            token = embeddings[samples, (at + 1 + step).clamp(max=embeddings.shape[1] - 1)]
            output = self.down(self.up(torch.cat((token, output.to(token.dtype)), dim=-1)))
            outputs.append(output)
            output = torch.cat((output, output), dim=-1)
        return outputs

    def document(self):
        return {"hidden_size": self.down.out_features, "toy_width": self.up.out_features}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyRecipe(DistillationRecipe):
    """How to train a toy head."""

    width: Annotated[int, Option("numbers in the middle", at_least=1)] = 24


class ToyTrainer(DistillationTrainer):
    """A training run of a toy head."""

    kind, method, recipe = TOY, "toy", ToyRecipe
    cases = (Case(name="chains of 3", options=ToyOptions()),)

    @classmethod
    def taps(cls, runtime, config):
        return TAPS

    @classmethod
    def make_network(cls, runtime, config):
        return ToyNetwork(runtime.target.hidden_size, config.width)
