"""Files come whole or not at all, through links, into devices, and nowhere else."""

import os
import threading

import pytest

from eyas.bench.files import make_folder, write_whole
from eyas.errors import ConfigError


def test_a_file_is_new_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eyas.bench.files.os.fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*file: No space left on device"):
        write_whole(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path):
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    for link, leads_to in (("near", target), ("far", tmp_path / "near")):
        (tmp_path / link).symlink_to(leads_to)
        write_whole(tmp_path / link, link)
        assert (tmp_path / link).is_symlink()
        assert target.read_text() == link


def test_a_pipe_and_a_device_stay_what_they_are(tmp_path):
    pipe, seen = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: seen.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "through")
    reader.join(10)
    assert seen == ["through"]
    assert pipe.is_fifo()
    (tmp_path / "nothing").symlink_to(os.devnull)
    write_whole(tmp_path / "nothing", "gone")
    assert (tmp_path / "nothing").is_char_device()


def test_a_place_that_takes_no_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("", "absent/file", "file/file", "x" * 300):
        with pytest.raises(ConfigError, match=r"cannot write .*; choose another place"):
            write_whole(tmp_path / place, "text")
    with pytest.raises(ConfigError, match=r"cannot make the folder .*; choose another place"):
        make_folder(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "below")


def test_half_of_a_surrogate_pair_is_written_as_its_escape(tmp_path):
    write_whole(tmp_path / "file", "a\udcff")
    assert (tmp_path / "file").read_text() == "a\\udcff"
