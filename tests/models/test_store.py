"""The cache: folders appear whole or not at all."""

import errno
import multiprocessing
from pathlib import Path

import pytest

from eyas.errors import FetchError, ModelError
from eyas.models import cache_dir, heads_dir, installing, list_models, locked, models_dir, remove_model


def install(name, text="{}"):
    place = models_dir() / name
    with locked(place), installing(place) as folder:
        (folder / "config.json").write_text(text)
    return place


def left_over():
    return [path.name for path in models_dir().iterdir() if not path.name.endswith(".lock")]


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    assert models_dir() == tmp_path / "here" / "models"
    assert heads_dir() == tmp_path / "here" / "heads"
    monkeypatch.delenv("EYAS_CACHE")
    assert cache_dir().name == "eyas"
    assert cache_dir().is_absolute()


def test_an_installed_model_is_listed_with_its_size():
    assert list_models() == []
    place = install("one", "12345")
    [model] = list_models()
    assert (model.name, model.path, model.size_bytes) == ("one", place, 5)
    assert left_over() == ["one"]


def test_an_old_folder_is_replaced_whole():
    (install("one") / "stale").touch()
    place = install("one", "new")
    assert [path.name for path in place.iterdir()] == ["config.json"]
    assert (place / "config.json").read_text() == "new"


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), ValueError("broken"), SystemExit(3)])
def test_a_failed_install_leaves_the_old_one(problem):
    place = install("one", "old")

    def fail():
        with locked(place), installing(place) as folder:
            (folder / "config.json").write_text("half")
            raise problem

    with pytest.raises(type(problem)):
        fail()
    assert (place / "config.json").read_text() == "old"
    assert left_over() == ["one"]


def test_a_full_disk_is_one_line():
    place = models_dir() / "one"
    with pytest.raises(FetchError) as caught, locked(place), installing(place):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "No space left on device" in str(caught.value)
    assert "EYAS_CACHE" in str(caught.value)
    assert left_over() == []


def test_a_cache_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="EYAS_CACHE"):
        install("one")


def test_what_an_interrupted_process_left_is_swept_by_the_next_install():
    dead = models_dir() / ".unfinished-dead" / "new"
    dead.mkdir(parents=True)
    (dead / "model.safetensors").touch()
    install("other")
    assert left_over() == ["other"]


def test_a_neighbour_at_work_is_left_alone():
    place = models_dir() / "slow"
    with locked(place), installing(place) as folder:
        (folder / "config.json").touch()
        install("quick")
        assert (folder / "config.json").exists()
    assert sorted(left_over()) == ["quick", "slow"]


def test_an_unfinished_folder_is_no_model():
    place = models_dir() / "one"
    with locked(place), installing(place) as folder:
        (folder / "config.json").touch()
        assert list_models() == []


def _install_slowly(start, name, text):
    start.wait()
    install(name, text * 1000)


def test_processes_that_install_the_same_model_take_turns():
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=_install_slowly, args=(start, "one", text)) for text in "abcd"]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(set(Path(models_dir() / "one" / "config.json").read_text())) == 1
    assert left_over() == ["one"]


def test_removing_names_what_there_is():
    install("one")
    install("two")
    with pytest.raises(ModelError, match=r"'three'.*holds: one, two"):
        remove_model("three")
    assert remove_model("one") == models_dir() / "one"
    assert [model.name for model in list_models()] == ["two"]
    assert left_over() == ["two"]
    remove_model("two")
    with pytest.raises(ModelError, match="holds: none"):
        remove_model("two")


@pytest.mark.parametrize("name", ["..", ".", "", "../models/one", "/"])
def test_only_names_can_be_removed(name):
    install("one")
    with pytest.raises(ModelError):
        remove_model(name)
    assert [model.name for model in list_models()] == ["one"]
