"""Model families: one file each, from a config to a `ModelSpec`, and the names of its tensors in files.

A file here registers its family with a decorator. Another package can add one by an entry point in the group
`eyas.families`, and a test by importing its file. docs/add-a-family.md shows how.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from eyas.errors import ModelError
from eyas.models.families.common import HUGGING_FACE, Config, Unsupported
from eyas.models.families.gguf import GGUFNames, gguf_config
from eyas.models.sources import is_gguf, open_gguf, open_source
from eyas.models.spec import ModelSpec
from eyas.models.tensors import ModelTensors, TensorNames
from eyas.models.weights import read_json


@dataclass(frozen=True, kw_only=True)
class Family:
    """A registered family.

    Attributes:
        name: `model_type` in config.json.
        spec: from a config to the description of the model.
        tensors: names in Hugging Face's files.
        gguf: how GGUF files hold it, or None.
    """

    name: str
    spec: Callable[[Config], ModelSpec]
    tensors: TensorNames
    gguf: GGUFNames | None


_FAMILIES: dict[str, Family] = {}
SpecFunction = Callable[[Config], ModelSpec]


def register_family(
    name: str, *, tensors: TensorNames = HUGGING_FACE, gguf: GGUFNames | None = None
) -> Callable[[SpecFunction], SpecFunction]:
    """Make a family known by its `model_type`; the decorated function describes its models.

    Args:
        name: `model_type` in config.json.
        tensors: names in Hugging Face's files; the default ones are Llama's.
        gguf: how GGUF files hold the family; None where there are none.
    """

    def register(spec: SpecFunction) -> SpecFunction:
        assert name not in _FAMILIES, f"two families are called {name!r}"
        _FAMILIES[name] = Family(name=name, spec=spec, tensors=tensors, gguf=gguf)
        return spec

    return register


def families() -> dict[str, Family]:
    """All families by name: every file of this package, then the entry points `eyas.families`."""
    _discover()
    return dict(sorted(_FAMILIES.items()))


@cache
def _discover() -> None:
    package = import_module("eyas.models.families")
    for module in sorted(module.name for module in iter_modules(package.__path__)):
        import_module(f"eyas.models.families.{module}")
    for entry_point in entry_points(group="eyas.families"):
        entry_point.load()


def find_family(config: Mapping[str, Any]) -> Family:
    """The family of a config.

    Raises:
        ModelError: none of that name; the message lists those that are known.
    """
    known, name = families(), str(config.get("model_type"))
    if name not in known:
        raise ModelError(f"unknown model family {name!r}; known are {', '.join(known)}")
    return known[name]


def find_gguf_family(architecture: str) -> Family:
    """The family of a GGUF file.

    Raises:
        ModelError: none whose GGUF files are known.
    """
    known = {family.gguf.architecture: family for family in families().values() if family.gguf}
    if architecture not in known:
        raise ModelError(f"unknown GGUF architecture {architecture!r}; known are {', '.join(known)}")
    return known[architecture]


def read_family(model: Path) -> tuple[Family, dict[str, Any]]:
    """A model's family, and its config.json or what a GGUF file's metadata amount to.

    Raises:
        ModelError: no readable config, an unknown family, or metadata that are missing or impossible.
    """
    if is_gguf(model):
        return _read_gguf(model)
    document = read_json(model / "config.json")
    try:
        return find_family(document), document
    except ModelError as problem:
        raise ModelError(f"{model}: {problem}; use --runtime torch.") from problem


def _read_gguf(model: Path) -> tuple[Family, dict[str, Any]]:
    source = open_gguf(model)
    try:
        family = find_gguf_family(source.architecture)
        assert family.gguf is not None, "found by its GGUF architecture"
        return family, gguf_config(source, family.name, family.gguf)
    except (ModelError, Unsupported) as problem:
        raise ModelError(f"{model} cannot be read: {problem}; use the original model's folder.") from problem
    except (KeyError, TypeError, ValueError, ArithmeticError) as problem:
        raise ModelError(f"{model} lacks a usable {problem}; fetch it again.") from problem


def read_spec(model: Path) -> ModelSpec:
    """What a model computes, from its config.json or its GGUF metadata.

    Raises:
        ModelError: no readable config, an unknown family, or something in the config that the family's file
            does not know.
    """
    family, document = read_family(model)
    try:
        return describe(family, document)
    except Unsupported as problem:
        raise ModelError(f"{model} cannot be described: {problem}; use --runtime torch.") from problem
    except (KeyError, TypeError, ValueError, ArithmeticError) as problem:
        place = model if is_gguf(model) else model / "config.json"
        raise ModelError(f"{place} lacks a usable {problem}; fetch it again.") from problem


def describe(family: Family, document: Mapping[str, Any]) -> ModelSpec:
    """The spec of a config.

    Raises:
        Unsupported: a quantised model, or something that the family's file does not know.
        KeyError, TypeError, ValueError, ArithmeticError: an entry that is missing or impossible, by name.
    """
    if document.get("quantization_config"):
        raise Unsupported("its weights are quantised")
    return family.spec(Config(document))


def open_tensors(model: Path, spec: ModelSpec) -> ModelTensors:
    """The tensors of a directory or GGUF file by our names, checked against its spec.

    Raises:
        ModelError: see `ModelTensors` and `open_source`.
    """
    family = families()[spec.family]
    names = family.tensors
    if is_gguf(model):
        assert family.gguf is not None, "a family with GGUF files"
        names = family.gguf.tensors
    return ModelTensors(open_source(model), spec, names)
