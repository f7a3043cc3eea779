"""A head of any EAGLE is trained as it drafts: masks, positions and feedback, by brute force."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from making import write

from eyas.drafters.eagle3 import Eagle3Head
from eyas.drafters.eagle_head import EagleHead, HeadState
from eyas.drafters.heads import read_head
from eyas.drafters.ranked import Frontier
from eyas.engine.interfaces import DraftContext
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.tree_options import TreeOptions
from eyas.training.chains import chain_mask
from eyas.training.eagle import EagleRecipe, EagleTrainer
from eyas.training.eagle3 import Eagle3Recipe, Eagle3Trainer
from eyas.training.features import FeatureSource
from tiny import HIDDEN, VOCAB

RECIPES = {
    "eagle": EagleRecipe(),
    "eagle-two-layers": EagleRecipe(layers=2),
    "eagle3": Eagle3Recipe(taps="0,1"),
    "eagle3-two-layers": Eagle3Recipe(taps="1", layers=2),
    "eagle3.1": Eagle3Recipe(taps="0,1", fc_norm=True, norm_output=True),
    "eagle3-of-speculators": Eagle3Recipe(taps="0,1", norm_before_residual=True, norm_before_fc=True),
    "eagle3-target-lm-head": Eagle3Recipe(taps="1", target_lm_head=True),
}


@dataclass(frozen=True)
class Trained:
    """A network, how it was made, and its target."""

    trainer: type
    recipe: Any
    network: Any
    runtime: Any

    @property
    def kind(self):
        return self.trainer.kind

    def features(self, sample):
        """As training has them, and as drafting does."""
        [rows] = FeatureSource(self.runtime, 64, taps=self.trainer.taps(self.runtime, self.recipe)).get(
            [sample]
        )
        return rows, rows if self.trainer is EagleTrainer else rows[:, :-HIDDEN]


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, runtime):
    recipe = RECIPES[request.param]
    trainer = EagleTrainer if isinstance(recipe, EagleRecipe) else Eagle3Trainer
    torch.manual_seed(5)
    network = trainer.make_network(runtime, recipe)
    for weight in network.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    # what a bfloat16 checkpoint can hold, so that writing loses nothing
    network.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in network.state_dict().items()})
    return Trained(trainer, recipe, network, runtime)


def test_chain_mask_by_its_drawing():
    def drawn(anchors, rows, step):
        [[picture]] = chain_mask(torch.tensor([anchors]), rows, step).tolist()
        return ["".join("x" if see else "." for see in row) for row in picture]

    assert drawn([0, 1, 2], 3, 1) == ["x..x..", "xx..x.", "xxx..x"]
    # two chains of two steps: true keys up to the anchor, then those of the own chain
    assert drawn([0, 2], 3, 2) == ["x.." + "x." + "x.", "xxx" + ".x" + ".x"]


def test_chains_from_some_rows_are_those_from_all(trained, samples):
    generator = torch.Generator().manual_seed(2)
    width = trained.features(samples[0])[1].shape[1]
    embeddings = torch.randn((2, 9, HIDDEN), generator=generator)
    features = torch.randn((2, 9, width), generator=generator)
    anchors = torch.tensor([[1, 4, 5], [0, 6, 8]])
    with torch.no_grad():
        everywhere = trained.network.unroll(embeddings, features, 3)
        some = trained.network.unroll(embeddings, features, 3, anchors)
    torch.testing.assert_close(some[0], everywhere[0], atol=1e-4, rtol=1e-4)
    for ours, all_of_them in zip(some[1:], everywhere[1:], strict=True):
        expected = all_of_them.take_along_dim(anchors[..., None], dim=1)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_training_steps_are_drafting_steps(trained, runtime, samples, tmp_path):
    """Step s of a chain = the head's s-th chained forward in decoding, after its anchor was committed."""
    head_class = EagleHead if trained.trainer is EagleTrainer else Eagle3Head
    head = head_class.load(runtime, write(trained.kind.name, tmp_path / "head", runtime, trained.network))
    sample = max(samples, key=len)
    _, feature = trained.features(sample)
    tokens = list(sample.token_ids)
    logits = trained.trainer.draft_logits(SimpleNamespace(_runtime=runtime), trained.network, None)
    with torch.no_grad():
        outputs = trained.network.unroll(runtime.embed(np.array(tokens[1:]))[None], feature[None], steps=3)
    for committed in (2, 5, len(tokens) - 4):  # pairs that are true
        state = HeadState(head)
        sampler = Sampler(SamplingConfig(), prompt_ids=tokens[:1], vocab_size=VOCAB)
        state.begin(DraftContext(prompt_ids=tokens[:1], sampler=sampler, tree=TreeOptions()), 0)
        state.extend(feature[:committed], tokens[1 : committed + 1])
        with state.expander(tokens[: committed + 1], None) as expand:
            best = [expand(None, 2)[0][0]]
            drafted = [expand._features[0]]
            for step in (1, 2):  # follow the answer's own tokens, as training does
                token = tokens[committed + step]
                best.append(expand(Frontier(np.array([token]), np.array([0])), 2)[0][0])
                drafted.append(expand._features[0])
        for step, row in enumerate(drafted):
            expected = outputs[step][0, committed - 1]  # the chain that begins at the last true pair
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)
            assert best[step].tolist() == logits(expected[None])[0].topk(2).indices.tolist()


def test_weights_survive_the_checkpoint(trained, runtime, tmp_path):
    has_own = trained.trainer is Eagle3Trainer and not trained.recipe.target_lm_head
    ids = np.arange(0, VOCAB, 3)
    if has_own:  # rows of its own are those of its draft vocabulary
        trained.network.lm_head.weight.data = trained.network.lm_head.weight.data[: len(ids)].clone()
    network = trained.network
    write(trained.kind.name, tmp_path, runtime, network, ids, coupled_scale=[0.7, 0.9])
    checkpoint = read_head(trained.kind, tmp_path)
    recipe = trained.trainer.sized_like(type(trained.recipe)(), checkpoint.config)
    again = trained.trainer.make_network(runtime, recipe)
    again.load_weights(checkpoint.weights)
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)
    assert again.document() == network.document()
    assert checkpoint.config.coupled_scale == (0.7, 0.9)
    assert checkpoint.fingerprint == runtime.target.fingerprint
    np.testing.assert_array_equal(checkpoint.draft_ids, ids)
