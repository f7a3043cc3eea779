"""Lossless acceleration of language-model generation with EAGLE-2 dynamic draft trees.

    import eyas
    llm = eyas.load()
    print(llm.generate("Explain tides.", max_new_tokens=128).text)

Importing eyas imports neither torch nor transformers; a runtime that needs them says so when it is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyas.api.answer import Answer
    from eyas.api.llm import LLM, load
    from eyas.errors import EyasError
    from eyas.models.infill import Infill, Snippet

__all__ = ["LLM", "Answer", "EyasError", "Infill", "Snippet", "__version__", "load"]
__version__ = "0.1.0"

_HOMES = {
    "LLM": "eyas.api.llm",
    "Answer": "eyas.api.answer",
    "load": "eyas.api.llm",
    "EyasError": "eyas.errors",
    "Infill": "eyas.models.infill",
    "Snippet": "eyas.models.infill",
}


def __getattr__(name: str) -> Any:
    """Import public names at first use: a tool that needs `eyas.engine.tree` alone loads nothing else."""
    if name not in _HOMES:
        raise AttributeError(f"module 'eyas' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
