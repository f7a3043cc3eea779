"""The committed type stub is what the generator says of the compiled module."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_the_stub_is_the_generators():
    pytest.importorskip("nanobind")
    spec = importlib.util.spec_from_file_location("make_stub", ROOT / "native" / "make_stub.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    committed = (ROOT / "src" / "eyas" / "_native.pyi").read_text(encoding="utf-8")
    assert tree(program.make_stub()) == tree(committed), "run `make stub`"


def tree(text):
    """A stub without its format: docstrings keep their words only."""
    parsed = ast.parse(text)
    for node in ast.walk(parsed):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = " ".join(node.value.split())
    return ast.dump(parsed)
