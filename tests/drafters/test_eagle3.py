"""EAGLE-3 heads: what they predict, by the formulas; their taps; files that are refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drafting import cycles, edit_network, engine_of, request
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from eyas.drafters.eagle3 import EAGLE3, Eagle3Head
from eyas.drafters.heads import read_head
from eyas.engine.interfaces import TargetCall
from eyas.engine.tree_options import TreeOptions
from eyas.errors import CheckpointError
from eyas.runtimes import load_runtime
from eyas.training.precision import Int8Drafts
from reference.eagle3 import PATH, TOKENS, VARIANTS, Eagle3Reference, frozen
from tiny import HIDDEN, LAYERS, VOCAB, write_arrays, write_eagle3, write_llama

HEADS = {
    "plain": {},
    "biases and one tap": {"bias": True, "taps": (1,)},
    "normed residual and inputs": {"norm_before_residual": True, "norm_before_fc": True, "taps": (1, 0)},
    "3.1": {"norm_output": True, "fc_norm": True, "draft_ids": None},
    "the target's LM head": {"own_head": False, "draft_ids": range(1, VOCAB, 3)},
}
GOLDEN = json.loads((Path(__file__).parents[1] / "golden/eagle3.json").read_text())


def atol(runtime):
    """Rotary angles are float32 everywhere."""
    return 1e-5 if runtime.target.dtype == "float64" else 2e-3


def reference_of(directory, target_weights, tokens):
    """The slow head of a folder by the authors' names, and the ids that it drafts behind `tokens`."""
    weights = {
        name.replace("layers.0.", "midlayer."): array
        for name, array in load_file(directory / "model.safetensors").items()
    }
    offsets = weights.pop("d2t", None)
    ids = np.arange(VOCAB) if offsets is None else offsets + np.arange(len(offsets))
    if "lm_head.weight" not in weights:
        ids = np.union1d(ids, tokens)  # the target's LM head takes those of the answer
        weights["lm_head.weight"] = target_weights["lm_head.weight"][ids]
    return Eagle3Reference(weights, json.loads((directory / "config.json").read_text())), ids


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_nodes_confidence_is_that_of_the_formulas(runtime, target_weights, tmp_path, name, temperature):
    directory = write_eagle3(tmp_path, **HEADS[name])
    table = target_weights["model.embed_tokens.weight"]
    engine = engine_of("eagle3", runtime, directory)
    options = {"draft_tokens": 14, "depth": 4, "tree_top_k": 4}
    wanted = request("eagle3", [5, 9, 11], temperature, new_tokens=12, given=options)
    run, _ = engine.start(replace(wanted, tree=TreeOptions(draft_sampling="top-k")))
    while not run.is_finished:
        tokens = list(run.token_ids)
        engine.step([run])
        tree = run.last_cycle.tree
        slow, ids = reference_of(directory, target_weights, tokens)
        call = TargetCall(runtime.new_cache(), np.array(tokens[:-1]), taps=engine.taps)
        states = np.asarray(runtime.forward([call])[0].features, dtype=np.float64)
        states = np.split(states, len(engine.taps), axis=1)
        for node in range(1, len(tree.token_ids)):
            path = tree.token_ids[tree.path(node)[1:]]
            drafted = slow.log_probs(table[tokens[1:]], states, table[path[:-1]])
            [column] = np.flatnonzero(ids == path[-1])
            own = tree.log_values[node] - tree.log_values[tree.parents[node]]
            assert own == pytest.approx(drafted[column], abs=atol(runtime))
            assert drafted[column] >= np.sort(drafted)[-4] - atol(runtime), "one of the four best"


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["variant"])
def test_golden_drafts(runtime, tmp_path, case):
    """Behind five given positions, and behind each of three drafted tokens."""
    weights, config, table, states = frozen(case["variant"])
    draft_ids = range(0, VOCAB, 2)
    own = {name.replace("midlayer.", "layers.0."): array for name, array in weights.items()}
    document = {"head_kind": "eagle3", "vocab_size": VOCAB, "eagle_aux_hidden_state_layer_ids": [0, 1, 1]}
    directory = write_arrays(tmp_path / "head", own, {**document, **config}, draft_ids)
    head = Eagle3Head.load(with_embedding(runtime, table, tmp_path), directory)
    features, cache, parent = rows_of(runtime, np.concatenate(states, axis=1)), head.stack.new_cache(), None
    out, tokens = head.take(features), np.array(TOKENS)
    for depth, drafts in enumerate(case["drafts"]):
        out = head.predict(cache, tokens, out, parent)
        top = head.lm_head().after(TOKENS).top_k(out[-1:], 5)
        assert top.token_ids[0].tolist() == [token for token, _ in drafts]
        wanted = [log_prob for _, log_prob in drafts]
        np.testing.assert_allclose(top.log_probs[0], wanted, rtol=0, atol=max(1e-5, atol(runtime) / 10))
        if depth == 0:
            cache.commit(range(len(tokens)))
        out, tokens, parent = out[-1:], np.array(PATH[depth : depth + 1]), np.array([depth - 1])


def with_embedding(runtime, table, place):
    """The same kind of runtime over a target with another embedding."""
    directory = write_llama(place / "target", max_positions=96)
    path = directory / "model.safetensors"
    save_file(load_file(path) | {"model.embed_tokens.weight": table}, path, {"format": "pt"})
    target = runtime.target
    precise = {"draft_dtype": "float32"} if target.runtime == "native" else {}
    return load_runtime(target.runtime, directory, name="t", dtype=target.dtype, threads=1, **precise)


def rows_of(runtime, rows):
    """Features of a runtime."""
    if runtime.target.runtime == "native":
        return np.ascontiguousarray(rows, dtype=np.float32)
    import torch

    return torch.from_numpy(rows.astype(np.float64))


def test_golden_covers_every_variant():
    assert [case["variant"] for case in GOLDEN] == list(VARIANTS)


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    variant=st.sampled_from(list(HEADS)),
    seed=st.integers(0, 99),
)
def test_pairs_read_in_pieces_are_those_read_at_once(runtime, tmp_path_factory, cuts, variant, seed):
    """The committed positions are one causal pass, however they arrive."""
    head = Eagle3Head.load(runtime, write_eagle3(tmp_path_factory.mktemp("head"), **HEADS[variant]))
    rng, total = np.random.default_rng(seed), sum(cuts)
    features = rows_of(runtime, rng.normal(size=(total, len(head.taps) * HIDDEN)))
    tokens = rng.integers(0, VOCAB, total)
    whole = head.predict(head.stack.new_cache(), tokens, head.take(features), None)
    cache, start, parts = head.stack.new_cache(), 0, []
    for count in cuts:
        piece = head.take(features[start : start + count])
        parts.append(np.asarray(head.predict(cache, tokens[start : start + count], piece, None)))
        cache.commit(range(count))
        start += count
    allowed = 1e-10 if runtime.target.dtype == "float64" else 0
    np.testing.assert_allclose(np.concatenate(parts), np.asarray(whole), rtol=0, atol=allowed)


def test_tokens_of_the_answer_are_drafted_with_the_targets_lm_head_alone(runtime, tmp_path):
    """Its rows can be added; those of a head's own cannot."""
    some = range(1, VOCAB, 3)
    for own_head in (True, False):
        directory = write_eagle3(tmp_path / str(own_head), own_head=own_head, draft_ids=some)
        drafted = set()
        prompt = [0, 30, 60, 2, 12]
        for run in cycles(engine_of("eagle3", runtime, directory), request("eagle3", prompt)):
            drafted |= set(run.last_cycle.tree.token_ids[1:].tolist())
        assert bool(drafted - set(some)) != own_head


def test_heads_without_taps_have_the_authors(runtime, tmp_path):
    """Layers 2, n / 2 and n - 3; this target has two layers."""
    directory = write_eagle3(tmp_path, taps=None)
    assert read_head(EAGLE3, directory).config.taps is None
    with pytest.raises(CheckpointError, match=rf"layers \[2, 1, -1\], but tiny has layers 0 to {LAYERS - 1}"):
        Eagle3Head.load(runtime, directory)
    deep = write_llama(tmp_path / "deep", num_hidden_layers=12, max_positions=96)
    deep = load_runtime(runtime.target.runtime, deep, name="deep", threads=1)
    assert Eagle3Head.load(deep, directory).taps == (2, 6, 9)


def test_a_head_in_int8_drafts_nearly_the_same(tmp_path, target_dir):
    torch_runtime = load_runtime("torch", target_dir, name="tiny", dtype="float64")
    directory = write_eagle3(tmp_path)
    trees = []
    for runtime in (torch_runtime, Int8Drafts(torch_runtime)):
        engine = engine_of("eagle3", runtime, directory)
        run = next(iter(cycles(engine, request("eagle3", [5, 9, 11]))))
        trees.append(run.last_cycle.tree)
    assert trees[0].log_values[1] == pytest.approx(trees[1].log_values[1], abs=0.1)
    assert not np.array_equal(trees[0].log_values, trees[1].log_values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": None}, "fc.weight is missing"),
        ({"fc.weight": np.zeros((HIDDEN, 40), dtype=np.float32)}, r"fc.weight has shape \[32, 40\]"),
        ({"norm.weight": None}, "lacks norm.weight"),
        ({"layers.0.hidden_norm.weight": None}, "lacks layers.0.hidden_norm.weight"),
        ({"input_norm.weight": np.ones(3 * HIDDEN, dtype=np.float32)}, "unknown tensor input_norm"),
        ({"lm_head.weight": np.zeros((5, HIDDEN), dtype=np.float32)}, "lm_head.weight has shape"),
        ({"d2t": None}, "lacks d2t"),
        ({"mask_hidden": np.zeros(HIDDEN, dtype=np.float32)}, "unknown tensor mask_hidden"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_weights_are_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_head(EAGLE3, edit_network(write_eagle3(tmp_path), change, {}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_before_fc": True, "fc_norm": True}, "one excludes the other"),
        ({"norm_output": "yes"}, "norm_output 'yes'; it is true or false"),
        ({"eagle_aux_hidden_state_layer_ids": [1, 2]}, "but fc.weight reads 3 states"),
        ({"eagle_aux_hidden_state_layer_ids": "all"}, "'all', but fc.weight reads 3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'; it is silu"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "its rotary scaling is 'dynamic'"),
        ({"num_hidden_layers": 2}, "lacks layers.1"),
        ({"head_dim": 7}, "layers lie in"),
        ({"head_kind": "medusa"}, "holds a head of the kind 'medusa', but one of 'eagle3' is needed"),
    ],
    ids=str,
)
def test_wrong_configs_are_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_head(EAGLE3, edit_network(write_eagle3(tmp_path), {}, change))
    assert "\n" not in str(error.value)


def test_heads_for_another_target_are_refused(runtime, tmp_path):
    for name, change, message in (
        (
            "layers",
            {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]},
            r"\[0, 1, 2\], but tiny has layers 0 to 1",
        ),
        ("fingerprint", {"target_fingerprint": "f" * 16}, "was trained for the target with fingerprint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Eagle3Head.load(runtime, edit_network(write_eagle3(tmp_path / name), {}, change))
    directory = write_eagle3(tmp_path / "vocab", draft_ids=None)
    lm_head = load_file(directory / "model.safetensors")["lm_head.weight"]
    with pytest.raises(CheckpointError, match="vocabulary of 60 tokens, but tiny has 64"):
        Eagle3Head.load(runtime, edit_network(directory, {"lm_head.weight": lm_head[:60]}, {}))
