"""The head as it is trained is the head as it drafts: masks, positions and feedback, by brute force."""

import numpy as np
import pytest
import torch
from making import write

from eyas.drafters.eagle_head import EAGLE, EagleHead, HeadState
from eyas.drafters.heads import read_head
from eyas.drafters.ranked import Frontier
from eyas.engine.interfaces import DraftContext
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.tree_options import TreeOptions
from eyas.training.eagle import EagleRecipe, EagleTrainer, chain_mask
from eyas.training.features import FeatureSource
from tiny import HIDDEN, VOCAB


@pytest.fixture(scope="module", params=[1, 2], ids=["one-layer", "two-layers"])
def network(request, runtime):
    torch.manual_seed(5)
    network = EagleTrainer.make_network(runtime, EagleRecipe(layers=request.param))
    for weight in network.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    # what a bfloat16 checkpoint can hold, so that writing loses nothing
    network.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in network.state_dict().items()})
    return network


def test_chain_mask_by_its_drawing():
    def drawn(anchors, rows, step):
        [[picture]] = chain_mask(torch.tensor([anchors]), rows, step).tolist()
        return ["".join("x" if see else "." for see in row) for row in picture]

    assert drawn([0, 1, 2], 3, 1) == ["x..x..", "xx..x.", "xxx..x"]
    # two chains of two steps: true keys up to the anchor, then those of the own chain
    assert drawn([0, 2], 3, 2) == ["x.." + "x." + "x.", "xxx" + ".x" + ".x"]


def test_chains_from_some_rows_are_those_from_all(network):
    generator = torch.Generator().manual_seed(2)
    embeddings, features = torch.randn((2, 2, 9, HIDDEN), generator=generator)
    anchors = torch.tensor([[1, 4, 5], [0, 6, 8]])
    with torch.no_grad():
        everywhere = network.unroll(embeddings, features, 3)
        some = network.unroll(embeddings, features, 3, anchors)
    torch.testing.assert_close(some[0], everywhere[0])
    for ours, all_of_them in zip(some[1:], everywhere[1:], strict=True):
        torch.testing.assert_close(ours, all_of_them.take_along_dim(anchors[..., None], dim=1))


def test_training_steps_are_drafting_steps(runtime, network, samples, tmp_path):
    """Step s of a chain = the head's s-th chained forward in decoding, after its anchor was committed."""
    head = EagleHead.load(runtime, write("eagle", tmp_path / "head", runtime, network))
    sample = max(samples, key=len)
    [feature] = FeatureSource(runtime, 64).get([sample])
    tokens = list(sample.token_ids)
    with torch.no_grad():
        outputs = network.unroll(runtime.embed(np.array(tokens[1:]))[None], feature[None], steps=3)
    for committed in (2, 5, len(tokens) - 4):  # pairs that are true
        state = HeadState(head)
        sampler = Sampler(SamplingConfig(), prompt_ids=tokens[:1], vocab_size=VOCAB)
        state.begin(DraftContext(prompt_ids=tokens[:1], sampler=sampler, tree=TreeOptions()), 0)
        state.extend(feature[:committed], tokens[1 : committed + 1])
        with state.expander(tokens[: committed + 1], None) as expand:
            expand(None, 2)
            drafted = [expand._features[0]]
            for step in (1, 2):  # follow the answer's own tokens, as training does
                token = tokens[committed + step]
                expand(Frontier(np.array([token]), np.array([0])), 2)
                drafted.append(expand._features[0])
        for step, row in enumerate(drafted):
            expected = outputs[step][0, committed - 1]  # the chain that begins at the last true pair
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


def test_weights_survive_the_checkpoint(runtime, network, tmp_path):
    ids = np.arange(0, VOCAB, 3)
    write("eagle", tmp_path, runtime, network, ids, coupled_scale=[0.7, 0.9])
    checkpoint = read_head(EAGLE, tmp_path)
    again = EagleTrainer.make_network(runtime, EagleRecipe(layers=checkpoint.config.stack.num_layers))
    again.load_weights(checkpoint.weights)
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)
    assert checkpoint.config.coupled_scale == (0.7, 0.9)
    assert checkpoint.fingerprint == runtime.target.fingerprint
    np.testing.assert_array_equal(checkpoint.draft_ids, ids)
