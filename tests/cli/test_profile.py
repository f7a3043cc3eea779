"""`eyas profile`: phases add up to the cycle, and nothing is booked when nobody asks."""

import pytest

from eyas.engine.metrics import PHASES, Laps

QUICK = ("--runtime", "torch", "--dtype", "float32", "--threads", "1", "--max-new-tokens", "12")


def test_the_phases_of_a_cycle(eyas, model):
    done = eyas("profile", "Hello there", "--model", model, *QUICK, "--json")
    assert done.code == 0
    found = done.document
    assert list(found["phases"]) == list(PHASES)
    assert sum(phase["share"] for phase in found["phases"].values()) == pytest.approx(1)
    assert found["cycles"] == found["stats"]["cycles"]
    assert all(found["phases"][name]["median_ms"] > 0 for name in PHASES)
    assert 0 < found["beside_passes_ms"] < found["cycle_ms"]


def test_the_table(eyas, model):
    lines = eyas("profile", "Hello there", "--model", model, *QUICK).out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:7]] == list(PHASES.values())
    assert "eagle2 on torch float32" in lines[-1]
    short = eyas("profile", "Hello there", "--model", model, *QUICK[:-1], "1").out
    assert "there is no cycle" in short


def test_plain_decoding_has_no_draft(eyas, model):
    done = eyas("profile", "Hi", "--model", model, *QUICK, "--method", "autoregressive", "--json")
    assert done.document["phases"]["draft"]["median_ms"] == 0


def test_laps_add_up():
    laps = Laps()
    assert laps.summary()["cycle_ms"] is None
    for _ in range(3):
        laps.start()
        for phase in ("tree", "draft", "tree", "verify"):
            laps.mark(phase)
    summary = laps.summary()
    assert summary["cycles"] == 3
    assert summary["phases"]["commit"] == {"median_ms": 0.0, "share": 0.0}
