"""`eyas calibrate`, and `--tree auto` with its table: measured once, kept, never a different answer."""

import json
from dataclasses import replace

import pytest

from eyas import load
from eyas.api import methods
from eyas.drafters.policy import calibration
from eyas.drafters.policy.calibration import calibrate
from eyas.drafters.registry import find_method
from eyas.engine.costs import MOST_SCATTER, REVIEWED_CYCLES, CostTable
from eyas.engine.interfaces import DraftFiles
from eyas.models import cache_dir
from eyas.runtimes import load_runtime
from tiny import write_head, write_llama

QUICK = ("--runtime", "torch", "--dtype", "float32", "--threads", "1")


@pytest.fixture(autouse=True)
def _little_time(monkeypatch):
    monkeypatch.setattr("eyas.drafters.policy.calibration.SECONDS", 0.0)
    monkeypatch.setattr("eyas.drafters.policy.calibration.ROUNDS", (1, 1))
    monkeypatch.setattr("eyas.drafters.policy.calibration.CONTEXT", 16)


def tables():
    return list((cache_dir() / "costs").glob("*.json"))


def test_the_table_is_printed_and_kept(eyas, model):
    done = eyas("calibrate", "--model", model, *QUICK, "--json")
    assert done.code == 0
    [path] = tables()
    assert str(path) in done.err
    kept = CostTable.from_dict(json.loads(path.read_text()))
    assert CostTable.from_dict(done.document) == kept
    assert done.document["digest"] == kept.digest
    assert done.document["method"] == "eagle2"
    assert kept.verify_ms[-1][0] == 64
    text = eyas("calibrate", "--model", model, *QUICK).out
    assert "tokens verified" in text
    assert "first level" in text
    assert "a pair more" in text
    assert "behind 16 tokens; 1,000 more" in text


def test_dear_passes_are_measured_in_every_other_round(model, monkeypatch):
    monkeypatch.setattr("eyas.drafters.policy.calibration.ROUNDS", (3, 3))
    llm, passes = load(model, runtime="torch", dtype="float32", threads=1), []
    forward = llm.runtime.forward
    monkeypatch.setattr(
        llm.runtime, "forward", lambda calls: passes.append(len(calls[0].token_ids)) or forward(calls)
    )
    calibrate(llm.runtime, llm.loaded().policy.drafter, find_method("eagle2").options())
    assert passes.count(24) == 3
    assert passes.count(48) == 2


def test_a_method_whose_trees_have_no_size_is_refused(eyas, bare_model):
    words = ("--model", bare_model, *QUICK, "--method", "lookahead")
    assert "lookahead drafts no trees whose size can be chosen" in eyas("calibrate", *words).error
    refused = eyas("generate", "Hello", *words, "--tree", "auto")
    assert "tree is 'auto', but lookahead drafts no trees whose size can be chosen" in refused.error


def test_a_method_without_a_network_drafts_for_nothing(eyas, bare_model):
    kept = eyas("calibrate", "--model", bare_model, *QUICK, "--json").document
    assert kept["method"] == "pld"
    assert (kept["root_ms"], kept["pair_ms"], kept["draft_ms"]) == (0, 0, [[1, 0.001]])


def test_auto_measures_once_and_says_by_what_it_decided(eyas, model, monkeypatch):
    words = ("generate", "Hello", "--model", model, *QUICK, "--max-new-tokens", 12, "--json")
    plain = eyas(*words, "--method", "autoregressive", "--tree", "auto").document
    assert (plain["config"]["tree"], plain["config"]["cost_table"]) == ("auto", None)
    assert not tables()
    first = eyas(*words, "--tree", "auto").document
    [path] = tables()
    assert first["config"]["cost_table"] == CostTable.from_dict(json.loads(path.read_text())).digest
    monkeypatch.setattr("eyas.api.methods.calibrate", None)  # not called again
    second = eyas(*words, "--tree", "auto").document
    assert second["config"] == first["config"]
    assert first["token_ids"] == second["token_ids"] == plain["token_ids"]
    assert first["stats"]["cycles"] == second["stats"]["cycles"]


def test_a_size_with_auto_is_refused_before_loading(eyas):
    done = eyas("generate", "Hello", "--model", "/nowhere", "--tree", "auto", "--total-token", "8")
    assert "tree is 'auto'" in done.err
    assert done.code == 2


def test_a_broken_table_is_measured_again(model):
    llm = load(model, runtime="torch", dtype="float32", threads=1)
    llm.costs()
    [path] = tables()
    path.write_text("{")
    again = load(model, runtime="torch", dtype="float32", threads=1)
    table = again.costs()
    assert CostTable.from_dict(json.loads(path.read_text())) == table
    assert again.costs() is table


@pytest.mark.parametrize("positions", [8, 40, 96])
def test_a_short_context_is_measured_as_far_as_it_goes(tmp_path, positions):
    directory = write_llama(tmp_path / "target", max_positions=positions)
    runtime = load_runtime("torch", directory, name="tiny", dtype="float32", threads=1)
    head = write_head(tmp_path / "head")
    eagle2 = find_method("eagle2")
    drafter = eagle2.drafter.load(runtime, DraftFiles(head=lambda: head))
    table = calibrate(runtime, drafter, eagle2.options())
    assert 1 <= table.verify_ms[-1][0] < positions
    assert len(table.cycle) == 64


def test_a_table_that_cycles_contradict_is_measured_again_by_the_next_process(model):
    """It stays in this one: an answer can be replayed with the table that its config names."""
    llm = load(model, runtime="torch", dtype="float32", threads=1)
    table = llm.costs()
    for _ in range(REVIEWED_CYCLES):
        table.live.add(10.0, 11.0)
    assert tables()
    assert not table.live.is_doubtful
    for _ in range(REVIEWED_CYCLES):
        table.live.add(219.0, 11.0)
    assert not tables()
    assert llm.costs() is table
    again = load(model, runtime="torch", dtype="float32", threads=1)
    assert again.costs() is not table
    assert tables()


def test_in_an_idle_moment_a_contradicted_table_is_measured_again(model):
    llm = load(model, runtime="torch", dtype="float32", threads=1)
    table = llm.costs()
    llm.measure_again()
    assert llm.costs() is table
    for _ in range(REVIEWED_CYCLES):
        table.live.add(219.0, 11.0)
    llm.measure_again()
    assert llm.costs() is not table
    assert len(tables()) == 1


def test_a_table_of_a_busy_machine_is_used_and_measured_again_by_the_next_process(model, monkeypatch):
    rounds = [{"eyas": "x", "scatter": 2.0}, {"eyas": "x", "scatter": 1.05}, {}]
    measure = methods.calibrate
    monkeypatch.setattr(
        "eyas.api.methods.calibrate", lambda *given: replace(measure(*given), made=rounds.pop(0))
    )
    for left in (2, 1, 1):
        load(model, runtime="torch", dtype="float32", threads=1).costs()
        assert len(rounds) == left


def test_scatter_tells_a_disturbed_measurement_from_a_quiet_one():
    quiet = {("verify", rows): [4.0, 4.1, 4.05, 4.2, 4.1] for rows in range(5)}
    busy = {("verify", rows): [4.0, 9.0, 30.0, 4.5, 12.0] for rows in range(5)}
    assert calibration._scatter(quiet) < MOST_SCATTER < calibration._scatter(busy)


def test_cycles_are_compared_with_their_table(model):
    llm = load(model, runtime="torch", dtype="float32", threads=1)
    llm.generate("Hello", tree="auto", max_new_tokens=20, ignore_eos=True)
    live = llm.costs().live
    assert live.cycles > 0
    assert live.predicted_ms > 0
    assert live.actual_ms > 0
