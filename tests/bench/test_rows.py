"""The file of answers: a kill loses one row at most, and nothing counts twice."""

import errno
import json

import pytest

from eyas.bench.rows import RowFile
from eyas.errors import DataError


def row(key, **more):
    return {"key": key, **more}


def test_rows_come_back_and_the_last_of_a_key_counts(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    with RowFile(path) as file:
        file.append(row("a", value=1))
        file.append(row("b", text="zwei\u2028Zeilen"))
        file.append(row("a", value=2, set="a name that is no UTF-8: \udcff"))
    with RowFile(path) as file:
        assert file.rows["a"].pop("set").endswith("\udcff")
        assert file.rows == {"a": row("a", value=2), "b": row("b", text="zwei\u2028Zeilen")}


def test_a_cut_off_row_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("a")) + "\n" + '{"key": "b", "val')
    with RowFile(path) as file:
        assert list(file.rows) == ["a"]
        file.append(row("c"))
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]


@pytest.mark.parametrize("cut", ["{", '{"ke', '{"key": "b', '{"key": "b", "text": "\\ud8'])
def test_however_a_row_was_cut_off_it_is_dropped(tmp_path, cut):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("a")) + "\n" + cut)
    with RowFile(path) as file:
        assert list(file.rows) == ["a"]
    assert path.read_text() == json.dumps(row("a")) + "\n"


def test_a_whole_row_that_lacks_its_line_feed_gets_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("a", value=1)) + "\n" + json.dumps(row("a", value=2)))
    with RowFile(path) as file:
        assert file.rows == {"a": row("a", value=2)}
        file.append(row("c"))
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "a", "c"]


@pytest.mark.parametrize("content", ["buy milk", "{}", '{"turns": ["a', "buy milk\n" + '{"key": "b', "\0\0"])
def test_what_others_wrote_is_refused_and_left_as_it_was(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="line 1: not a result row"):
        RowFile(path)
    assert path.read_text() == content


@pytest.mark.parametrize("line", ["{", "[]", "{}", "3", "[" * 100_000, "1" * 5000])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("a")) + f"\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        RowFile(path)
    assert path.read_text().endswith(f"{line}\n"), "the file is left as it was"


def test_two_runs_cannot_share_a_file(tmp_path):
    with RowFile(tmp_path / "a.jsonl"), pytest.raises(DataError, match="in use by another run"):
        RowFile(tmp_path / "a.jsonl")
    with RowFile(tmp_path / "a.jsonl"):
        pass


def test_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    with RowFile(path) as file:
        file.append(row("a"))

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("eyas.bench.rows.os.fsync", full)
        with pytest.raises(DataError, match="No space left on device; make room and run again"):
            file.append(row("b"))
        assert list(file.rows) == ["a"]
    assert path.read_text() == json.dumps(row("a")) + "\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another --out"):
        RowFile(tmp_path / "file" / "rows.jsonl")
