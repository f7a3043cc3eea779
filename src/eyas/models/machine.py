"""The machine: its CPU, the cores that this process may use, and the compiled engine."""

import hashlib
import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from eyas.models.compiled import native

CPUINFO = Path("/proc/cpuinfo")
CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")


def cpu_model() -> str:
    """The CPU's name, with family and model on x86: virtual machines give one name to CPUs of many kinds."""
    facts = _cpuinfo()
    name = facts.get("model name") or platform.processor() or platform.machine()
    family, model = facts.get("cpu family"), facts.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def cpu_flags() -> list[str]:
    """The instruction sets of the CPU, as the system names them; empty where it does not tell."""
    facts = _cpuinfo()
    return (facts.get("flags") or facts.get("Features") or "").split()


def engine_hash() -> str | None:
    """SHA-256 of the compiled engine, wherever it is installed; None where there is none."""
    if native is None or native.__file__ is None:
        return None
    return _file_hash(Path(native.__file__))


@cache
def _file_hash(path: Path) -> str:
    """Of a file that stays as it is while the process runs: a loaded library."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def usable_cores() -> int:
    """Physical cores that this process may use: by its affinity, and by the CPU quota of its container."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list"
        cores.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    quota = cpu_quota()
    return len(cores) if quota is None else max(1, min(len(cores), int(quota)))


def cpu_quota() -> float | None:
    """CPUs' worth of time that the control groups of this process allow it, or None where nothing limits it.

    A group is limited by its ancestors, too: the least of them holds. Sources: Linux's documentation of
    `cpu.max` (cgroup v2) and of `cpu.cfs_quota_us` (v1).
    """
    found: list[float] = []
    for folder, is_v1 in _groups("cpu"):
        found += _quota_v1(folder) if is_v1 else _quota_v2(folder)
    return min(found, default=None)


def memory_bytes() -> int | None:
    """Bytes of memory that this process may use: the machine's, or its container's where that is less.

    None where the system does not tell. Sources as in `cpu_quota`: `memory.max`, `memory.limit_in_bytes`.
    """
    found: list[int] = []
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for folder, is_v1 in _groups("memory"):
        lines = _lines(folder / ("memory.limit_in_bytes" if is_v1 else "memory.max"))
        found += [int(line) for line in lines if line.isdecimal()]  # or "max"
    return min(found, default=None)


def _groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """Folders of the control groups that limit this process, and whether they are of version 1."""
    for line in _lines(CGROUPS):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_v1 = controller in controllers.split(",")
        if not (is_v1 or number == "0"):
            continue
        # Version 1 is mounted under one of the two names, or both.
        for name in {controllers, controller} if is_v1 else {""}:
            for folder in _up_to_root(CGROUP_ROOT / name, path):
                yield folder, is_v1


def _up_to_root(root: Path, path: str) -> list[Path]:
    """The group's folder and those of its ancestors; in a container, `path` may be one of the host's."""
    group = root / path.lstrip("/")
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]


def _quota_v2(folder: Path) -> list[float]:
    numbers = " ".join(_lines(folder / "cpu.max")).split()
    return _ratio(*numbers) if len(numbers) == 2 else []  # "max 100000", or "200000 100000"


def _quota_v1(folder: Path) -> list[float]:
    quota, period = _lines(folder / "cpu.cfs_quota_us"), _lines(folder / "cpu.cfs_period_us")
    return _ratio(quota[0], period[0]) if quota and period else []  # -1 is no limit


def _ratio(quota: str, period: str) -> list[float]:
    try:
        time, length = int(quota), int(period)
    except ValueError:
        return []
    return [time / length] if time > 0 and length > 0 else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _cpuinfo() -> dict[str, str]:
    """Facts about the first CPU."""
    facts: dict[str, str] = {}
    for line in _lines(CPUINFO):
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts
