"""Lossless acceleration of language-model generation with EAGLE-2 dynamic draft trees.

    import eyas
    llm = eyas.load()
    print(llm.generate("Explain tides.", max_new_tokens=128).text)

Importing eyas imports neither torch nor transformers; a runtime that needs them says so when it is loaded.
"""

from eyas.api import LLM, Answer, load
from eyas.errors import EyasError

__all__ = ["LLM", "Answer", "EyasError", "__version__", "load"]
__version__ = "0.1.0"
