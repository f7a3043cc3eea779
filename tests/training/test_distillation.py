"""Medusa, Hydra and the draft model: alignment, training as drafting, time budgets, files."""

import json
import math

import numpy as np
import pytest
import torch
from making import DISTILLED, recipe_class, trainer_class, write

from eyas.drafters.head_arrays import check_names, read_arrays, write_arrays
from eyas.drafters.heads import find_head_kind, read_head
from eyas.drafters.ranked import Frontier
from eyas.drafters.registry import find_method
from eyas.engine.cycle import Engine, Request
from eyas.engine.interfaces import DraftContext, DraftFiles
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.stopping import AnswerText, NoText, StoppingConfig
from eyas.engine.tree_options import TreeOptions
from eyas.errors import CheckpointError, ConfigError
from eyas.training import trainer as trainer_module
from eyas.training.closed_form import fit_linear
from eyas.training.data import Sample
from eyas.training.distillation import row_weights
from eyas.training.eagle import EagleRecipe
from eyas.training.features import FeatureSource
from eyas.training.finish import train_head
from eyas.training.simulate import simulate
from tiny import VOCAB, write_llama

METHODS = {"medusa": "medusa", "hydra": "hydra", "draft-lm": "sps"}
kinds = pytest.mark.parametrize("kind", DISTILLED)
QUICK = {"batch_rows": 256, "held_out_every": 8, "learning_rate": 3e-3, "ema": 0.9}


def recipe(kind, **changes):
    return recipe_class(kind)(**{"draft_vocab": None, **QUICK, **changes})


def trainer(runtime, samples, kind, draft_ids=None, **changes):
    return trainer_class(kind)(
        runtime, samples, recipe(kind, **changes), draft_ids, FeatureSource(runtime, 64)
    )


def random_network(runtime, samples, kind, **changes):
    """A network that drafts wildly, in numbers that bfloat16 holds."""
    network = trainer(runtime, samples, kind, **changes).network
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2, generator=generator)
            weight.copy_(weight.to(torch.bfloat16).float())
    return network


def drafter_of(runtime, kind, network, folder, **changes):
    write(kind, folder, runtime, network)
    return find_method(METHODS[kind]).drafter.load(runtime, DraftFiles(head=lambda: folder))


@pytest.mark.parametrize("cached", [True, False], ids=["without-last-feature", "with-last-feature"])
@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        # Rows p p a a a a: the first root is row 2, so drafting begins from row 1, or from the root itself.
        ("medusa", [[(1, 2), (2, 3), (3, 4)], [(1, 3), (2, 4)], [(1, 4)]]),
        ("draft-lm", [[(1, 1), (2, 2), (3, 3), (4, 4)]]),
    ],
)
def test_rows_and_the_features_they_stand_in_for(runtime, samples, kind, pairs, cached):
    """Row u of the features gives the token at u + 1; what follows the answer's last token is not asked."""
    sample = Sample("s", (3, 4), (5, 6, 7, 8), 0.0)
    run = trainer(runtime, samples, kind)
    [features] = FeatureSource(runtime, 64).get([sample])
    features = features if cached else torch.cat((features, features[:1]))
    weights = [row_weights(sample, len(features), 0.0, torch.Generator())]

    def reading(embeddings, features, rows):
        return [features[rows]] * (4 if kind == "medusa" else 1)

    reading.ahead = run.network.ahead
    found = [*run._outputs(reading, [sample], [features], weights)]
    assert len(found) == len(pairs)
    for (output, wanted, counts), expected in zip(found, pairs, strict=True):
        torch.testing.assert_close(output, features[[t for t, _ in expected]])
        torch.testing.assert_close(wanted, features[[u for _, u in expected]])
        assert counts.tolist() == [1.0] * len(expected)


def test_prompt_rows_count_half():
    sample = Sample("s", (3,) * 400, (5, 6), 0.0)
    weights = row_weights(sample, 402, 0.25, torch.Generator().manual_seed(0))
    assert weights[399:].tolist() == [1, 1, 1]
    assert set(weights[:399].tolist()) == {0.0, 0.5}
    assert 70 < int((weights == 0.5).sum()) < 130


def open_session(runtime, drafter, kind, features, tokens):
    """A session that was told of all tokens but has drafted nothing yet."""
    session = drafter.open()
    sampler = Sampler(SamplingConfig(), prompt_ids=tokens[:1], vocab_size=VOCAB)
    options = find_method(METHODS[kind]).options()
    session.begin(DraftContext(prompt_ids=tokens[:1], sampler=sampler, tree=TreeOptions(), options=options))
    session.extend(features[: len(tokens) - 1], tokens[1:])
    return session


@kinds
def test_training_outputs_are_what_drafting_computes(runtime, samples, tmp_path, kind):
    """Features, tokens and positions of a row in training are those of the same row in decoding."""
    network = random_network(runtime, samples, kind)
    drafter = drafter_of(runtime, kind, network, tmp_path / "n")
    sample = max(samples, key=len)
    tokens, [features] = list(sample.token_ids), FeatureSource(runtime, 64).get([sample])
    embeddings = runtime.embed(np.array(tokens)).clone()[None]
    lm_head = runtime.lm_head()
    for root in (3, 9, len(tokens) - 6):  # position of the root
        row = root if kind == "draft-lm" else root - 1
        with torch.no_grad():
            outputs = network(embeddings, features[None], (torch.tensor([0]), torch.tensor([row])))
        session = open_session(runtime, drafter, kind, features, tokens[: root + 1])
        with session.expander(tokens[: root + 1]) as expand:
            drafted = [expand(None, 10)]
            for token in tokens[root + 1 : root + len(outputs)]:  # the answer's own, as in training
                drafted.append(expand(Frontier(np.array([token]), np.array([0])), 10))
        for output, (token_ids, log_probs) in zip(outputs, drafted, strict=True):
            expected = lm_head.top_k(output, 10)
            assert token_ids.tolist() == expected.token_ids.tolist()
            np.testing.assert_allclose(log_probs, expected.log_probs, atol=1e-3)


def test_a_draft_model_begins_as_the_targets_first_layers(runtime, samples):
    """All its layers: then it is the target, and its outputs are the target's features."""
    layers = runtime.model.config.num_hidden_layers
    network = trainer(runtime, samples, "draft-lm", layers=layers).network
    sample = samples[0]
    [features] = FeatureSource(runtime, 64).get([sample])
    rows = (torch.zeros(len(features), dtype=torch.long), torch.arange(len(features)))
    embeddings = runtime.embed(np.array(sample.token_ids[: len(features)])).clone()[None]
    with torch.no_grad():
        [output] = network(embeddings, features[None], rows)
    torch.testing.assert_close(output, features, atol=1e-4, rtol=1e-4)


def test_layers_of_other_sizes_cannot_start_as_the_targets(runtime, samples):
    with pytest.raises(ConfigError, match="--no-target-start"):
        trainer(runtime, samples, "draft-lm", intermediate_size=24)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("medusa", {"layers": 2}),
        ("medusa", {"closed_form_start": False}),
        ("hydra", {}),
        ("hydra", {"arch": "mlp", "layers": 1, "closed_form_start": False}),
        ("draft-lm", {"layers": 1}),
        ("draft-lm", {"target_start": False}),
    ],
    ids=str,
)
def test_training_learns_and_resuming_changes_nothing(runtime, samples, tmp_path, kind, changes):
    def fresh():
        return trainer(runtime, samples[::2], kind, epochs=6, prompt_share=0.5, **changes)

    whole, stopped, resumed = fresh(), fresh(), fresh()
    whole.run(tmp_path / "whole")
    losses = [row[0] for row in whole.state.history]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])

    def interrupt(label, done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "stopped", interrupt)
    resumed.run(tmp_path / "stopped")
    assert resumed.state.step == whole.state.step
    for name, weight in whole.best_network().state_dict().items():
        torch.testing.assert_close(resumed.best_network().state_dict()[name], weight, rtol=0, atol=0)


def test_a_time_budget_ends_the_run_and_its_schedule(runtime, samples, tmp_path, monkeypatch):
    """A clock of one second a step: 12 seconds are 12 steps, also with an interruption."""
    seconds = iter(range(1000))
    monkeypatch.setattr(trainer_module, "perf_counter", lambda: next(seconds))
    rates, run = [], trainer(runtime, samples, "medusa", minutes=0.2, warmup=0.25)

    def watch(label, done, total):
        rates.append(run.optimizer.param_groups[0]["lr"] / run.config.learning_rate)
        assert total == 12
        if done == 6 and len(rates) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path, watch)
    run = trainer(runtime, samples, "medusa", minutes=0.2, warmup=0.25)
    run.run(tmp_path, watch)
    assert run.state.step == len(rates) == 12
    assert run.state.seconds == 12
    assert max(rates[:3]) <= 1
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.01
    run.run(tmp_path, watch)  # its time is spent
    assert run.state.step == 12


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("medusa", {"heads": 0}),
        ("medusa", {"head_decay": 1.5}),
        ("hydra", {"layers": 0}),
        ("hydra", {"arch": "eagle"}),
        ("draft-lm", {"layers": 0}),
        ("draft-lm", {"minutes": 0.0}),
        ("draft-lm", {"precision": "int4"}),
    ],
    ids=str,
)
def test_impossible_recipes_are_refused(kind, changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        recipe(kind, **changes)


@kinds
def test_networks_are_trained_measured_and_installed(runtime, samples, tmp_path, kind):
    config = recipe(kind, draft_vocab=48, epochs=5.0, evaluate_every=10, held_out_every=5)
    place = tmp_path / "heads" / kind
    measured = train_head(kind, runtime, samples, config, work=tmp_path / "work", place=place)
    document = json.loads((place / "config.json").read_text())
    assert document["target_fingerprint"] == runtime.target.fingerprint
    assert document["draft_vocab_size"] == 48
    provenance = document["provenance"]
    assert provenance["simulated_acceptance_length"] == measured
    assert provenance["recipe"]["epochs"] == 5.0
    assert provenance["training_seconds"] >= 0
    assert len(provenance["accuracy_by_depth"]) == (1 if kind == "draft-lm" else 4)
    assert provenance["evaluations"][0]["step"] == 10
    first = trainer_class(kind).cases[0].name
    assert measured[f"T=0, {first}"]["acceptance_length"] > 1
    assert f"T=0, {first}, top-k" not in measured
    assert measured[f"T=1, {first}, top-k"]["answers"] > 0
    find_method(METHODS[kind]).drafter.load(runtime, DraftFiles(head=lambda: place))


@kinds
def test_a_run_may_go_on_from_a_head_of_its_kind(runtime, samples, tmp_path, kind):
    """Nothing is learnt in one step at a learning rate of almost 0: the head is the one it started from."""
    network = random_network(runtime, samples, kind)
    start = write(kind, tmp_path / "first", runtime, network)
    config = recipe(kind, epochs=0.01, learning_rate=1e-12, ema=0.0, precision="bfloat16", weight_decay=0.0)
    place = tmp_path / "head"
    train_head(kind, runtime, samples[:10], config, work=tmp_path / "work", place=place, start=start)
    made = read_head(find_head_kind(kind), place)
    assert made.document["provenance"]["started_from"] == "first"
    for name, weight in network.to_weights().items():
        np.testing.assert_allclose(made.weights[name], weight, atol=1e-6)
    sizes = {"medusa": {"heads": 2}, "hydra": {"heads": 6}, "draft-lm": {"layers": 3}}[kind]
    with pytest.raises(ConfigError, match="has other sizes than the recipe"):
        train_head(
            kind,
            runtime,
            samples[:10],
            recipe(kind, **sizes),
            work=tmp_path / "w",
            place=tmp_path / "p",
            start=start,
        )


def test_an_eagle_head_is_installed_around_the_others(runtime, samples, tmp_path):
    medusa = tmp_path / "place" / "medusa"
    medusa.mkdir(parents=True)
    (medusa / "config.json").write_text("{}")
    config = EagleRecipe(epochs=0.1, batch_rows=512)
    train_head("eagle", runtime, samples[:10], config, work=tmp_path / "work", place=medusa.parent)
    assert (medusa / "config.json").read_text() == "{}"
    assert (medusa.parent / "config.json").is_file()


@kinds
def test_greedy_simulation_is_the_real_thing(runtime, samples, tmp_path, kind):
    network = trainer(runtime, samples, kind).network
    drafter = drafter_of(runtime, kind, network, tmp_path / "n")
    options = find_method(METHODS[kind]).options()
    for sample in [s for s in samples if s.temperature == 0 and len(s.response_ids) > 8][:3]:
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
        assert replayed.cycles == run.stats().cycles


def test_a_linear_map_is_found_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(6, 3)
    true = torch.randn((3, 6), generator=generator)
    parts = [torch.randn((4000, 2), generator=generator) * scale for scale in (1.0, 100.0, 0.01)]
    following = torch.cat(parts, dim=1) @ true.T + 5
    fit_linear(linear, [(parts, following)])
    got = torch.nn.functional.linear(torch.cat(parts, dim=1), linear.weight, linear.bias)
    assert float((got.detach() - following).abs().mean()) < 0.02 * float(following.std())


def test_a_step_over_a_draft_vocabulary_runs_in_bfloat16(tmp_path):
    """Rows of embedding and LM head are made for inference; no step may keep them for its backward pass."""
    from eyas.runtimes import load_runtime

    directory = write_llama(tmp_path / "target", seed=3)
    target = load_runtime("torch", directory, name="tiny", dtype="bfloat16", threads=1)
    rng = np.random.default_rng(0)
    made = [Sample(f"{n}", (3, 4), tuple(rng.integers(3, VOCAB, 20).tolist()), n % 2) for n in range(24)]
    for kind in DISTILLED:
        run = trainer(target, made, kind, np.arange(0, VOCAB, 2), epochs=1)
        before = {name: weight.clone() for name, weight in run.network.state_dict().items()}
        run.run(tmp_path / kind)
        assert all(math.isfinite(value) for row in run.state.history for value in row)
        assert any(not torch.equal(before[name], w) for name, w in run.network.state_dict().items())


def test_int8_files_hold_rows_and_their_scales(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "a.weight": (rng.standard_normal((5, 64)) * [[1], [100], [0.01], [0], [1]]).astype(np.float32),
        "a.bias": rng.standard_normal(5).astype(np.float32),
    }
    ids = {"d2t": np.array([3, 8])}
    write_arrays(tmp_path / "model.safetensors", weights | ids, "int8")
    arrays, source = read_arrays(tmp_path, ["model.safetensors"])
    assert (tmp_path / "model.safetensors").stat().st_size < 1200
    assert arrays.pop("d2t").tolist() == [3, 8]
    check_names(arrays, {"a.weight": (5, 64), "a.bias": (5,)}, source)
    largest = np.abs(weights["a.weight"]).max(axis=1, keepdims=True)
    assert (np.abs(arrays["a.weight"] - weights["a.weight"]) <= largest / 254 + 1e-7).all()
    np.testing.assert_allclose(arrays["a.bias"], weights["a.bias"], rtol=0.01)


def test_an_int8_matrix_without_scales_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a.weight": np.zeros((2, 2), np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.weight\.scale does not have a number for each row"):
        read_arrays(tmp_path, ["model.safetensors"])
