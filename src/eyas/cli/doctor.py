"""`eyas doctor`: what is installed, what the machine is, and whether model and head are there."""

import argparse
import os
import platform
from typing import Any

from eyas.bench.provenance import versions
from eyas.cli.output import write, write_json
from eyas.cli.parser import Commands
from eyas.drafters.find import HeadFinder
from eyas.errors import EyasError
from eyas.models import cache_dir, default_model_dir, target_fingerprint
from eyas.models.machine import cpu_flags, cpu_model, usable_cores
from eyas.models.packed import LIMIT, packed_bytes

# Instruction sets that matter to matrix products, as /proc/cpuinfo names them.
INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "sve", "sve2", "i8mm", "bf16"),
)


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
    width = max(len(key) for key in report)
    for key, value in report.items():
        write(f"{key.replace('_', ' '):<{width}}  {_shown(value)}\n")
    return 0


def examine() -> dict[str, Any]:
    """The report, by name."""
    flags = set(cpu_flags())
    return {
        **{name: number or "absent" for name, number in versions().items()},
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
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
        "packed_weights": f"{packed_bytes() / 1e6:.0f} MB of at most {LIMIT / 1e6:.0f} MB",
        "default_model": "absent (`eyas pull` fetches it)",
    }
    if not (place / "config.json").is_file():
        return report | {"head": "unknown until the model is there"}
    report["default_model"] = str(place)
    try:
        head = HeadFinder(None, place, target_fingerprint(place)).find()
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
