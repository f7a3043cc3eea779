"""`eyas bench plot` draws every figure that the rows fill, twice the same."""

import struct
import sys
import xml.etree.ElementTree as xml

import pytest
from synthetic import answer, folder

from eyas.bench.plots import figures, svg_text
from eyas.bench.results import Results

FIGURES = {"speedups"}


@pytest.fixture
def made(tmp_path):
    rows = []
    for n in range(4):
        rows.append(answer("autoregressive", n, cycles=30, new_tokens=31, seconds=(2.0,)))
        rows.append(answer("eagle2", n, cycles=30, cycle_tokens=60, new_tokens=61, seconds=(1.0,)))
    return folder(tmp_path / "made", *rows)


def test_every_figure_is_drawn_and_the_same_rows_give_the_same_files(eyas, made):
    pytest.importorskip("matplotlib")
    done = eyas("bench", "plot", made)
    assert done.code == 0, done.err
    written = {path.name: path for path in (made / "figures").iterdir()}
    assert set(written) == {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
    assert sorted(done.out.split()) == sorted(str(path) for path in written.values())
    for name, path in written.items():
        content = path.read_bytes()
        if name.endswith("png"):
            assert content[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = struct.unpack(">II", content[16:24])
            assert min(width, height) > 250
        else:
            shapes = list(xml.fromstring(content).iter("{http://www.w3.org/2000/svg}path"))
            assert len(shapes) > 30
    for name, (_, figure) in figures(Results.load(made)).items():
        assert svg_text(figure) in written[f"{name}.svg"].read_text(), name


def test_rows_without_times_give_no_figure(eyas, tmp_path):
    pytest.importorskip("matplotlib")
    path = folder(tmp_path / "few", answer("autoregressive", 1), answer("eagle2", 1, cycle_tokens=20))
    done = eyas("bench", "plot", path)
    assert (done.code, done.out) == (0, "")
    assert "no answer was timed" in done.err


def test_a_file_in_the_place_of_the_folder_is_named(eyas, made):
    assert "cannot make the folder" in eyas("bench", "plot", made, "--out", made / "rows.jsonl").error


def test_without_matplotlib_the_remedy_is_named(eyas, made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'eyas[bench]'" in eyas("bench", "plot", made).error
    done = eyas("bench", "report", made, "--html", tmp_path / "page.html")
    assert done.code == 0
    assert "no figures" in done.err
    assert "<svg" not in (tmp_path / "page.html").read_text()
