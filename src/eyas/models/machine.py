"""What computes here, for provenance and for measurements that are kept: the CPU and the compiled engine."""

import hashlib
import platform
from pathlib import Path

from eyas.models.compiled import native

CPUINFO = Path("/proc/cpuinfo")


def cpu_model() -> str:
    """The CPU's name, with family and model on x86: virtual machines give one name to CPUs of many kinds."""
    facts = _cpuinfo()
    name = facts.get("model name") or platform.processor() or platform.machine()
    family, model = facts.get("cpu family"), facts.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def cpu_flags() -> list[str]:
    """The instruction sets that the CPU has, as the system names them; empty where it does not tell."""
    facts = _cpuinfo()
    return (facts.get("flags") or facts.get("Features") or "").split()


def engine_hash() -> str | None:
    """SHA-256 of the compiled engine, wherever it is installed; None where there is none."""
    if native is None or native.__file__ is None:
        return None
    with Path(native.__file__).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cpuinfo() -> dict[str, str]:
    """What the system says of its first CPU, read once: on many cores the file is long."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts
