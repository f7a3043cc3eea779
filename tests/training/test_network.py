"""The head as it is trained is the head as it drafts: masks, positions and feedback, by brute force."""

import numpy as np
import pytest
import torch

from eyas.config import TreeConfig
from eyas.drafters._eagle_head import EagleHead, HeadState
from eyas.expansion import Frontier
from eyas.interfaces import DraftContext
from eyas.models import read_eagle_checkpoint, write_eagle_checkpoint
from eyas.sampling import Sampler, SamplingConfig
from eyas.training.config import HeadConfig
from eyas.training.features import FeatureSource
from eyas.training.finish import head_config
from eyas.training.head import stack_of
from eyas.training.network import HeadNetwork, step_mask
from tiny import VOCAB


@pytest.fixture(scope="module", params=[1, 2], ids=["one-layer", "two-layers"])
def network(request, runtime):
    torch.manual_seed(5)
    network = HeadNetwork(stack_of(runtime, HeadConfig(layers=request.param)))
    for weight in network.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    # what a bfloat16 checkpoint can hold, so that writing loses nothing
    network.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in network.state_dict().items()})
    return network


def test_step_mask_by_its_drawing():
    picture = ["...x..", "x...x.", "xx...x"]
    assert [["x" if see else "." for see in row] for row in step_mask(3, 1).tolist()] == [
        list(row) for row in picture
    ]
    rows = ["".join("x" if see else "." for see in row) for row in step_mask(3, 2).tolist()]
    assert rows[2] == "x.." + ".x." + "..x"  # one true key, one of step 1, its own
    assert step_mask(3, 0) is None


def test_training_steps_are_drafting_steps(runtime, network, samples, tmp_path):
    """Step s of row j = the head's s-th chained forward in decoding, after row j - s was committed."""
    folder = tmp_path / "head"
    folder.mkdir()
    write_eagle_checkpoint(folder, network.to_weights(), head_config(runtime, network, (1.0,)), None)
    head = EagleHead.load(runtime, folder)
    sample = max(samples, key=len)
    [feature] = FeatureSource(runtime, 64).get([sample])
    tokens = list(sample.token_ids)
    with torch.no_grad():
        outputs = network.unroll(runtime.embed(np.array(tokens[1:]))[None], feature[None, :-1], steps=3)
    for committed in (2, 5, len(tokens) - 4):  # pairs that are true
        state = HeadState(head)
        sampler = Sampler(SamplingConfig(), prompt_ids=tokens[:1], vocab_size=VOCAB)
        state.begin(DraftContext(prompt_ids=tokens[:1], sampler=sampler, tree=TreeConfig()), 0)
        state.extend(feature[:committed], tokens[1 : committed + 1])
        with state.expander(tokens[: committed + 1]) as expand:
            expand(None, 2)
            drafted = [expand._features[0]]
            for step in (1, 2):  # follow the answer's own tokens, as training does
                token = tokens[committed + step]
                expand(Frontier(np.array([0]), np.array([token]), np.zeros(1), np.array([0])), 2)
                drafted.append(expand._features[0])
        for step, row in enumerate(drafted):
            expected = outputs[step][0, committed - 1 + step]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


def test_weights_survive_the_checkpoint(runtime, network, tmp_path):
    ids = np.arange(0, VOCAB, 3)
    write_eagle_checkpoint(tmp_path, network.to_weights(), head_config(runtime, network, (0.7, 0.9)), ids)
    checkpoint = read_eagle_checkpoint(tmp_path)
    again = HeadNetwork.from_checkpoint(checkpoint)
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)
    assert checkpoint.coupled_scale == (0.7, 0.9)
    assert checkpoint.fingerprint == runtime.target.fingerprint
    np.testing.assert_array_equal(checkpoint.draft_ids, ids)
