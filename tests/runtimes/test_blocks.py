"""The blocks of draft networks, and what a row answers, on every runtime."""

import numpy as np
import pytest
import torch

from eyas.engine.interfaces import Coupling, TargetCall
from eyas.engine.sampling import Sampler, SamplingConfig, best_of_row, log_softmax
from eyas.errors import ModelError
from eyas.runtimes.torch.blocks import HeadRows, TorchLMHead
from eyas.runtimes.torch.rows import TorchRows
from eyas.runtimes.torch.topk import best_of_rows

VOCAB = 89
PROMPT = [3, 1, 4, 1, 5]


def sampler(**options):
    return Sampler(SamplingConfig(**options), prompt_ids=PROMPT, vocab_size=VOCAB, seed=3)


def forward(runtime, token_ids=PROMPT):
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), np.array(token_ids))])
    return rows


def allowed(runtime, in_float64, in_float32=1e-4):
    """What rounding may do, in the runtime's own precision."""
    return in_float64 if runtime.target.dtype == "float64" else in_float32


def reference_top_k(values, k):
    """Sort by (value descending, column ascending)."""
    order = np.lexsort((np.arange(len(values)), -values))[:k]
    return order, values[order]


def test_greedy_choice_is_the_argmax(served):
    runtime, stock = served
    rows = forward(runtime)
    wanted, _ = stock(PROMPT)
    for row in range(len(PROMPT)):
        choice = rows.choose(row, sampler(), [])
        assert choice.id == wanted[row].argmax()
        assert choice.log_prob is None


def test_selected_rows_are_copies(llama):
    features = forward(llama).features
    wanted = [features[row].tolist() for row in (0, 3, 3)]
    chosen = llama.select(features, [0, 3, 3])
    assert chosen.tolist() == wanted
    with torch.inference_mode():
        features *= 0
    assert chosen.tolist() == wanted


def test_log_probs_are_those_of_the_unprocessed_logits(llama):
    rows = forward(llama)
    wanted = log_softmax(rows.logits(2))
    choice = rows.choose(2, sampler(temperature=2.0, top_k=3), [7], num_log_probs=4)
    assert choice.log_prob == wanted[choice.id]
    ids, values = reference_top_k(wanted, 4)
    assert choice.top == tuple(zip(ids.tolist(), values.tolist(), strict=True))
    bare = rows.choose(2, sampler(), [7], num_log_probs=0)
    assert bare.top == ()
    assert bare.log_prob == wanted.max()


def test_sampled_choice_is_the_samplers(llama):
    rows, draw = forward(llama), sampler(temperature=1.0)
    assert rows.choose(4, draw, [8, 9]).id == draw.choose(rows.logits(4), [8, 9])


def test_penalties_reach_the_greedy_choice(llama):
    rows = forward(llama)
    best = rows.choose(4, sampler(), []).id
    assert rows.choose(4, sampler(logit_bias={best: -100.0}), []).id != best


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_logits_go_to_the_lowest_id(dtype):
    logits = torch.zeros(2, 5000, dtype=dtype)
    logits[0, [900, 300, 4000]] = 1
    rows = TorchRows(torch.zeros(2, 4), logits, "tiny")
    assert rows.choose(0, sampler(), []).id == 300
    assert rows.choose(0, sampler(), [], 2).top[0][0] == 300
    assert rows.choose(1, sampler(), []).id == 0


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}])
def test_a_logit_that_is_no_number_is_an_error(options):
    logits = torch.zeros(1, VOCAB)
    logits[0, 40] = torch.nan
    rows = TorchRows(torch.zeros(1, 4), logits, "tiny in float32")
    with pytest.raises(ModelError, match="tiny in float32"):
        rows.choose(0, sampler(**options), [])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_top_k_has_the_lowest_ids_among_equals(dtype, k):
    generator = torch.Generator().manual_seed(1)
    # Rounded to halves: ties everywhere, at the edge too; row 3 is one single tie.
    logits = (torch.randn(4, 60, generator=generator) * 2).round().div(2).to(dtype)
    logits[3] = 0
    ids, values = best_of_rows(logits, k)
    for row in range(4):
        wanted_ids, wanted = reference_top_k(logits[row].double().numpy(), k)
        np.testing.assert_array_equal(ids[row], wanted_ids)
        np.testing.assert_array_equal(values[row], wanted)
        np.testing.assert_array_equal(best_of_row(logits[row].double().numpy(), k), wanted_ids)


def test_lm_head_continues_like_the_target(served):
    runtime, stock = served
    rows = forward(runtime)
    top = runtime.lm_head().top_k(rows.features, 5)
    assert top.token_ids.shape == top.log_probs.shape == (len(PROMPT), 5)
    for row, logits in enumerate(stock(PROMPT)[0]):
        ids, wanted = reference_top_k(log_softmax(logits), 5)
        np.testing.assert_array_equal(top.token_ids[row], ids)
        np.testing.assert_allclose(top.log_probs[row], wanted, rtol=0, atol=max(1e-5, stock.atol))


def test_a_draft_vocabulary_keeps_target_ids(llama):
    rows = forward(llama)
    draft_ids = np.array([0, 4, 9, 33, 50, 88])
    top = llama.lm_head(draft_ids).top_k(rows.features, 3)
    for row in range(len(PROMPT)):
        order, wanted = reference_top_k(log_softmax(rows.logits(row)[draft_ids]), 3)
        np.testing.assert_array_equal(top.token_ids[row], draft_ids[order])
        np.testing.assert_allclose(top.log_probs[row], wanted, rtol=0, atol=1e-6)


def test_k_is_capped_at_the_vocabulary(llama):
    rows = forward(llama)
    assert llama.lm_head(np.array([2, 5])).top_k(rows.features[1:2], 10).token_ids.shape == (1, 2)
    top = llama.lm_head().top_k(rows.features[[0, 1]], 1000)
    assert top.token_ids.shape == (2, VOCAB)
    np.testing.assert_allclose(np.exp(top.log_probs).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("draft_ids", [None, np.arange(0, VOCAB, 2)], ids=["all", "some"])
def test_coupled_children_are_the_best_of_the_samplers_scores(llama, draft_ids):
    rows, draw = forward(llama), sampler(temperature=0.7, top_p=0.9)
    generated = [[1], [1, 2], [1, 3], [1, 2, 4], [5]]
    coupling = Coupling(draw, generated, scale=0.8)
    top = llama.lm_head(draft_ids).top_k(rows.features, 4, coupling)
    columns = np.arange(VOCAB) if draft_ids is None else draft_ids
    for row in range(len(PROMPT)):
        scores = draw.scores(rows.logits(row)[columns], generated[row], columns=draft_ids)
        order, best = reference_top_k(scores, 4)
        able = np.isfinite(best)
        np.testing.assert_array_equal(top.token_ids[row][able], columns[order][able])
        finite = scores[np.isfinite(scores)] / 0.8
        wanted = best[able] / 0.8 - np.logaddexp.reduce(finite)
        # Compiled draws have an error of up to 1e-3: they choose drafts, never tokens.
        np.testing.assert_allclose(
            top.log_probs[row][able], wanted, rtol=1e-7, atol=allowed(llama, 1e-9, 2e-3)
        )


def test_coupled_rows_with_few_able_tokens_are_filled_with_impossible_ones(llama):
    rows = forward(llama)
    coupling = Coupling(sampler(temperature=1.0, top_k=2), [[1]], scale=1.0)
    top = llama.lm_head().top_k(rows.features[4:], 5, coupling)
    assert np.isfinite(top.log_probs[0]).tolist() == [True, True, False, False, False]
    assert np.all(top.log_probs[0, 2:] == -np.inf)
    assert len(set(top.token_ids[0].tolist())) == 5


def test_a_draft_logit_that_is_no_number_is_an_error(llama):
    features = forward(llama).features[:2] * 1
    features[1] = np.nan
    for coupling in (None, Coupling(sampler(temperature=1.0), [[1], [1]], 1.0)):
        with pytest.raises(ModelError, match="NaN"):
            llama.lm_head().top_k(features, 3, coupling)


def test_embed_gives_rows_of_the_table(served):
    runtime, stock = served
    table = stock.model.get_input_embeddings().weight
    wanted = table[[5, 0, 5]].detach().numpy()
    got = np.asarray(runtime.embed(np.array([5, 0, 5])))
    np.testing.assert_array_equal(got, wanted.astype(got.dtype))


def test_linear_reads_its_inputs_side_by_side(llama):
    generator = np.random.default_rng(4)
    weight, bias = generator.normal(size=(6, 64)), generator.normal(size=6)
    rows, features = llama.embed(np.array([1, 2])), forward(llama).features[:2]
    joined = np.concatenate([np.asarray(rows), np.asarray(features)], axis=1)
    got = llama.linear(weight, bias)(rows, features)
    atol = allowed(llama, 1e-12)
    np.testing.assert_allclose(np.asarray(got), joined @ weight.T + bias, rtol=0, atol=atol)
    bare = llama.linear(weight, None)(rows, features)
    np.testing.assert_allclose(np.asarray(bare), joined @ weight.T, rtol=0, atol=atol)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("reduces", [True, False], ids=["with-shortcut", "identity"])
def test_a_residual_block_adds_silu_to_its_shortcut(llama, reduces, has_bias):
    generator = np.random.default_rng(5)
    outputs = 6 if reduces else 64
    weight, bias = generator.normal(size=(outputs, 64)), generator.normal(size=outputs)
    weight[0] *= 100  # SiLU of large numbers of either sign
    straight = (generator.normal(size=(outputs, 64)), generator.normal(size=outputs)) if reduces else None
    rows, features = llama.embed(np.array([1, 2, 3])), forward(llama).features[:3]
    joined = np.concatenate([np.asarray(rows), np.asarray(features)], axis=1).astype(np.float64)
    inner = joined @ weight.T + (bias if has_bias else 0)
    with np.errstate(over="ignore"):
        wanted = inner / (1 + np.exp(-inner)) + (
            joined if straight is None else joined @ straight[0].T + straight[1]
        )
    got = llama.res_block(weight, bias if has_bias else None, straight)(rows, features)
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-5, atol=allowed(llama, 1e-11))


def rms_norm(rows, weight, eps):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + eps) * weight


def test_a_norm_divides_by_the_root_of_the_mean_square(llama):
    features, weight = forward(llama).features, np.random.default_rng(7).normal(size=32)
    got = llama.norm(weight, 0.5)(features)
    np.testing.assert_allclose(
        np.asarray(got), rms_norm(features, weight, 0.5), rtol=0, atol=allowed(llama, 1e-12, 1e-6)
    )


@pytest.mark.parametrize("own", [True, False])
def test_an_lm_head_may_norm_what_it_reads(llama, own):
    """One of a draft's own with ids of its rows, or the target's, to which ids can be added."""
    generator, features = np.random.default_rng(8), forward(llama).features
    ids, norm = np.array([2, 5, 9, 40]), (generator.normal(size=32), 1e-3)
    normed = rms_norm(features, *norm)
    weight = generator.normal(size=(4, 32))
    head = llama.own_lm_head(weight, None, ids, norm) if own else llama.lm_head(ids, norm)
    atol = allowed(llama, 1e-11)
    if own:
        wanted = normed @ weight.T
    else:
        head = head.plus(np.array([7]))
        ids = np.array([2, 5, 7, 9, 40])
        wanted = llama.lm_head().logits(llama.norm(*norm)(features))[:, ids]
    logits = head.logits(features)
    np.testing.assert_allclose(logits[:, ids], wanted, rtol=0, atol=atol)
    assert np.all(np.delete(logits, ids, axis=1) == -np.inf)
    top = head.top_k(features, 2)
    for row, best in enumerate(wanted):
        columns, values = reference_top_k(log_softmax(best), 2)
        np.testing.assert_array_equal(top.token_ids[row], ids[columns])
        np.testing.assert_allclose(top.log_probs[row], values, rtol=0, atol=max(atol, 1e-6))
    if own:
        assert head.plus(np.array([7])).top_k(features, 9).token_ids.shape[1] == 4


@pytest.mark.parametrize("has_bias", [True, False])
def test_an_lm_head_of_a_drafts_own(llama, has_bias):
    generator = np.random.default_rng(6)
    features = forward(llama).features
    weight, bias = generator.normal(size=(VOCAB, 32)), generator.normal(size=VOCAB)
    head = llama.own_lm_head(weight, bias if has_bias else None)
    wanted = np.asarray(features, dtype=np.float64) @ weight.T + (bias if has_bias else 0)
    atol = allowed(llama, 1e-11)
    np.testing.assert_allclose(head.logits(features), wanted, rtol=0, atol=atol)
    top = head.top_k(features, 4)
    for row, logits in enumerate(wanted):
        ids, best = reference_top_k(log_softmax(logits), 4)
        np.testing.assert_array_equal(top.token_ids[row], ids)
        np.testing.assert_allclose(top.log_probs[row], best, rtol=0, atol=max(atol, 1e-6))


def test_logits_of_a_draft_vocabulary_are_the_targets_and_nothing_elsewhere(llama):
    rows = forward(llama)
    wanted = np.stack([rows.logits(row) for row in range(len(PROMPT))])
    atol = allowed(llama, 1e-12)
    np.testing.assert_allclose(llama.lm_head().logits(rows.features), wanted, rtol=0, atol=atol)
    draft_ids = np.array([0, 4, 9, 33])
    head = llama.lm_head(draft_ids)
    assert llama.lm_head().plus(draft_ids).top_k(rows.features, VOCAB).token_ids.shape[1] == VOCAB
    for more, known in ([], [0, 4, 9, 33]), ([7, 4, 7], [0, 4, 7, 9, 33]), ([40, 5], [0, 4, 5, 7, 9, 33, 40]):
        head = head.plus(np.array(more, dtype=np.int64))
        some = head.logits(rows.features)
        assert some.shape == wanted.shape
        np.testing.assert_allclose(some[:, known], wanted[:, known], rtol=0, atol=atol)
        assert np.all(np.delete(some, known, axis=1) == -np.inf)


def test_adding_tokens_to_a_draft_vocabulary_fetches_only_the_new_rows(torch_llama, monkeypatch):
    fetched, fetch = [], torch_llama._head_rows
    monkeypatch.setattr(torch_llama, "_head_rows", lambda ids: fetched.append(ids.tolist()) or fetch(ids))
    head = torch_llama.lm_head(np.array([0, 4, 9, 33]))
    for more in ([7, 4, 7], [40, 5], [7, 9]):
        head = head.plus(np.array(more, dtype=np.int64))
    assert fetched == [[0, 4, 9, 33], [7], [5, 40]]


def test_equal_logits_of_added_tokens_go_to_the_lowest_id():
    table = HeadRows(torch.ones(8, 2), None)
    head = TorchLMHead(
        *HeadRows(table.weight[:3], None),
        lambda logits: logits,
        np.array([2, 4, 6]),
        8,
        lambda ids: HeadRows(table.weight[torch.from_numpy(ids)], None),
    )
    head = head.plus(np.array([5])).plus(np.array([1, 3]))
    assert head.top_k(torch.ones(1, 2), 4).token_ids.tolist() == [[1, 2, 3, 4]]


def test_transformers_does_not_warn_about_the_caches_name(torch_llama, recwarn):
    forward(torch_llama)
    assert not [warning for warning in recwarn if "past_key_values" in str(warning.message)]


def test_scores_round_to_the_targets_precision(llama, coarse):
    values = np.array([[0.1, -1 / 3]])
    own = np.dtype(llama.target.dtype)
    np.testing.assert_array_equal(llama.round_score(values), values.astype(own).astype(np.float64))
    np.testing.assert_array_equal(coarse.round_score(values), [[0.10009765625, -0.333984375]])


def test_biases_and_transforms_reach_the_logits():
    head = TorchLMHead(torch.eye(3), torch.tensor([0.0, 1.0, 0.0]), lambda logits: 2 * logits, None, 3)
    assert head.raw_logits(torch.eye(3)[:1]).tolist() == [[2.0, 2.0, 0.0]]
