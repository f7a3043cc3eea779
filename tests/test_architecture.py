"""Upper layers import lower ones, never the reverse; a core import stays light (docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import eyas

SOURCE = Path(eyas.__file__).parent

# From the top down. A module may import from rows below its own and from its own package.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"bench", "training", "serve"},
    {"api"},
    {"drafters", "runtimes"},
    {"engine"},
    {"models"},
    {"config"},
    {"errors"},
]
LEVEL = {name: len(LAYERS) - row for row, names in enumerate(LAYERS) for name in names}


def imports(path):
    """Modules of eyas that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("eyas."):
            yield node.module.split(".")[1], node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("eyas."):
                    yield alias.name.split(".")[1], node.lineno


def every_import(path):
    """Modules that a file imports, of any package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_go_down():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        relative = path.relative_to(SOURCE)
        own = relative.parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # the public names
        assert own in LEVEL, f"{relative}: say in LAYERS where it belongs"
        for other, line in imports(path):
            if other != own and LEVEL[other] >= LEVEL[own]:
                wrong.append(f"{relative}:{line} imports eyas.{other}")
    assert not wrong, "\n".join(wrong)


def test_the_mathematics_needs_no_framework():
    for path in [*(SOURCE / "engine").rglob("*.py"), *(SOURCE / "drafters/policy").rglob("*.py")]:
        found = {name.split(".")[0] for name in every_import(path)}
        assert not found & {"torch", "transformers"}, path


def test_importing_eyas_loads_neither_torch_nor_transformers():
    code = (
        "import sys, eyas, eyas.api.llm, eyas.drafters.registry; eyas.drafters.registry.methods(); "
        "print([m for m in ('torch', 'transformers', 'gguf') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_importing_eyas_needs_no_module_that_other_systems_lack():
    """Windows has none of these; every module of eyas, apart from torch's, imports without them."""
    code = """
import importlib, pkgutil, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty", "posix_ipc"):
    sys.modules[name] = None
import eyas
for module in pkgutil.walk_packages(eyas.__path__, "eyas."):
    if not module.name.startswith(("eyas.runtimes.torch.", "eyas.training", "eyas.__main__")):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            assert error.name not in ("fcntl", "grp", "pwd", "resource", "termios", "tty"), module.name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_functions_stay_readable():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 70, f"{path.name}: {node.name}"
