"""Writes the type stub of the compiled module: `python native/make_stub.py FILE`.

nanobind's generator says everything about an array's layout; a reader needs its type alone.
"""

import re
import sys
from importlib import import_module
from pathlib import Path

from nanobind.stubgen import StubGen

_LAYOUT = re.compile(r"Annotated\[(NDArray(?:\[numpy\.\w+\])?), dict\([^()]*(?:\([^()]*\)[^()]*)*\)\]")


def make_stub() -> str:
    """The stub's text."""
    generator = StubGen(import_module("eyas._native"))
    generator.put(generator.module)
    text = _LAYOUT.sub(r"\1", generator.get())
    text = re.sub(r"\bNDArray(?!\[)(?=[,\] )])", "NDArray[Any]", text)
    return re.sub(r"from typing import Annotated.*", "from typing import Any", text)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(make_stub(), encoding="utf-8")
