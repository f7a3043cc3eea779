"""Two processes that train one head take the steps of one process with twice the batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.heads import read_head
from eyas.training.processes import Processes
from tiny_chat import VOCAB, write_chat_model

RECIPE = (
    *(
        "--epochs",
        "3",
        "--held-out-every",
        "6",
        "--learning-rate",
        "1e-3",
        "--ce-weight",
        "1",
        "--noise",
        "0",
    ),
    *(
        "--regression-weight",
        "0.5",
        "--scaled-regression",
        "--first-pair",
        "--ema",
        "0.9",
        "--save-every",
        "1",
    ),
    *("--dtype", "float32", "--threads", "1"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("models") / "bare")


@pytest.fixture(scope="module")
def answers(tmp_path_factory, model):
    """Answers of very different lengths."""
    import json

    from eyas.models import target_fingerprint

    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("answers") / "a.jsonl"
    rows = [
        {
            "id": str(number),
            "prompt_ids": rng.integers(6, VOCAB, 4).tolist(),
            "response_ids": rng.integers(6, VOCAB, rng.integers(3, 60)).tolist(),
            "temperature": 0.0,
            "target": target_fingerprint(model),
        }
        for number in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(words, rank, count, port):
    """A process as `torchrun` starts it."""
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    if count > 1:
        env |= {name: str(value) for name, value in launched.items()} | {"MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-m", "eyas", *map(str, words)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(folder, answers, model, count, *more, kind="eagle"):
    """Outputs of the processes, from the first one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("train", kind, "--answers", answers, "--work", folder / "run", "--out", folder / "head")
    started = [start((*words, "--model", model, *RECIPE, *more), rank, count, port) for rank in range(count)]
    try:
        return [(*process.communicate(timeout=200), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [200, 40], ids=["batches", "fewer samples than processes"])
def test_two_processes_are_one_with_twice_the_batch(answers, model, tmp_path, rows):
    [(_, errors, code)] = train(tmp_path / "one", answers, model, 1, "--batch-rows", 2 * rows)
    assert code == 0, errors
    (out, errors, code), (silent, others, other) = train(
        tmp_path / "two", answers, model, 2, "--batch-rows", rows
    )
    assert (code, other) == (0, 0), errors + others
    assert "T=0" in out
    assert (silent, "the head is in" in others) == ("", False)
    one, two = (
        torch.load(tmp_path / name / "run" / "state.pt", weights_only=True)["state"]
        for name in ("one", "two")
    )
    assert one["step"] == two["step"] > 6
    curves = [[row[0] for row in state["history"]] for state in (one, two)]
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-4)
    assert curves[0][-1] < curves[0][0]
    heads = [read_head(EAGLE, tmp_path / name / "head").weights for name in ("one", "two")]
    for name, weight in heads[0].items():
        np.testing.assert_allclose(heads[1][name], weight, atol=2e-3, rtol=0.02)


@pytest.mark.slow
def test_kinds_whose_loss_is_of_one_process_say_so(answers, model, tmp_path):
    words = ("train", "medusa", "--answers", answers, "--work", tmp_path / "run", "--out", tmp_path / "head")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = ("--model", model, "--dtype", "float32", "--draft-vocab", "64", "--threads", "1")
    started = [start((*words, *more), rank, 2, port) for rank in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 2
        assert "several processes cannot train Medusa heads" in errors


def test_parts_of_a_batch_are_all_of_it():
    for count in (1, 2, 3):
        parts = [Processes(rank, count).part([5, 6, 7, 8, 9]) for rank in range(count)]
        assert sorted(index for part in parts for index in part) == [5, 6, 7, 8, 9]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert Processes(1, 2).part([5]) == []
