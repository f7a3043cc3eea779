"""Distilling: files that go on, prompts that are left out, and what is never overwritten."""

import contextlib
import json

import numpy as np
import pytest

from eyas.errors import ConfigError, DataError
from eyas.training.config import DistilConfig
from eyas.training.data import read_samples
from eyas.training.distil import distil
from eyas.training.prompts import Prompt, Question, read_prompts
from tiny import write_llama

RECIPE = {"max_new_tokens": 6, "batch_size": 2}
PROMPTS = [Prompt(f"{n}", Question(f"5 6 {7 + n}")) for n in range(6)]
OLD = json.dumps({"id": "0", "prompt_ids": [5, 6, 7], "response_ids": [9], "temperature": 0.0})


class Words:
    """A tokenizer whose words are ids."""

    stop_token_ids = (2,)

    def apply_chat_template(self, messages):
        return [int(word) for word in messages[0]["content"].split()]


def answer(runtime, prompts, out, **changes):
    return distil(runtime, Words(), prompts, out, DistilConfig(**{**RECIPE, **changes}))


def ids(out):
    return sorted(sample.id for sample in read_samples([out]))


def rows(out):
    return sorted(out.read_text().splitlines())


@pytest.mark.parametrize("limit", [None, 3])
def test_an_interrupted_run_gives_what_an_uninterrupted_one_gives(runtime, tmp_path, limit):
    """Prompts that do not fit count neither time for `limit`."""
    prompts = [Prompt("long", Question("5 " * 40)), PROMPTS[0], Prompt("none", Question(" ")), *PROMPTS[1:]]
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    made = answer(runtime, prompts, whole, limit=limit, max_prompt_tokens=8)
    assert (made.answers, made.too_long, made.empty) == (limit or 6, 1, 1)
    half = [line for line in rows(whole) if json.loads(line)["id"] in "02"]
    stopped.write_text("".join(f"{line}\n" for line in half))
    assert answer(runtime, prompts, stopped, limit=limit, max_prompt_tokens=8).answers == (limit or 6) - 2
    assert rows(stopped) == rows(whole)
    for _ in range(2):
        assert answer(runtime, prompts, stopped, limit=limit, max_prompt_tokens=8).answers == 0
    assert rows(stopped) == rows(whole)


def test_a_prompt_longer_than_the_context_is_left_out(runtime, tmp_path):
    room = runtime.target.context_limit
    prompts = [
        Prompt("a", Question("5 " * room)),
        Prompt("b", Question("5 " * (room - 1))),
        Prompt("c", Question("5 6")),
    ]
    made = answer(runtime, prompts, tmp_path / "a.jsonl", max_prompt_tokens=4 * room)
    assert (made.answers, made.too_long) == (2, 1)
    assert ids(tmp_path / "a.jsonl") == ["b", "c"]


def test_ids_that_two_prompts_share_are_refused(runtime, tmp_path):
    with pytest.raises(DataError, match="2 prompts have the id 'x'"):
        answer(runtime, [Prompt("x", Question("5")), Prompt("x", Question("6"))], tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_a_last_answer_without_its_end_is_kept(runtime, tmp_path):
    out = tmp_path / "a.jsonl"
    out.write_text(OLD)
    answer(runtime, PROMPTS[:2], out)
    assert out.read_text().startswith(OLD + "\n{")
    assert ids(out) == ["0", "1"]


@pytest.mark.parametrize("cut", ["{", '{"id": "1', '{"id": "1", "category": "", "prompt_i'])
def test_a_line_that_a_kill_cut_short_is_dropped(runtime, tmp_path, cut):
    out = tmp_path / "a.jsonl"
    out.write_text(OLD + "\n" + cut)
    answer(runtime, PROMPTS[:2], out)
    assert ids(out) == ["0", "1"]


@pytest.mark.parametrize(
    "content",
    [
        "my notes",
        "my notes\nof today\n",
        OLD + "\nmy notes",
        '{"id": "1", "prompt": "a question"}',
        '{"id": "1", "prompt": "a question"}\n{"id": "2", "prom',
    ],
)
def test_a_file_of_something_else_stays_as_it_is(runtime, tmp_path, content):
    out = tmp_path / "notes"
    out.write_text(content)
    with pytest.raises(DataError, match="Use another --out") as error:
        answer(runtime, PROMPTS, out)
    assert "\n" not in str(error.value)
    assert out.read_text() == content


def test_answers_of_another_target_are_not_appended_to(runtime, tmp_path):
    from eyas.runtimes import load_runtime

    out = tmp_path / "a.jsonl"
    answer(runtime, PROMPTS[:1], out)
    assert {sample.target for sample in read_samples([out])} == {runtime.target.fingerprint}
    before = out.read_text()
    other = load_runtime(
        "torch", write_llama(tmp_path / "m", seed=9), name="other", dtype="float32", threads=1
    )
    with pytest.raises(DataError, match=f"fingerprint {runtime.target.fingerprint}, not of this one"):
        answer(other, PROMPTS, out)
    assert out.read_text() == before
    out.write_text(OLD + "\n")  # made elsewhere: nothing says by whom
    assert answer(other, PROMPTS[:2], out).answers == 1


def test_two_runs_do_not_share_a_file(runtime, tmp_path):
    out = tmp_path / "a.jsonl"

    def meanwhile(label, done, total):
        with pytest.raises(DataError, match="in use by another run"):
            answer(runtime, PROMPTS, out)

    distil(runtime, Words(), PROMPTS[:2], out, DistilConfig(**RECIPE), meanwhile)
    assert ids(out) == ["0", "1"]
    assert answer(runtime, PROMPTS, out).answers == 4


def test_answers_on_a_full_disk_stay_whole_and_go_on(runtime, small_disk):
    out = small_disk / "answers.jsonl"
    assert answer(runtime, PROMPTS[:2], out).answers == 2
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(64))
    out.write_bytes(out.read_bytes().ljust(4096 - 40, b"\n"))  # room for a part of a line
    with pytest.raises(DataError, match=r"answers\.jsonl cannot be written .*free some space"):
        answer(runtime, PROMPTS, out)
    filler.unlink()
    assert answer(runtime, PROMPTS, out).answers == 4
    assert [sample.id for sample in read_samples([out])] == [prompt.id for prompt in PROMPTS]


def test_compressed_files_cannot_go_on(runtime, tmp_path):
    with pytest.raises(DataError, match=r"without \.gz"):
        answer(runtime, PROMPTS, tmp_path / "a.jsonl.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": -3},
        {"limit": 0},
        {"seed": -1},
        {"shares": (np.nan, 1.0), "temperatures": (0.0, 1.0)},
        {"shares": (np.inf, 1.0), "temperatures": (0.0, 1.0)},
        {"temperatures": (0.0, 0.7, np.nan)},
        {"shares": (0.0, 0.0, 0.0)},
        {"shares": (1e308, 1e308, 1e308)},
    ],
    ids=str,
)
def test_impossible_recipes_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        DistilConfig(**changes)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("\n", "holds no prompts"),
        (r'{"id": "\ud800", "prompt": "a"}', "line 1: id is invalid text"),
        (r'{"prompt": "a \udfff"}', "line 1: prompt is invalid text"),
    ],
)
def test_broken_prompts_are_named_by_line(tmp_path, content, problem):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(DataError, match=problem):
        read_prompts(tmp_path / "p.jsonl")
