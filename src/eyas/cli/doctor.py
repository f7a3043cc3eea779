"""`eyas doctor`: what is installed, what the machine is, and whether model and head are there."""

import argparse
import os
import platform
from typing import Any

from eyas.bench.provenance import versions
from eyas.cli.output import size_text, write, write_json, write_table
from eyas.cli.parser import Commands
from eyas.drafters.find import HeadFinder
from eyas.errors import EyasError
from eyas.models import cache_dir, default_model_dir, list_models
from eyas.models.compiled import native
from eyas.models.machine import cpu_flags, cpu_model, usable_cores
from eyas.models.packed import LIMIT, packed_bytes
from eyas.models.store import stored_model

# Instruction sets that matter to matrix products, as /proc/cpuinfo names them.
INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "sve", "sve2", "i8mm", "bf16"),
)


MACHINE = ("platform", "cpu", "instruction_sets", "native_kernels", "cores", "usable_cores", "threads")


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor",
        help="versions, CPU, threads, cache, model and head",
        description="Print what a bug report needs.",
    )
    parser.add_argument("--json", action="store_true", help="print one document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    report = examine()
    if args.json:
        write_json(report)
        return 0
    parts = {"software": list(versions()), "machine": MACHINE}
    parts["files"] = [name for name in report if name not in (*parts["software"], *MACHINE)]
    for index, (title, names) in enumerate(parts.items()):
        write("\n" if index else "")
        rows = [(name.replace("_", " "), _shown(report[name])) for name in names]
        write_table((title, ""), rows)
    return 0


def examine() -> dict[str, Any]:
    """The report, by name."""
    flags = set(cpu_flags())
    return {
        **{name: number or "absent" for name, number in versions().items()},
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "native_kernels": native.isas() if native else "absent",
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": _threads(),
        **_stored(),
    }


def _stored() -> dict[str, Any]:
    """The cache, and what of the default model it holds."""
    place = default_model_dir()
    report: dict[str, Any] = {
        "cache": str(cache_dir()),
        "packed_weights": f"{size_text(packed_bytes())} of at most {size_text(LIMIT)}",
        "default_model": "absent (`eyas pull` fetches it)",
    }
    if stored_model(place) is None:
        return report | {"head": "unknown until the model is there"}
    size = sum(model.size_bytes for model in list_models() if model.path == place)
    report["default_model"] = f"{place} ({size_text(size)})"
    try:
        head = HeadFinder.of(place).find()
    except EyasError as error:  # a broken cache is what this command is asked about
        return report | {"head": f"cannot be looked for: {error}"}
    return report | {"head": str(head.path) if head.path else "none found"}


def _threads() -> int | str:
    """What the torch runtime uses unless --threads says otherwise."""
    try:
        import torch
    except ImportError:
        return "unknown without torch"
    return torch.get_num_threads()


def _shown(value: Any) -> str:
    return " ".join(value) or "unknown" if isinstance(value, list) else str(value)
