"""Models on disk: where they are, whether they are whole, and what their tokens mean. No framework."""

from eyas.models.catalogue import CATALOGUE
from eyas.models.decoding import StreamDecoder
from eyas.models.fingerprint import base_fingerprint, target_fingerprint
from eyas.models.hub import hub_models, resolve_model
from eyas.models.infill import Infill, Snippet
from eyas.models.progress import Progress, progress_bar, silent
from eyas.models.pull import default_model_dir, ensure_model, pull_from
from eyas.models.sources import is_gguf
from eyas.models.store import (
    StoredModel,
    cache_dir,
    heads_dir,
    installing,
    list_models,
    locked,
    models_dir,
    remove_model,
)
from eyas.models.tokenizer import Tokenizer
from eyas.models.weights import check_model_dir, read_header, read_json, read_tensor, tensor_places

__all__ = [
    "CATALOGUE",
    "Infill",
    "Progress",
    "Snippet",
    "StoredModel",
    "StreamDecoder",
    "Tokenizer",
    "base_fingerprint",
    "cache_dir",
    "check_model_dir",
    "default_model_dir",
    "ensure_model",
    "heads_dir",
    "hub_models",
    "installing",
    "is_gguf",
    "list_models",
    "locked",
    "models_dir",
    "progress_bar",
    "pull_from",
    "read_header",
    "read_json",
    "read_tensor",
    "remove_model",
    "resolve_model",
    "silent",
    "target_fingerprint",
    "tensor_places",
]
