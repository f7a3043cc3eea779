"""Medusa heads: which feature and which head fills which level, and files that are refused."""

import numpy as np
import pytest
from drafting import cycles, edit_network, engine_of, request
from safetensors.numpy import load_file

from eyas.drafters.heads import read_head
from eyas.drafters.medusa import MEDUSA, MedusaHeadConfig, MedusaOptions
from eyas.drafters.static_tree import TREE, first_nodes
from eyas.errors import CheckpointError, ConfigError
from tiny import HIDDEN, VOCAB, write_medusa, write_pickle


def write_shifted(directory, target_weights, heads=4):
    """Heads that know the answer: blocks add nothing, and head k names the target's choice + 1 + k."""
    weights = {}
    for head in range(heads):
        weights[f"{head}.0.linear.weight"] = np.zeros((HIDDEN, HIDDEN), dtype=np.float32)
        weights[f"{head}.0.linear.bias"] = np.zeros(HIDDEN, dtype=np.float32)
        weights[f"{head}.1.weight"] = np.roll(target_weights["lm_head.weight"], 1 + head, axis=0)
    config = {"medusa_num_heads": heads, "medusa_num_layers": 1}
    return write_pickle(directory, "medusa_lm_head.pt", weights, config)


@pytest.mark.parametrize("heads", [1, 4])
def test_head_k_reads_the_feature_before_the_root_and_fills_level_k_plus_1(
    runtime, target_weights, tmp_path, heads
):
    """The target's choice after that feature is the root, so the children of a level begin with root + d."""
    engine = engine_of("medusa", runtime, write_shifted(tmp_path, target_weights, heads))
    count = 0
    for run in cycles(engine, request("medusa", [5, 9, 11])):
        tree = run.last_cycle.tree
        root = int(tree.token_ids[0])
        best = dict(zip(tree.depths.tolist()[::-1], tree.token_ids.tolist()[::-1], strict=True))
        assert best == {depth: (root + depth) % VOCAB for depth in range(heads + 1)}
        count += 1
    assert count > 3


def test_all_nodes_of_a_level_have_the_same_children(runtime, tmp_path):
    engine = engine_of("medusa", runtime, write_medusa(tmp_path, draft_ids=range(0, VOCAB, 2)))
    for temperature in (0.0, 1.0):
        for run in cycles(engine, request("medusa", [5, 9, 11], temperature)):
            tree = run.last_cycle.tree
            first, second = list(tree.children[1]), list(tree.children[2])
            assert first[: len(second)] == second
            assert len(tree.token_ids) == 64


def test_the_tree_is_the_published_one_and_its_beginnings_are_trees():
    assert len(set(TREE)) == len(TREE) == 63
    assert [sum(len(path) == depth for path in TREE) for depth in (1, 2, 3, 4)] == [10, 28, 23, 2]
    assert sum(not any(other[:-1] == path for other in TREE) for path in TREE) == 42
    assert first_nodes(4) == [(0,), (1,), (0, 0), (2,)]
    for count in range(1, 64):
        nodes = {(), *first_nodes(count)}
        assert len(nodes) == count + 1
        assert all(path[:-1] in nodes for path in nodes)
        assert all((*path[:-1], path[-1] - 1) in nodes for path in nodes if path and path[-1])


def test_a_smaller_tree_may_be_asked_for(runtime, tmp_path):
    engine = engine_of("medusa", runtime, write_medusa(tmp_path))
    for run in cycles(engine, request("medusa", [5, 9], given={"medusa_draft_tokens": 7})):
        assert run.last_cycle.tree.num_draft_tokens == 7
    with pytest.raises(ConfigError, match="medusa_draft_tokens is 0"):
        MedusaOptions(medusa_draft_tokens=0)


def test_typical_acceptance_is_an_option_that_says_so(runtime, tmp_path):
    assert MedusaOptions().rule.lossless == "ids"
    assert MedusaOptions(medusa_lossy_typical=True).rule.lossless == "no"
    engine = engine_of("medusa", runtime, write_medusa(tmp_path))
    *_, run = cycles(engine, request("medusa", [5, 9], 1.0, given={"medusa_lossy_typical": True}))
    assert len(run.generated) == 24


def test_published_files_are_read_with_their_own_lm_heads(tmp_path):
    published = read_head(MEDUSA, write_medusa(tmp_path / "p", heads=3, layers=2, own_heads=True))
    assert published.config == MedusaHeadConfig(HIDDEN, 3, 2, own_vocab=VOCAB, has_maps=False)
    assert published.weights["2.2.weight"].shape == (VOCAB, HIDDEN)
    assert published.draft_ids is None
    ours = read_head(MEDUSA, write_medusa(tmp_path / "o", draft_ids=[3, 5], outputs=True))
    assert ours.config.own_vocab is None
    assert ours.config.has_maps
    assert ours.draft_ids.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"4.0.linear.bias": np.zeros(HIDDEN, np.float32)}, {}, r"unknown tensor 4\.0\.linear\.bias"),
        ({"2.0.linear.bias": None}, {}, r"lacks 2\.0\.linear\.bias"),
        ({"0.0.linear.bias": np.zeros(3, np.float32)}, {}, "has shape"),
        ({"0.0.linear.bias": np.full(HIDDEN, np.inf, np.float32)}, {}, "not finite"),
        ({"0.1.weight": np.zeros((VOCAB, HIDDEN), np.float32)}, {}, r"lacks 1\.1\.weight"),
        ({"0.output.weight": np.zeros((HIDDEN, HIDDEN), np.float32)}, {}, r"lacks 0\.output\.bias"),
        ({"1.output.bias": np.zeros(HIDDEN, np.float32)}, {}, r"unknown tensor 1\.output\.bias"),
        ({}, {"medusa_num_heads": None}, "lacks a usable"),
        ({}, {"medusa_num_layers": 0}, "4 heads of 0 layers"),
        ({}, {"draft_vocab_size": 3}, "lacks d2t"),
        ({}, {"hidden_size": 16}, "has shape"),
    ],
    ids=str,
)
def test_wrong_files_are_named(tmp_path, change, config, message):
    directory = edit_network(write_medusa(tmp_path), change, config)
    with pytest.raises(CheckpointError, match=message) as error:
        read_head(MEDUSA, directory)
    assert "\n" not in str(error.value)


def test_heads_of_another_target_are_refused(runtime, tmp_path):
    def refused(directory, message):
        with pytest.raises(CheckpointError, match=message):
            engine_of("medusa", runtime, directory)

    refused(write_medusa(tmp_path / "a", target_fingerprint="f" * 16), "trained for the target")
    refused(write_medusa(tmp_path / "b", draft_ids=[3, VOCAB]), f"drafts token id {VOCAB}")
    small = {"0.0.linear.weight": np.zeros((8, 8), np.float32), "0.0.linear.bias": np.zeros(8, np.float32)}
    config = {"medusa_num_heads": 1, "medusa_num_layers": 1}
    refused(write_pickle(tmp_path / "c", "medusa_lm_head.pt", small, config), "hidden size 8")
    wide = load_file(write_medusa(tmp_path / "d", heads=1) / "model.safetensors")
    wide["0.1.weight"] = np.zeros((VOCAB + 1, HIDDEN), np.float32)
    refused(write_pickle(tmp_path / "e", "medusa_lm_head.pt", wide, config), f"vocabulary of {VOCAB + 1}")
