"""`eyas train`: prompts to answers, answers to a head that `generate` finds; interruptions and bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DISTIL = ("--max-new-tokens", "24", "--batch-size", "8", "--dtype", "float32", "--threads", "1")
HEAD = (
    *("--epochs", "2", "--batch-rows", "512", "--held-out-every", "5", "--learning-rate", "1e-3"),
    *("--closed-form-start", "--dtype", "float32", "--threads", "1"),
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory, bare_model):
    """Answers of the model without a head."""
    from eyas.cli import main

    folder = tmp_path_factory.mktemp("answers")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": str(n), "prompt": f"tell {n}"}) + "\n" for n in range(24)))
    out = folder / "answers.jsonl"
    words = ("train", "distil", "--prompts", prompts, "--out", out, "--model", bare_model, *DISTIL)
    assert main([str(word) for word in words]) == 0
    return out


def test_distil_goes_on_and_knows_when_it_is_done(eyas, answers, bare_model, tmp_path):
    lines = answers.read_text().splitlines()
    assert len(lines) == 24
    assert {json.loads(line)["temperature"] for line in lines} <= {0.0, 0.7, 1.0}
    part = tmp_path / "part.jsonl"
    part.write_text("\n".join(lines[:20]) + "\n" + lines[20][:30])
    prompts = answers.with_name("prompts.jsonl")
    argv = ("train", "distil", "--prompts", prompts, "--out", part, "--model", bare_model, *DISTIL)
    assert eyas(*argv).err == f"eyas: 4 new answers in {part}\n"
    assert len(part.read_text().splitlines()) == 24
    assert eyas(*argv).err == f"eyas: 0 new answers in {part}\n"


def test_a_head_is_trained_installed_and_found(eyas, answers, bare_model, tmp_path):
    work = tmp_path / "run"
    argv = ("train", "head", "--answers", answers, "--work", work, "--model", bare_model, *HEAD, "--json")
    done = eyas(*argv)
    assert done.code == 0, done.err
    head = Path(done.document["head"])
    assert head.parent == Path(os.environ["EYAS_CACHE"]) / "heads"
    measured = done.document["simulated_acceptance_length"].values()
    assert all(row["acceptance_length"] >= 1 for row in measured if row["answers"])
    provenance = json.loads((head / "config.json").read_text())["provenance"]
    assert provenance["recipe"]["epochs"] == 2.0
    found = eyas("generate", "hi", "--model", bare_model, "--max-new-tokens", "8", "--threads", "1", "--json")
    assert found.document["config"]["method"] == "eagle2"
    assert found.document["config"]["head"] == str(head)
    assert found.document["config"]["head_check"] == "fingerprint"


@pytest.mark.parametrize(("kind", "method"), [("medusa", "medusa"), ("hydra", "hydra"), ("draft-lm", "sps")])
def test_what_other_methods_need_is_trained_installed_and_found(
    eyas, answers, bare_model, tmp_path, kind, method
):
    argv = ("train", kind, "--answers", answers, "--work", tmp_path / "run", "--model", bare_model)
    recipe = ("--epochs", "1", "--batch-rows", "512", "--held-out-every", "12", "--draft-vocab", "64")
    done = eyas(*argv, *recipe, "--dtype", "float32", "--threads", "1", "--json")
    assert done.code == 0, done.err
    head = Path(done.document["head"])
    assert head.name == kind
    words = ("generate", "hi", "--model", bare_model, "--max-new-tokens", "8", "--threads", "1", "--json")
    found = eyas(*words, "--method", method).document
    assert found["config"]["head"] == str(head)
    assert found["config"]["lossless"] == "ids"
    plain = eyas(*words, "--method", "autoregressive").document
    assert found["token_ids"] == plain["token_ids"]


def test_what_training_of_others_refuses(eyas, answers, bare_model, tmp_path):
    words = ("--answers", answers, "--work", tmp_path / "run", "--model", bare_model)
    assert "minutes is 0.0" in eyas("train", "medusa", *words, "--minutes", "0").error
    assert "heads is 0" in eyas("train", "hydra", *words, "--heads", "0").error
    assert "draft_vocab is 9999" in eyas("train", "draft-lm", *words, "--draft-vocab", "9999").error
    assert not (tmp_path / "run").exists()


def test_ctrl_c_keeps_the_run(eyas, answers, bare_model, tmp_path, monkeypatch):
    from eyas.training.trainer import Trainer

    step, steps = Trainer._step, []

    def interrupted(trainer, samples):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(trainer, samples)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    work, out = tmp_path / "run", tmp_path / "head"
    argv = ("train", "head", "--answers", answers, "--work", work, "--out", out, "--model", bare_model, *HEAD)
    done = eyas(*argv)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "eyas: interrupted"
    assert not out.exists()
    done = eyas(*argv)
    assert done.code == 0
    assert "T=0" in done.out
    assert (out / "model.safetensors").is_file()
    assert not list(Path(os.environ["EYAS_CACHE"]).rglob("*.safetensors"))
    assert "was made with noise" in eyas(*argv, "--noise", "0.1").error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt_ids": [1], "response_ids": [2]}\n{', "line 2: invalid JSON"),
        ('{"prompt_ids": [1]}', "line 1: response_ids is missing"),
        ('{"prompt_ids": [1], "response_ids": ["a"]}', "line 1: prompt_ids and response_ids hold token ids"),
        ('{"prompt_ids": [1], "response_ids": [9999]}', "token id 9999"),
        ("", "holds no answers"),
    ],
)
def test_broken_answers(eyas, bare_model, tmp_path, content, message):
    file, work = tmp_path / "answers.jsonl", tmp_path / "run"
    file.write_text(content)
    argv = ("train", "head", "--answers", file, "--work", work, "--model", bare_model, "--threads", "1")
    assert message in eyas(*argv).error
    assert not work.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "epochs is 0"),
        (["--layers", "0"], "layers is 0"),
        (["--warmup", "2"], "warmup is 2.0"),
        (["--schedule", "random"], "invalid choice: 'random'"),
        (["--draft-vocab", "9999", "--threads", "1"], "draft_vocab is 9999"),
    ],
)
def test_what_training_refuses(eyas, answers, bare_model, tmp_path, argv, message):
    words = ("train", "head", "--answers", answers, "--work", tmp_path / "run", "--model", bare_model)
    assert message in eyas(*words, *argv).error
    assert not (tmp_path / "run").exists()


def test_what_distilling_refuses(eyas, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"body": "b"}\n')
    argv = ("train", "distil", "--prompts", prompts, "--out", out)
    assert "line 2: prompt is missing" in eyas(*argv).error
    assert "temperatures and 3 shares" in eyas(*argv, "--temperatures", "0,1").error
    assert "loop_tokens is -1" in eyas(*argv, "--loop-tokens", "-1").error
    assert "cannot be read" in eyas("train", "distil", "--prompts", tmp_path / "no", "--out", out).error
    assert not out.exists()


def test_distil_says_what_it_leaves_out(eyas, bare_model, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    texts = ["x" * 300, "", "tell", "x" * 900]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    argv = ("train", "distil", "--prompts", prompts, "--out", out, "--model", bare_model, *DISTIL)
    for new in (1, 0):
        assert eyas(*argv).err.splitlines() == [
            "eyas: prompts left out, longer than 255 tokens: 2",
            "eyas: prompts left out, empty: 1",
            f"eyas: {new} new answers in {out}",
        ]
    prompts.write_text("")
    assert "holds no prompts" in eyas(*argv).error
    assert len(out.read_text().splitlines()) == 1


@pytest.mark.parametrize("option", [("--seed", "-1"), ("--limit", "-3"), ("--shares", "nan,1,1")], ids=str)
def test_what_distilling_cannot_do(eyas, answers, bare_model, tmp_path, option):
    words = (
        "--prompts",
        answers.with_name("prompts.jsonl"),
        "--out",
        tmp_path / "out",
        "--model",
        bare_model,
    )
    assert option[0][2:] in eyas("train", "distil", *words, *option).error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["head", "medusa", "hydra", "draft-lm"])
def test_nothing_of_the_users_is_replaced(eyas, answers, bare_model, tmp_path, kind):
    both = tmp_path / "both"
    both.mkdir()
    mine = both / "answers.jsonl"
    mine.write_text(answers.read_text())
    before = {path: path.read_bytes() for path in [mine, *bare_model.rglob("*")] if path.is_file()}

    def refused(work, out):
        words = ("--answers", mine, "--work", work, "--out", out, "--model", bare_model, "--threads", "1")
        return eyas("train", kind, *words).error

    assert f"would replace {both}" in refused(both, both)
    assert f"would replace {both / 'run'}" in refused(both / "run", both)
    assert f"would replace {mine}" in refused(tmp_path / "run", both)
    assert f"would replace {bare_model}" in refused(tmp_path / "run", bare_model)
    assert f"would replace {bare_model}" in refused(tmp_path / "run", bare_model.parent)
    assert "--out" in refused(tmp_path / "run", answers)
    assert "--work" in refused(mine, tmp_path / "out")
    assert not (tmp_path / "run").exists()
    assert before == {path: path.read_bytes() for path in before}


def test_answers_of_another_target_are_refused(eyas, answers, bare_model, tmp_path):
    theirs = tmp_path / "theirs.jsonl"
    row = json.loads(answers.read_text().splitlines()[0])
    theirs.write_text(json.dumps(row | {"target": "0123456789abcdef"}) + "\n")
    words = ("--work", tmp_path / "run", "--out", tmp_path / "out", "--model", bare_model, "--threads", "1")
    assert "fingerprint 0123456789abcdef" in eyas("train", "head", "--answers", theirs, *words).error
    assert not (tmp_path / "run").exists()


def without_torch(*words):
    code = "import sys; sys.modules['torch'] = None; from eyas.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (("head", "--answers", "a.jsonl", "--work", "run"), "eyas train eagle"),
        (("medusa", "--help"), "eyas train medusa"),
    ],
    ids=["eagle", "help"],
)
def test_without_torch_training_says_so_in_one_line(tmp_path, step, what):
    """These ended in a traceback."""
    prompts = tmp_path / "prompts"
    prompts.write_text('{"prompt": "hi"}\n')
    words = [prompts if word == "prompts" else word for word in step]
    done = without_torch("train", *words)
    assert (done.returncode, done.stdout) == (2, "")
    wanted = f"eyas: error: {what} needs the package torch; install it with `pip install 'eyas[train]'`."
    assert done.stderr.splitlines() == [wanted]


def test_without_torch_the_steps_are_listed():
    assert "train Medusa heads on answers" in without_torch("train", "--help").stdout
