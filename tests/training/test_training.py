"""Losses, alignment, resuming, simulation and distilling, on a tiny target."""

import math

import numpy as np
import pytest
import torch
from making import stopped_and_resumed, write

from eyas.drafters.eagle2 import Eagle2, Eagle2Options
from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.heads import read_head
from eyas.engine.cycle import Engine, Request
from eyas.engine.interfaces import FINAL, DraftFiles
from eyas.engine.sampling import Sampler, SamplingConfig, log_softmax
from eyas.engine.stopping import AnswerText, NoText, StoppingConfig
from eyas.engine.tree_options import TreeOptions
from eyas.errors import CheckpointError, ConfigError, DataError
from eyas.training import coupling
from eyas.training.chains import draw_chains
from eyas.training.coupling import fit_coupled_scale
from eyas.training.data import Sample, plan_batches, read_samples, split_held_out
from eyas.training.distil import DistilJob, LoopStopped, answer_all
from eyas.training.eagle import EagleRecipe, EagleTrainer
from eyas.training.feature_store import FeatureOptions, FeatureStore
from eyas.training.features import FeatureSource
from eyas.training.finish import train_head
from eyas.training.losses import CHUNK, classification_loss, regression_loss
from eyas.training.oracle import Oracle
from eyas.training.prompts import read_prompts
from eyas.training.simulate import posterior_gumbel, simulate
from eyas.training.vocabulary import frequent_tokens
from tiny import VOCAB, write_llama

QUICK = {
    "learning_rate": 3e-3,
    "noise": 0.0,
    "ce_weight": 1.0,
    "first_pair": True,
    "batch_rows": 256,
    "held_out_every": 8,
    "closed_form_start": True,
}


def trainer(runtime, samples, **changes):
    config = EagleRecipe(**{**QUICK, **changes})
    return EagleTrainer(runtime, samples, config, None, FeatureSource(runtime, 64))


def test_losses_by_hand():
    output, feature = torch.tensor([[0.0, 3.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.0], [1.0, 2.0]])
    # smooth L1 with beta 1: 0.125 and 2.5; 0 and 0.5
    expected = (1 * (0.125 + 2.5) / 2 + 3 * (0 + 0.5) / 2) / 4
    assert float(regression_loss(output, feature, None, torch.tensor([1.0, 3.0]))) == pytest.approx(expected)
    halved = regression_loss(output, feature, torch.tensor([2.0, 2.0]), torch.ones(2))
    by_hand = ((0.25**2 / 2 + 1.0) / 2 + (0 + 0.5**2 / 2) / 2) / 2
    assert float(halved) == pytest.approx(by_hand)
    # with a head of ones the features are the logits: 1/4 and 3/4 against 1/2 and 1/2
    output, feature = torch.tensor([[0.0, math.log(3.0)]]), torch.zeros((1, 2))
    by_hand = -0.5 * math.log(0.25) - 0.5 * math.log(0.75)
    assert float(classification_loss(output, feature, torch.eye(2), torch.ones(1))[0]) == pytest.approx(
        by_hand
    )


def test_the_classification_loss_and_its_gradient_are_torchs_own():
    generator = torch.Generator().manual_seed(0)
    rows, vocab = CHUNK + 40, 30  # two chunks
    feature, output = torch.randn((2, rows, 8), generator=generator)
    head = torch.randn((vocab, 8), generator=generator)
    weights = torch.rand(rows, generator=generator)
    ours, theirs = output.clone().requires_grad_(), output.clone().requires_grad_()
    loss, agreement = classification_loss(ours, feature, head, weights)
    probs = (feature @ head.T).softmax(dim=-1)
    each = torch.nn.functional.cross_entropy(theirs @ head.T, probs, reduction="none")
    expected = (each * weights).sum() / weights.sum()
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    same = (output @ head.T)[:CHUNK].argmax(-1) == probs[:CHUNK].argmax(-1)
    assert agreement == pytest.approx(float(same.float().mean()))


def test_chains_begin_where_rows_count():
    weights = torch.tensor([[0.0, 1.0, 0.5, 1.0], [0.0, 0.0, 1.0, 0.0]])
    anchors, asked = draw_chains(weights, 1.0, torch.Generator())
    assert anchors.tolist() == [[1, 2, 3], [2, 0, 0]]
    assert asked.tolist() == [[1.0, 0.5, 1.0], [1.0, 0.0, 0.0]]
    anchors, asked = draw_chains(torch.ones((4, 500)), 0.25, torch.Generator().manual_seed(0))
    assert 0.2 < float(asked.sum()) / 2000 < 0.3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # five rows p p a a a; the last pair, which leads behind the answer, never counts
        pytest.param({"first_pair": False}, [0, 0, 1, 0], id="answer-rows"),
        pytest.param({"first_pair": True}, [0, 1, 1, 0], id="first-pair"),
        pytest.param({"first_pair": False, "prompt_share": 1.0}, [0.5, 0, 1, 0], id="prompt-rows"),
    ],
)
def test_which_pairs_count(runtime, samples, changes, expected):
    sample = Sample("s", (3, 4), (5, 6, 7), 0.0)
    weights = trainer(runtime, samples, **changes)._weights(sample, 5, torch.Generator().manual_seed(0))
    assert weights.tolist() == expected


def test_a_cut_sample_keeps_its_last_pair(runtime, samples):
    weights = trainer(runtime, samples)._weights(Sample("s", (3, 4), (5,) * 20, 0.0), 6, torch.Generator())
    assert weights.tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("steps", [1, 3])
def test_training_learns_and_resuming_changes_nothing(runtime, samples, tmp_path, steps):
    whole = trainer(runtime, samples, epochs=6, steps=steps, ema=0.9, prompt_share=0.5, noise=0.1)
    whole.run(tmp_path / "whole")
    losses = [row[0] for row in whole.state.history]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])

    resumed = stopped_and_resumed(
        lambda: trainer(runtime, samples, epochs=6, steps=steps, ema=0.9, prompt_share=0.5, noise=0.1),
        tmp_path / "stopped",
    )
    assert resumed.state.step == whole.state.step
    for name, weight in whole.best_network().state_dict().items():
        torch.testing.assert_close(resumed.best_network().state_dict()[name], weight, rtol=0, atol=0)


def test_another_recipe_does_not_continue_a_run(runtime, samples, tmp_path):
    trainer(runtime, samples, epochs=1).run(tmp_path)
    with pytest.raises(CheckpointError, match="learning_rate"):
        trainer(runtime, samples, epochs=1, learning_rate=1e-4).run(tmp_path)


def test_the_closed_form_start_beats_random_weights(runtime, samples):
    def first_loss(**changes):
        run = trainer(runtime, samples, **changes)
        return float(run.loss(run.train, torch.Generator().manual_seed(0))[0].detach())

    assert first_loss(closed_form_start=True) < first_loss(closed_form_start=False)


def test_batches_hold_every_sample_once():
    lengths = list(np.random.default_rng(1).integers(5, 90, 700))
    batches = plan_batches(lengths, 512, np.random.default_rng(2))
    assert sorted(index for batch in batches for index in batch) == list(range(700))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 512 for batch in batches)


def test_held_out_samples_stay_held_out(samples):
    train, held = split_held_out(samples, 8)
    again = split_held_out(samples[::-1], 8)[1]
    assert {s.id for s in held} == {s.id for s in again}
    assert len(train) + len(held) == len(samples)
    assert held


def store(runtime, folder, **options):
    target = runtime.target
    return FeatureStore(folder, target.fingerprint, target.hidden_size, FeatureOptions(**options))


def test_features_are_the_targets_own_and_the_store_keeps_its_limit(runtime, samples, tmp_path):
    plain = FeatureSource(runtime, 64).get(samples[:6])
    cached = FeatureSource(runtime, 64, store(runtime, tmp_path, feature_gb=12e-6))
    cached.get(samples[:6])
    cached.close()
    kept = [sample for sample in samples[:6] if store(runtime, tmp_path).has(sample.digest, len(sample) - 1)]
    assert 0 < len(kept) < 6
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 12_000
    for ours, again in zip(plain, cached.get(samples[:6]), strict=True):
        torch.testing.assert_close(again, ours, atol=0.02, rtol=0.02)  # kept in bfloat16
    with torch.no_grad():
        ids = torch.tensor([samples[0].token_ids])
        stock = runtime.model(ids, output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(plain[0], stock[:-1], atol=1e-4, rtol=1e-4)


def test_frequent_tokens_hold_what_must_be_in(samples):
    ids = frequent_tokens(samples, 20, VOCAB, always=[2, 61])
    assert len(ids) == 20
    assert {2, 61} <= set(ids.tolist())
    assert list(ids) == sorted(ids)
    assert frequent_tokens(samples, VOCAB, VOCAB) is None
    with pytest.raises(ConfigError):
        frequent_tokens(samples, VOCAB + 1, VOCAB)


@pytest.fixture(scope="module")
def head(runtime, samples, tmp_path_factory):
    config = EagleRecipe(**QUICK | {"epochs": 8.0, "held_out_every": 3, "max_length": 64})
    folder = tmp_path_factory.mktemp("trained") / "head"
    measured = train_head(
        "eagle",
        runtime,
        samples,
        config,
        work=tmp_path_factory.mktemp("run"),
        place=folder,
        provenance={"answers_from": "test"},
    )
    return folder, measured


def test_a_finished_head_says_where_it_comes_from(runtime, head):
    folder, measured = head
    checkpoint = read_head(EAGLE, folder)
    assert checkpoint.fingerprint == runtime.target.fingerprint
    provenance = checkpoint.document["provenance"]
    assert provenance["recipe"]["learning_rate"] == QUICK["learning_rate"]
    assert provenance["simulated_acceptance_length"] == measured
    assert len(checkpoint.config.coupled_scale) == 6
    assert measured["T=0, 60 rows"]["acceptance_length"] > 1


@pytest.mark.parametrize(
    "options", [Eagle2Options(), Eagle2Options(draft_tokens=4, depth=2, tree_top_k=3)], ids=str
)
def test_greedy_simulation_is_the_real_thing(runtime, head, samples, options):
    """Replayed answers give exactly the cycles of real decoding."""
    drafter = Eagle2.load(runtime, DraftFiles(head=lambda: head[0]))
    for sample in [s for s in samples if s.temperature == 0 and len(s.response_ids) > 8][:6]:
        [feature] = FeatureSource(runtime, 64).get([sample])
        replayed = simulate(runtime, drafter, sample, feature, TreeOptions(), options)
        prompt, limit = list(sample.prompt_ids), len(sample.response_ids) - 1
        request = Request(
            prompt_ids=prompt,
            sampler=Sampler(SamplingConfig(), prompt_ids=prompt, vocab_size=VOCAB),
            text=AnswerText(StoppingConfig(max_new_tokens=limit), NoText()),
            options=options,
        )
        *_, (run, _) = Engine(runtime, drafter).stream(request)
        assert run.generated == list(sample.response_ids[:limit])
        real = run.stats()
        # The last cycle may run past the answer's known end.
        assert replayed.cycles == real.cycles
        assert replayed.accepted_by_depth[0] == real.accepted_by_depth[0]


def test_the_oracle_is_right_whenever_the_best_token_is_taken(runtime, samples):
    """A chain of best tokens is a greedy answer to its end; branches are tested with the heads."""
    options = Eagle2Options(draft_tokens=3, depth=3, tree_top_k=1)
    for sample in [s for s in samples if s.temperature == 0 and len(s.response_ids) > 8][:4]:
        [feature] = FeatureSource(runtime, 64).get([sample])
        stats = simulate(runtime, Oracle(runtime), sample, feature, TreeOptions(), options)
        drafted = len(sample.response_ids) - 2  # after the first token, before the cut one
        assert stats.cycles == math.ceil(drafted / (1 + options.depth))


def test_posterior_noise_leads_to_the_winner_and_has_the_right_law():
    logits, rng = np.array([1.0, 0.0, -1.0, 0.5]), np.random.default_rng(0)
    probs = np.exp(log_softmax(logits))
    draws = []
    for _ in range(4000):
        winner = int(rng.choice(4, p=probs))
        noise = posterior_gumbel(logits, winner, rng)
        assert np.argmax(logits + noise) == winner
        draws.append(noise)
    # Averaged over winners the noise is standard Gumbel again: mean 0.577, variance 1.645.
    np.testing.assert_allclose(np.mean(draws, axis=0), np.euler_gamma, atol=0.09)
    np.testing.assert_allclose(np.var(draws, axis=0), np.pi**2 / 6, rtol=0.15)


def test_a_perfect_draft_is_trusted_most(runtime, head, samples):
    """The fitted scale falls with the error of the draft's logits."""
    network = trainer(runtime, samples, epochs=1).network
    sampled = [s for s in samples if s.temperature > 0]
    features = FeatureSource(runtime, 64)
    trained = trainer(runtime, samples, epochs=1).network
    trained.load_weights(read_head(EAGLE, head[0]).weights)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.3)
    logits = runtime.lm_head().raw_logits
    good = fit_coupled_scale(runtime, trained.unroll, logits, features, sampled, None, depth=1)
    bad = fit_coupled_scale(runtime, network.unroll, logits, features, sampled, None, depth=1)
    assert good[0] < bad[0]
    assert fit_coupled_scale(runtime, trained.unroll, logits, features, [], None, depth=2) == (1.0, 1.0)


def test_the_fit_of_scales_takes_no_longer_than_it_may(runtime, samples, monkeypatch):
    """A clock of one second a reading: two samples fit into the time, whatever there is to read."""
    network = trainer(runtime, samples, epochs=1).network
    seconds = iter(range(1000))
    monkeypatch.setattr(coupling, "perf_counter", lambda: next(seconds))
    sampled, told = [s for s in samples if s.temperature > 0], []

    def fit(**budget):
        told.clear()
        show = lambda label, done, total: told.append((done, total))  # noqa: E731
        return fit_coupled_scale(
            runtime,
            network.unroll,
            runtime.lm_head().raw_logits,
            FeatureSource(runtime, 64),
            sampled,
            None,
            depth=1,
            progress=show,
            **budget,
        )

    fit()
    assert told == [(number, len(sampled)) for number in range(len(sampled))]
    fit(seconds=2.0)
    assert len(told) == 3
    assert fit(seconds=0.0)[0] > 0
    assert len(told) == 1  # one is always used


def test_an_answer_does_not_depend_on_its_company(runtime):
    prompts = [(5, 6, 7), (8, 9, 10, 11, 12), (13,), (5, 6)]
    jobs = [DistilJob(Sample(str(i), prompt, (), i % 2), seed=i) for i, prompt in enumerate(prompts)]
    together = {sample.id: sample for sample, _ in answer_all(runtime, jobs, [2], 16, batch_size=3)}
    for job in jobs:
        [(alone, _)] = answer_all(runtime, [job], [2], 16, batch_size=1)
        assert alone == together[alone.id]
        assert alone.response_ids[-1] == 2 or len(alone.response_ids) == 16


def test_prompts_that_begin_alike_are_read_once(runtime, monkeypatch):
    """The second answer takes over the first one's rows, and their features, which the first one keeps."""
    jobs = [DistilJob(Sample(str(last), (5, 6, 7, 8, 9, last), (), 0.0), seed=0) for last in (10, 11, 12)]
    alone = [next(answer_all(runtime, [job], [], 6, batch_size=1, taps=(FINAL,))) for job in jobs]
    rows: list[int] = []
    forward = type(runtime).forward

    def counting(self, calls):
        rows.extend(len(call.token_ids) for call in calls)
        return forward(self, calls)

    monkeypatch.setattr(type(runtime), "forward", counting)
    in_turn = list(answer_all(runtime, jobs, [], 6, batch_size=1, taps=(FINAL,)))
    assert sum(rows) == 3 * (6 + 5) - 2 * 4  # 4: all that is common but the last, whose pair is another
    for (sample, pieces), (expected, own) in zip(in_turn, alone, strict=True):
        assert sample == expected
        torch.testing.assert_close(runtime.join(pieces), runtime.join(own))


def test_an_answer_that_goes_round_in_circles_ends():
    def ends_after(token_ids, loop_tokens):
        text = LoopStopped(StoppingConfig(max_new_tokens=30), NoText(), [2], loop_tokens=loop_tokens)
        for count, token in enumerate(token_ids, start=1):
            text.push(token)
            if text.finish_reason is not None:
                return count, text.finish_reason
        return None

    loop = [9, 8, *[3, 4, 5] * 10]  # the ninth token is the first to end four that stood before: 3 4 5 3
    assert ends_after(loop, 1) == (9, "length")
    assert ends_after(loop, 5) == (13, "length")
    assert ends_after(loop, 0) == (30, "length")
    assert ends_after([*loop[:12], 7, *loop[2:]], 5) == (21, "length")  # 7 breaks the first run
    assert ends_after([*loop[:9], 2], 5) == (10, "stop")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        ('{"prompt_ids": [1]}', "response_ids"),
        ('{"prompt_ids": ["x"], "response_ids": []}', "token ids"),
        ('{"prompt_ids": [], "response_ids": [1]}', "token ids"),
    ],
)
def test_broken_answers_are_named_by_line(tmp_path, line, problem):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt_ids": [1], "response_ids": [2]}\n' + line + "\n")
    with pytest.raises(DataError, match=problem) as error:
        read_samples([path])
    assert "line 2" in str(error.value)


def test_prompts_are_read_with_and_without_ids(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"id": "x", "prompt": "b", "category": "c"}\n')
    prompts = read_prompts(path)
    assert [(p.id, p.content.prompt, p.category) for p in prompts] == [("1", "a", ""), ("x", "b", "c")]
    path.write_text('{"id": 3}\n')
    with pytest.raises(DataError, match="line 1: prompt"):
        read_prompts(path)


@pytest.mark.parametrize(
    "changes",
    [{"layers": 0}, {"epochs": 0}, {"warmup": 2}, {"schedule": "step"}, {"ema": -1}, {"held_out_every": 1}],
    ids=str,
)
def test_impossible_recipes_are_refused(changes):
    with pytest.raises(ConfigError):
        EagleRecipe(**changes)


def test_draft_vocabularies_reach_the_loss(runtime, samples):
    ids = frequent_tokens(samples, 16, VOCAB)
    run = EagleTrainer(runtime, samples, EagleRecipe(**QUICK), ids, FeatureSource(runtime, 64))
    assert run._head_weight.shape[0] == 16


def test_a_step_over_a_draft_vocabulary_runs_in_bfloat16(tmp_path):
    """Rows of the LM head are made for inference; the step must not keep them for its backward pass."""
    from eyas.runtimes import load_runtime

    directory = write_llama(tmp_path / "target", seed=3)
    target = load_runtime("torch", directory, name="tiny", dtype="bfloat16", threads=1)
    rng = np.random.default_rng(0)
    samples = [
        Sample(f"{n}", (3, 4), tuple(rng.integers(3, VOCAB, 20).tolist()), float(n % 2)) for n in range(24)
    ]
    ids = frequent_tokens(samples, 16, VOCAB)
    recipe = EagleRecipe(**QUICK, epochs=1, steps=2, scaled_regression=True)
    run = EagleTrainer(target, samples, recipe, ids, FeatureSource(target, 64))
    before = run.network.fc.weight.detach().clone()
    run.run(tmp_path / "run")
    assert all(math.isfinite(value) for row in run.state.history for value in row)
    assert not torch.equal(run.network.fc.weight, before)


def test_a_head_with_a_draft_vocabulary_drafts(runtime, samples, tmp_path):
    run = trainer(runtime, samples, epochs=1, layers=2)
    ids = frequent_tokens(samples, 24, VOCAB)
    write("eagle", tmp_path / "h", runtime, run.network, ids)
    drafter = Eagle2.load(runtime, DraftFiles(head=lambda: tmp_path / "h"))
    [feature] = FeatureSource(runtime, 64).get([samples[0]])
    stats = simulate(
        runtime, drafter, samples[0], feature, TreeOptions(), Eagle2Options(draft_tokens=10, depth=3)
    )
    assert stats.draft_tokens > 0


@pytest.mark.slow
def test_acceptance_is_measured_along_the_way(runtime, samples, tmp_path):
    config = EagleRecipe(**{**QUICK, "epochs": 2.0, "evaluate_every": 2, "held_out_every": 3})
    measured = train_head("eagle", runtime, samples, config, work=tmp_path / "work", place=tmp_path / "head")
    provenance = read_head(EAGLE, tmp_path / "head").document["provenance"]
    assert provenance["simulated_acceptance_length"] == measured
    assert provenance["evaluations"][0]["step"] == 2
    assert provenance["evaluations"][0]["T=0"] >= 1


@pytest.mark.parametrize("draft_vocab", [16, 20])
def test_a_head_goes_on_from_another_with_its_draft_vocabulary(runtime, samples, tmp_path, draft_vocab):
    start, network = tmp_path / "first", trainer(runtime, samples, epochs=1).network
    rare = np.arange(VOCAB - 16, VOCAB)
    write("eagle", start, runtime, network, rare)
    recipe = EagleRecipe(**{**QUICK, "epochs": 0.1, "draft_vocab": draft_vocab})
    train_head(
        "eagle", runtime, samples[:10], recipe, work=tmp_path / "work", place=tmp_path / "head", start=start
    )
    made = read_head(EAGLE, tmp_path / "head")
    assert made.document["provenance"]["started_from"] == "first"  # its folder's name only
    assert made.draft_ids is not None
    assert len(made.draft_ids) == draft_vocab
    assert (made.draft_ids.tolist() == rare.tolist()) == (draft_vocab == 16)


def test_a_full_disk_is_one_line_and_keeps_the_state_before(runtime, samples, tmp_path, monkeypatch):
    run = trainer(runtime, samples, epochs=1)
    run.run(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()

    def full(*_):
        raise RuntimeError("[enforce fail] write failed: No space left on device\nat somewhere")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match="No space left") as error:
        trainer(runtime, samples, epochs=1).run(tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_disk_that_is_really_full_is_one_line_and_leaves_no_half_file(runtime, samples, small_disk):
    with pytest.raises(DataError, match="free some space") as error:
        trainer(runtime, samples, epochs=1).run(small_disk)
    assert "\n" not in str(error.value)
    assert not [path for path in small_disk.iterdir() if path.name != ".lock"]


def test_features_on_a_full_disk_are_kept_no_longer(runtime, samples, small_disk, caplog):
    kept = FeatureStore(small_disk, runtime.target.fingerprint, runtime.target.hidden_size, None, 10_000)
    source = FeatureSource(runtime, 64, kept)
    for sample in samples:
        [rows] = source.get([sample])
        assert len(rows) == len(sample) - 1
    assert "no more features are kept" in caplog.text
    assert not [path for path in small_disk.iterdir() if not path.name.startswith("features-")]


def test_ctrl_c_waits_for_the_end_of_a_step():
    import os
    import signal

    from eyas.training.state import whole_step

    done = []

    def step():
        with whole_step():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the rest of the step")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert done
