"""Runs: what they never replace, go on from or take over, and how they survive what goes wrong."""

import gzip
import json
import math

import numpy as np
import pytest
import torch
from making import DISTILLED, KINDS, recipe, recipe_class, stopped_and_resumed, trainer_class, write

from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.heads import read_head
from eyas.errors import CheckpointError, ConfigError, DataError
from eyas.runtimes import load_runtime
from eyas.training.data import Sample, read_samples
from eyas.training.eagle import EagleRecipe, EagleTrainer
from eyas.training.feature_store import FeatureOptions, FeatureStore
from eyas.training.features import FeatureSource
from eyas.training.finish import train_head
from eyas.training.place import check_apart, check_replaceable
from eyas.training.state import load_state
from tiny import HIDDEN, VOCAB, write_llama

QUICK = {"learning_rate": 3e-3, "noise": 0.0, "first_pair": True, "batch_rows": 256, "held_out_every": 8}


def store(runtime, folder, **options):
    target = runtime.target
    return FeatureStore(folder, target.fingerprint, target.hidden_size, FeatureOptions(**options))


def trainer(runtime, samples, draft_ids=None, start=None, cache=None, **changes):
    features = FeatureSource(runtime, 64, None if cache is None else store(runtime, cache))
    return EagleTrainer(
        runtime, samples, EagleRecipe(**{**QUICK, "epochs": 1.0, **changes}), draft_ids, features, start
    )


def short(**changes):
    return EagleRecipe(**{**QUICK, "epochs": 0.1, **changes})


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A target of the same sizes with other weights."""
    directory = write_llama(tmp_path_factory.mktemp("other"), seed=4)
    return load_runtime("torch", directory, name="other", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def head(runtime, samples, tmp_path_factory):
    """A head that training made."""
    folder = tmp_path_factory.mktemp("made")
    train_head("eagle", runtime, samples[:10], short(), work=folder / "run", place=folder / "head")
    return folder / "head"


def one_line(caught):
    assert "\n" not in str(caught.value)


# What is replaced


def notes(folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")


def notes_beside_a_head(folder):
    notes(folder)
    (folder / "config.json").write_text('{"target_fingerprint": "x", "provenance": {}}')
    (folder / "model.safetensors").touch()


def hidden(folder):
    folder.mkdir()
    (folder / ".git").mkdir()


def target(folder):
    write_llama(folder)


def bare_target(folder):
    write_llama(folder)
    (folder / "generation_config.json").unlink()


def half(folder):
    folder.mkdir()
    (folder / "model.safetensors").write_text("of the user")


def file(folder):
    folder.write_text("a file")


def content(place):
    files = [place] if place.is_file() else place.rglob("*")
    return {path: path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [notes, notes_beside_a_head, hidden, target, bare_target, half, file])
def test_a_place_that_holds_something_else_is_refused(tmp_path, make, kind):
    make(tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(ConfigError, match="name a new or an empty folder") as caught:
        check_replaceable(tmp_path / "out", kind)
    one_line(caught)
    assert content(tmp_path / "out") == before


def test_training_refuses_before_it_begins_and_again_at_the_end(runtime, samples, tmp_path):
    place, work = tmp_path / "out", tmp_path / "run"
    notes(place)
    with pytest.raises(ConfigError, match=r"holds notes\.txt"):
        train_head("eagle", runtime, samples[:10], short(), work=work, place=place)
    config = recipe_class("medusa")(epochs=0.1, held_out_every=8, draft_vocab=None)
    with pytest.raises(ConfigError, match=r"holds notes\.txt"):
        train_head("medusa", runtime, samples[:10], config, work=work, place=place)
    assert not work.exists()

    late = tmp_path / "late"

    def put_notes(label, done, total):
        if not late.exists():
            notes(late)

    with pytest.raises(ConfigError, match=r"holds notes\.txt"):
        train_head("eagle", runtime, samples[:10], short(), work=work, place=late, progress=put_notes)
    assert (late / "notes.txt").read_text() == "mine"
    assert (work / "state.pt").is_file()


def test_a_head_of_ours_is_replaced_by_a_head_alone(head, tmp_path):
    check_replaceable(head, "eagle")
    check_replaceable(tmp_path, "eagle")  # empty
    check_replaceable(tmp_path / "new", "eagle")
    for kind in DISTILLED:
        with pytest.raises(ConfigError, match=f"`eyas train {kind}` has not made"):
            check_replaceable(head, kind)


def test_what_the_run_reads_is_never_replaced(tmp_path):
    inside = tmp_path / "both" / "answers.jsonl"
    for kept in (tmp_path / "both", inside):
        with pytest.raises(ConfigError, match=f"would replace {kept}"):
            check_apart(tmp_path / "both", [tmp_path / "elsewhere", kept])
    check_apart(tmp_path / "both" / "head", [tmp_path / "both", inside])


# What a run goes on from


@pytest.mark.parametrize("changed", ["recipe", "target", "answers", "draft vocabulary", "start", "noise"])
def test_a_run_goes_on_with_what_it_began_with(runtime, other, samples, tmp_path, changed):
    trainer(runtime, samples).run(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    if changed == "recipe":
        config = recipe_class("medusa")(epochs=1.0, batch_rows=256)
        again = trainer_class("medusa")(runtime, samples, config, None, FeatureSource(runtime, 64))
    else:
        again = {
            "target": lambda: trainer(other, samples),
            "answers": lambda: trainer(runtime, samples[:-1]),
            "draft vocabulary": lambda: trainer(runtime, samples, np.arange(0, VOCAB, 2)),
            "start": lambda: trainer(runtime, samples, start=trainer(runtime, samples, seed=1).network),
            "noise": lambda: trainer(runtime, samples, noise=0.1),
        }[changed]()
    with pytest.raises(CheckpointError, match=f"was made with {changed}=.*use another --work") as caught:
        again.run(tmp_path)
    one_line(caught)
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize("broken", [[1, 2], {}, {"config": {}}, "lacks", "other shapes", "bytes"])
def test_a_broken_state_is_one_line(runtime, samples, tmp_path, broken):
    path = tmp_path / "state.pt"
    trainer(runtime, samples).run(tmp_path)
    saved = torch.load(path)
    if broken == "lacks":
        torch.save({name: part for name, part in saved.items() if name != "optimizer"}, path)
    elif broken == "other shapes":
        torch.save(saved | {"network": {"fc.weight": torch.ones(2)}}, path)
    elif broken == "bytes":
        path.write_bytes(path.read_bytes()[:400])
    else:
        torch.save(broken, path)
    with pytest.raises(CheckpointError, match="remove the file to start again") as caught:
        load_state(tmp_path, trainer(runtime, samples))
    one_line(caught)


def test_a_work_folder_that_is_a_file_is_one_line(runtime, samples, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"--work .* cannot be written"):
        trainer(runtime, samples).run(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_two_runs_do_not_share_a_folder(runtime, samples, tmp_path):
    refused = []

    def meanwhile(label, done, total):
        with pytest.raises(DataError, match="in use by another run"):
            trainer(runtime, samples).run(tmp_path)
        refused.append(done)

    trainer(runtime, samples).run(tmp_path, meanwhile)
    assert refused
    trainer(runtime, samples).run(tmp_path)


def test_a_loss_that_is_no_number_keeps_the_state_before(runtime, samples, tmp_path, monkeypatch):
    run = trainer(runtime, samples, epochs=3.0, save_every=2)
    loss = EagleTrainer.loss

    def diverging(self, *args):
        value, parts = loss(self, *args)
        return value * (math.nan if self.state.step == 3 else 1), parts

    monkeypatch.setattr(EagleTrainer, "loss", diverging)
    with pytest.raises(ConfigError, match=r"loss is nan .*step 4; lower --learning-rate") as caught:
        run.run(tmp_path)
    one_line(caught)
    saved = torch.load(tmp_path / "state.pt")
    assert saved["state"]["step"] == 2
    assert all(torch.isfinite(weight).all() for weight in saved["network"].values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(runtime, samples, tmp_path, monkeypatch):
    run, loss = trainer(runtime, samples), EagleTrainer.loss

    def steep(self, *args):
        value, parts = loss(self, *args)
        return value + (value - value.detach()).sqrt(), parts  # a finite sum, infinitely steep

    monkeypatch.setattr(EagleTrainer, "loss", steep)
    with pytest.raises(ConfigError, match=r"loss is \d.* at step 1; lower --learning-rate"):
        run.run(tmp_path)
    assert all(torch.isfinite(weight).all() for weight in run.network.parameters())
    assert not (tmp_path / "state.pt").exists()


def test_an_evaluation_that_was_interrupted_is_made_up_for(runtime, samples, tmp_path):
    def fresh():
        return trainer(runtime, samples, epochs=4.0, evaluate_every=2)

    whole, calls = fresh(), []
    whole.run(tmp_path / "whole", evaluate=lambda network: {"sum": float(network.fc.weight.detach().sum())})

    def evaluate(network):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"sum": float(network.fc.weight.detach().sum())}

    stopped, resumed = fresh(), fresh()
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "stopped", evaluate=evaluate)
    resumed.run(tmp_path / "stopped", evaluate=evaluate)
    assert len(whole.state.evaluations) > 2
    assert resumed.state.evaluations == whole.state.evaluations
    assert len(calls) == 1 + len(whole.state.evaluations)


def test_resuming_with_kept_features_changes_nothing(runtime, samples, tmp_path):
    """Features of the first read, and of those beyond the limit, are those that later reads find."""

    def fresh(name):
        return trainer(runtime, samples[::2], cache=tmp_path / name, epochs=4.0)

    whole = fresh("whole")
    whole.run(tmp_path / "run")
    resumed = stopped_and_resumed(lambda: fresh("stopped"), tmp_path / "part")
    for name, weight in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], weight, rtol=0, atol=0)
    cached = FeatureSource(runtime, 64, store(runtime, tmp_path / "whole"))
    few = FeatureSource(runtime, 64, store(runtime, tmp_path / "f", feature_gb=1e-9))
    torch.testing.assert_close(few.get(samples[:1]), cached.get(samples[:1]), rtol=0, atol=0)


# --start


def test_a_run_begins_with_the_layers_of_the_head_it_starts_from(runtime, samples, tmp_path):
    start = tmp_path / "first"
    network = trainer(runtime, samples, layers=2, intermediate_size=24).network
    write("eagle", start, runtime, network)
    place = tmp_path / "head"
    train_head("eagle", runtime, samples[:10], short(), work=tmp_path / "run", place=place, start=start)
    made = read_head(EAGLE, place)
    assert (made.config.stack.num_layers, made.config.stack.mlp_size) == (2, 24)
    recipe = made.document["provenance"]["recipe"]
    assert (recipe["layers"], recipe["intermediate_size"]) == (2, 24)
    for changes in ({"layers": 3}, {"intermediate_size": 48}):
        name = next(iter(changes))
        with pytest.raises(ConfigError, match=f"{name} is .* but the head to start from has"):
            train_head(
                "eagle",
                runtime,
                samples[:10],
                short(**changes),
                work=tmp_path / "r",
                place=tmp_path / "p",
                start=start,
            )


def test_a_head_of_another_target_is_no_start(runtime, other, samples, head, tmp_path):
    settings = {"work": tmp_path / "run", "place": tmp_path / "out", "start": head}
    with pytest.raises(CheckpointError, match="was trained for the target with fingerprint"):
        train_head("eagle", other, samples[:10], short(), **settings)
    wide = write_llama(tmp_path / "wide", hidden_size=64)
    wide = load_runtime("torch", wide, name="wide", dtype="float32", threads=1)
    with pytest.raises(CheckpointError, match=f"hidden size {HIDDEN}, but wide has 64"):
        train_head("eagle", wide, samples[:10], short(), **settings)
    assert not (tmp_path / "run").exists()


# Options and files


@pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf], ids=str)
def test_numbers_that_nothing_can_be_done_with_are_refused(value):
    positive = ["epochs", "minutes", "learning_rate", "clip_norm"]
    natural = ["weight_decay", "noise", "ce_weight", "regression_weight", "step_decay"]
    for name in positive if value == 0 else [*positive, *natural]:
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            EagleRecipe(**{name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"draft_vocab": 0},
        {"loss_vocab": 0},
        {"intermediate_size": 0},
        {"intermediate_size": -3},
        {"max_length": 1},
        {"layers": 9},
    ],
    ids=str,
)
def test_impossible_recipes_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        EagleRecipe(**changes)


def test_answers_that_are_cut_away_are_refused_by_name(runtime, tmp_path):
    long = [Sample(f"{n}", (3, 4, 5, 6), (7,) * 9, 0.0) for n in range(20)]
    features = FeatureSource(runtime, 5)
    with pytest.raises(ConfigError, match="max_length is 5, but prompts have 4 tokens"):
        EagleTrainer(runtime, long, short(max_length=5), None, features)
    for kind in DISTILLED:
        config = recipe_class(kind)(max_length=5, prompt_share=0.0)
        with pytest.raises(ConfigError, match="max_length is 5, but prompts have 4 tokens"):
            trainer_class(kind)(runtime, long, config, None, features)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_in_which_nothing_counts_are_no_trouble(runtime, tmp_path, kind):
    """Prompts that fill `max_length`, and answers of one token, beside useful ones."""
    samples = [
        Sample(f"{n}", *parts, 0.0)
        for n, parts in enumerate([((3,), (4,)), ((5,) * 30, (6,) * 9), ((7, 8), (9,) * 20)] * 6)
    ]
    changes = {"max_length": 16, "batch_rows": 1, "epochs": 1.0, "save_every": 1, "held_out_every": 4}
    work, place = tmp_path / "run", tmp_path / "out"
    config = recipe(kind, **changes, draft_vocab=None, prompt_share=0.0)
    train_head(kind, runtime, samples, config, work=work, place=place)
    assert (place / "config.json").is_file()


@pytest.mark.parametrize("gigabytes", [0, -1, math.nan, math.inf])
def test_a_limit_of_features_is_a_number(gigabytes):
    with pytest.raises(ConfigError, match=f"feature_gb is {gigabytes}"):
        FeatureOptions(feature_gb=gigabytes)


def test_a_folder_of_features_that_is_a_file_is_one_line(runtime, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be made a folder of features") as caught:
        store(runtime, tmp_path / "file")
    one_line(caught)


def test_damaged_features_are_computed_again(runtime, samples, tmp_path):
    source = FeatureSource(runtime, 64, store(runtime, tmp_path))
    [expected] = source.get(samples[:1])
    source.close()
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = FeatureSource(runtime, 64, store(runtime, tmp_path))
    torch.testing.assert_close(again.get(samples[:1])[0], expected, rtol=0, atol=0)
    again.close()
    assert store(runtime, tmp_path).read(samples[0].digest, len(samples[0]) - 1) is not None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"prompt_ids": [1], "response_ids": [2], "temperature": "abc"}', 'temperature is "abc"'),
        ('{"prompt_ids": [1], "response_ids": [2], "temperature": null}', "temperature is null"),
        ('{"prompt_ids": [1], "response_ids": [2], "temperature": [1]}', "temperature is"),
        ('{"prompt_ids": [1], "response_ids": [2], "temperature": -1}', "temperature is -1"),
        ('{"prompt_ids": [1], "response_ids": [2], "temperature": NaN}', "temperature is NaN"),
        ('{"prompt_ids": [1], "response_ids": []}', "response_ids holds no token ids"),
        ('{"prompt_ids": [true], "response_ids": [2]}', "hold token ids only"),
        ('{"prompt_ids": [1], "response_ids": [2], "id": "\\ud800"}', "id is invalid text"),
        ("[" * 100_000, "invalid JSON"),
        ("\udcff", "invalid JSON"),
    ],
    ids=range(10),
)
def test_broken_answers_are_named_by_line(tmp_path, row, problem):
    path = tmp_path / "a.jsonl"
    path.write_bytes(row.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(DataError, match="line 1") as caught:
        read_samples([path])
    one_line(caught)
    assert problem in str(caught.value)


def test_a_corrupt_archive_is_one_line(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    row = json.dumps({"prompt_ids": [1], "response_ids": list(range(2000)), "temperature": 0.0})
    path.write_bytes(gzip.compress(row.encode()))
    assert len(read_samples([path])) == 1
    whole = bytearray(path.read_bytes())
    whole[30:60] = bytes(reversed(whole[30:60]))
    path.write_bytes(whole)
    with pytest.raises(DataError, match="cannot be read"):
        read_samples([path])
