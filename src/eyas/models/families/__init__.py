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
from eyas.models.sources import SafetensorsSource
from eyas.models.spec import ModelSpec
from eyas.models.tensors import ModelTensors, TensorNames
from eyas.models.weights import read_json


@dataclass(frozen=True, kw_only=True)
class GGUFNames:
    """How GGUF files hold a family.

    Attributes:
        architecture: their `general.architecture`.
        tensors: names of their tensors.
        metadata: keys of config.json to metadata keys behind `architecture` and a dot.
        config: entries of config.json that every such file implies.
    """

    architecture: str
    tensors: TensorNames
    metadata: Mapping[str, str]
    config: Mapping[str, Any]


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


def read_spec(model_dir: Path) -> ModelSpec:
    """What the model in a Hugging Face directory computes, from its config.json.

    Raises:
        ModelError: no readable config, an unknown family, or something in the config that the family's file
            does not know.
    """
    document = read_json(model_dir / "config.json")
    try:
        return describe(find_family(document), document)
    except Unsupported as problem:
        raise ModelError(f"{model_dir} cannot be described: {problem}; use --runtime torch.") from problem
    except (KeyError, TypeError, ValueError, ArithmeticError) as problem:
        raise ModelError(f"{model_dir}/config.json lacks a usable {problem}; fetch it again.") from problem
    except ModelError as problem:
        raise ModelError(f"{model_dir}: {problem}; use --runtime torch.") from problem


def describe(family: Family, document: Mapping[str, Any]) -> ModelSpec:
    """The spec of a config.

    Raises:
        Unsupported: a quantised model, or something that the family's file does not know.
        KeyError, TypeError, ValueError, ArithmeticError: an entry that is missing or impossible, by name.
    """
    if document.get("quantization_config"):
        raise Unsupported("its weights are quantised")
    return family.spec(Config(document))


def open_tensors(model_dir: Path, spec: ModelSpec) -> ModelTensors:
    """The tensors of a Hugging Face directory by our names, checked against its spec.

    Raises:
        ModelError: see `ModelTensors` and `SafetensorsSource`.
    """
    return ModelTensors(SafetensorsSource(model_dir), spec, families()[spec.family].tensors)
