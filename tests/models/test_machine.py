"""What is said of the machine tells apart what computes differently."""

import hashlib
from pathlib import Path

import pytest

from eyas.models import machine


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    return machine.CPUINFO


def test_one_name_for_two_kinds_of_cpu_is_not_enough(cpuinfo):
    names = set()
    for family, model in ((25, 1), (26, 2)):
        cpuinfo.write_text(f"processor : 0\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: EPYC\n")
        names.add(machine.cpu_model())
    assert names == {"EPYC (family 25, model 1)", "EPYC (family 26, model 2)"}


def test_a_cpu_without_a_family_keeps_its_name(cpuinfo):
    cpuinfo.write_text("model name\t: Cortex\nFeatures\t: fp asimd\n")
    assert machine.cpu_model() == "Cortex"
    assert machine.cpu_flags() == ["fp", "asimd"]


def test_a_system_without_the_file_has_a_name_all_the_same(cpuinfo):
    assert machine.cpu_model()
    assert machine.cpu_flags() == []


def test_the_compiled_engine_is_found_where_it_is_installed(monkeypatch):
    native = pytest.importorskip("eyas._native")
    assert machine.engine_hash() == hashlib.sha256(Path(native.__file__).read_bytes()).hexdigest()
    monkeypatch.setattr(machine, "native", None)
    assert machine.engine_hash() is None
