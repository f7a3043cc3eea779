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


def test_the_compiled_engine_is_read_once(monkeypatch):
    pytest.importorskip("eyas._native")
    wanted = machine.engine_hash()
    monkeypatch.setattr(hashlib, "file_digest", None)  # would be an error
    assert machine.engine_hash() == wanted


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """A machine of 64 CPUs, two to a core; the fixture writes what its control groups say."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "CGROUP_ROOT", tmp_path / "fs")
    monkeypatch.setattr(machine, "TOPOLOGY", tmp_path / "cpu")
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: range(64), raising=False)
    for cpu in range(64):
        folder = tmp_path / f"cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 32},{cpu % 32 + 32}\n")

    def write(lines, files):
        (tmp_path / "cgroup").write_text(lines)
        for name, content in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


NO_LIMIT = ("0::/\n", {"cpu.max": "max 100000\n"})
QUOTAS = {
    "none": (*NO_LIMIT, 32),
    "version 2": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "an ancestor's": ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
    "part of a CPU": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "a part more": ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
    "more than there is": ("0::/\n", {"cpu.max": "9000000 100000\n"}, 32),
    "version 1": (
        "4:cpu,cpuacct:/x\n1:memory:/\n",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
        4,
    ),
    "version 1, mounted under one name": (
        "4:cpu,cpuacct:/x\n",
        {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"},
        2,
    ),
    "a path of the host, whose group is the root here": (
        "0::/system.slice/docker-1.scope\n",
        {"cpu.max": "400000 100000"},
        4,
    ),
    "version 1, no limit": (
        "4:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        32,
    ),
    "nonsense": ("x\n0::/\n", {"cpu.max": "many few\n"}, 32),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_a_containers_quota_limits_the_threads(cgroups, name):
    lines, files, cores = QUOTAS[name]
    cgroups(lines, files)
    assert machine.usable_cores() == cores


MEMORY = {
    "none": ("0::/\n", {"memory.max": "max\n"}, 8 << 30),
    "version 2": ("0::/a/b\n", {"a/memory.max": "3000000000\n", "a/b/memory.max": "max\n"}, 3_000_000_000),
    "version 1": ("5:memory:/x\n", {"memory/x/memory.limit_in_bytes": "2000000000\n"}, 2_000_000_000),
    "version 1, no limit": ("5:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, 8 << 30),
    "nonsense": ("x\n0::/\n", {"memory.max": "much\n"}, 8 << 30),
}


@pytest.mark.parametrize("name", MEMORY)
def test_a_container_limits_the_memory(cgroups, name, monkeypatch):
    lines, files, wanted = MEMORY[name]
    cgroups(lines, files)
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 2 << 20, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert machine.memory_bytes() == wanted


def test_affinity_limits_the_threads(cgroups, monkeypatch):
    cgroups(*NO_LIMIT)
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1, 32}, raising=False)
    assert machine.usable_cores() == 2
