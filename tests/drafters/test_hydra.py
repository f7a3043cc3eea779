"""Hydra heads: what a head reads, the prefix layer's cache, and files that are refused."""

import numpy as np
import pytest
import torch
from drafting import cycles, edit_network, engine_of, request

from eyas.drafters.heads import read_head
from eyas.drafters.hydra import HYDRA, PREFIX, HydraOptions
from eyas.engine.interfaces import TargetCall
from eyas.errors import CheckpointError, ConfigError
from tiny import HIDDEN, VOCAB, write_hydra, write_pickle


def write_reading(directory, target_weights, part):
    """Heads of the "mlp" layout whose blocks pass on one part of z: 0 is the feature, 1 the root, -1 the
    newest token. Their LM heads name what follows: the target's choice or that token, plus 1."""
    embedding = target_weights["model.embed_tokens.weight"]
    alike = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)  # most like a token is itself
    lm_head = target_weights["lm_head.weight"] if part == 0 else alike
    weights = {}
    for head in range(4):
        name, inputs = f"hydra_mlp.{head}.0.", (head + 2) * HIDDEN
        passes = np.zeros((HIDDEN, inputs), dtype=np.float32)
        start = part % (head + 2) * HIDDEN
        passes[:, start : start + HIDDEN] = np.eye(HIDDEN)
        weights |= {
            name + "linear.weight": np.zeros((HIDDEN, inputs), dtype=np.float32),
            name + "linear.bias": np.zeros(HIDDEN, dtype=np.float32),
            name + "res_connection.weight": passes,
            name + "res_connection.bias": np.zeros(HIDDEN, dtype=np.float32),
            f"hydra_lm_head.{head}.weight": np.roll(lm_head, 1, axis=0),
            f"hydra_lm_head.{head}.bias": np.zeros(VOCAB, dtype=np.float32),
        }
    config = {"hydra_num_heads": 4, "hydra_num_layers": 1, "hydra_head_arch": "mlp"}
    return write_pickle(directory, "hydra_lm_head.pt", weights, config)


@pytest.mark.parametrize("part", [0, 1, -1], ids=["feature", "root", "newest-token"])
def test_a_head_reads_the_feature_before_the_root_and_the_tokens_below_it(
    runtime, target_weights, tmp_path, part
):
    engine = engine_of("hydra", runtime, write_reading(tmp_path, target_weights, part))
    count = 0
    for run in cycles(engine, request("hydra", [5, 9, 11])):
        tree = run.last_cycle.tree
        root = int(tree.token_ids[0])  # greedy: the target's choice after the newest feature
        for node, children in enumerate(tree.children):
            if children:
                above = int(tree.token_ids[node]) if part == -1 else root
                assert next(iter(children)) == (above + 1) % VOCAB
        assert tree.depth == 4
        count += 1
    assert count > 3


def test_head_i_fills_level_i_plus_1(runtime, tmp_path):
    """The heads' own biases are so large that each names its own tokens."""
    directory = write_hydra(tmp_path, own_heads=True)
    weights = torch.load(directory / "hydra_lm_head.pt")
    for head in range(4):
        weights[f"hydra_lm_head.{head}.1.bias"] = torch.zeros(VOCAB).index_fill_(
            0, torch.arange(10 * head, 10 * head + 10), 1e4
        )
    torch.save(weights, directory / "hydra_lm_head.pt")
    for run in cycles(engine_of("hydra", runtime, directory), request("hydra", [5, 9, 11])):
        tree = run.last_cycle.tree
        assert tree.num_draft_tokens == 63
        assert ((tree.token_ids // 10 + 1)[1:] == tree.depths[1:]).all()


@pytest.mark.parametrize("temperature", [0.0, 0.8], ids=["greedy", "sampled"])
def test_the_prefix_layers_cache_is_one_causal_pass_over_true_features(runtime, tmp_path, temperature):
    """L7: what a head conditions on is what a fresh pass over all committed features gives."""
    engine = engine_of("hydra", runtime, write_hydra(tmp_path))
    count = 0
    for run in cycles(engine, request("hydra", [11, 12, 13], temperature)):
        ids = np.array(run.token_ids[:-1])
        [rows] = runtime.forward([TargetCall(runtime.new_cache(), ids)])
        fresh = engine.drafter.open().reader
        fresh.begin(0)
        fresh.extend(rows.features)
        reader = run.session.reader
        ours, wanted = np.asarray(reader.read()), np.asarray(fresh.read())
        assert reader._cache.length == len(ids)
        np.testing.assert_allclose(
            ours, wanted, rtol=0, atol=0 if runtime.target.runtime == "native" else 1e-9
        )
        reader._cache.truncate(len(ids) - 1)  # what was read here, the next cycle reads again
        reader.extend(rows.features[-1:])
        count += 1
    assert count > 5


def test_a_later_turn_keeps_what_was_read_of_the_common_rows(runtime, tmp_path):
    engine = engine_of("hydra", runtime, write_hydra(tmp_path))
    *_, run = cycles(engine, request("hydra", [5, 9, 11]))
    turn = [*run.token_ids[:20], 8, 9]
    again, _ = engine.start(request("hydra", turn), run)
    assert again.session.reader._cache.length == 19  # the last common row is forwarded again
    while not again.is_finished:
        engine.step([again])
    *_, fresh = cycles(engine, request("hydra", turn))
    assert again.generated == fresh.generated
    assert again.counter.mean_cycle_tokens == fresh.counter.mean_cycle_tokens


def test_published_files_are_read_with_their_own_lm_heads(tmp_path):
    checkpoint = read_head(HYDRA, write_hydra(tmp_path / "p", own_heads=True, layers=4))
    config, weights = checkpoint.config, checkpoint.weights
    assert (config.heads, config.layers, config.own_vocab) == (4, 4, VOCAB)
    inputs = [weights[f"{config.block(head, 0)}.linear.weight"].shape[1] for head in range(4)]
    assert inputs == [64, 96, 128, 160]
    assert weights[f"{config.lm_head(3)}.weight"].shape == (VOCAB, HIDDEN)
    assert PREFIX + "norm.weight" in weights
    mlp = read_head(HYDRA, write_hydra(tmp_path / "m", own_heads=True, arch="mlp", layers=2, heads=2))
    assert mlp.config.prefix is None
    assert mlp.weights["hydra_mlp.1.1.linear.weight"].shape == (HIDDEN, HIDDEN)
    ours = read_head(HYDRA, write_hydra(tmp_path / "o", draft_ids=[3, 5]))
    assert ours.config.own_vocab is None
    assert ours.draft_ids.tolist() == [3, 5]


@pytest.mark.parametrize("arch", ["mlp", "prefix-mlp"])
def test_both_layouts_draft_on_every_runtime(runtime, tmp_path, arch):
    engine = engine_of("hydra", runtime, write_hydra(tmp_path / "p", own_heads=True, arch=arch, heads=2))
    plain = engine_of("autoregressive", runtime, tmp_path)
    *_, drafted = cycles(engine, request("hydra", [5, 9, 11], 1.0))
    *_, wanted = cycles(plain, request("autoregressive", [5, 9, 11], 1.0))
    assert drafted.generated == wanted.generated
    assert drafted.last_cycle.tree.depth <= 2


SHARED = "hydra_mlp.0.3.linear.bias"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"hydra_mlp.9.1.linear.bias": np.zeros(HIDDEN, np.float32)}, {}, r"unknown tensor hydra_mlp\.9"),
        ({SHARED: None}, {}, "lacks " + SHARED),
        ({SHARED: np.zeros(3, np.float32)}, {}, "has shape"),
        (
            {"hydra_mlp.0.5.linear.bias": np.zeros(HIDDEN, np.float32)},
            {},
            r"0\.5\.linear\.bias and .*0\.3\.linear\.bias differ",
        ),
        ({"hydra_lm_head.0.1.weight": np.zeros((VOCAB, HIDDEN), np.float32)}, {}, "lacks hydra_lm_head"),
        ({}, {"hydra_head_arch": "eagle"}, "hydra_head_arch 'eagle'"),
        ({}, {"grounded_heads": False}, "grounded_heads False"),
        ({}, {"hydra_num_heads": None}, "lacks a usable"),
        ({}, {"num_attention_heads": None}, "lacks a usable"),
        ({}, {"draft_vocab_size": 3}, "lacks d2t"),
    ],
    ids=str,
)
def test_wrong_files_are_named(tmp_path, change, config, message):
    directory = edit_network(write_hydra(tmp_path), change, config)
    with pytest.raises(CheckpointError, match=message) as error:
        read_head(HYDRA, directory)
    assert "\n" not in str(error.value)


def test_heads_of_another_target_are_refused(runtime, tmp_path):
    with pytest.raises(CheckpointError, match="trained for the target"):
        engine_of("hydra", runtime, write_hydra(tmp_path / "a", target_fingerprint="f" * 16))
    with pytest.raises(CheckpointError, match=f"drafts token id {VOCAB}"):
        engine_of("hydra", runtime, write_hydra(tmp_path / "b", draft_ids=[3, VOCAB]))
    with pytest.raises(ConfigError, match="hydra_draft_tokens is 0"):
        HydraOptions(hydra_draft_tokens=0)
