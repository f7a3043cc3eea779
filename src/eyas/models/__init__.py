"""Models on disk: where they are, whether they are whole, and what their tokens mean. No framework."""

from eyas.models.decoding import StreamDecoder
from eyas.models.default_model import default_model_dir, ensure_default_model, pull_from
from eyas.models.draft_lm_checkpoint import (
    DraftLMCheckpoint,
    is_draft_lm,
    read_draft_lm_checkpoint,
    write_draft_lm_checkpoint,
)
from eyas.models.eagle_checkpoint import (
    EagleCheckpoint,
    export_plain,
    read_eagle_checkpoint,
    write_eagle_checkpoint,
)
from eyas.models.fingerprint import target_fingerprint
from eyas.models.hub import resolve_model
from eyas.models.hydra_checkpoint import HydraCheckpoint, read_hydra_checkpoint, write_hydra_checkpoint
from eyas.models.medusa_checkpoint import MedusaCheckpoint, read_medusa_checkpoint, write_medusa_checkpoint
from eyas.models.network_files import read_head_fingerprint
from eyas.models.progress import Progress, progress_bar, silent
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
    "DraftLMCheckpoint",
    "EagleCheckpoint",
    "HydraCheckpoint",
    "MedusaCheckpoint",
    "Progress",
    "StoredModel",
    "StreamDecoder",
    "Tokenizer",
    "cache_dir",
    "check_model_dir",
    "default_model_dir",
    "ensure_default_model",
    "export_plain",
    "heads_dir",
    "installing",
    "is_draft_lm",
    "list_models",
    "locked",
    "models_dir",
    "progress_bar",
    "pull_from",
    "read_draft_lm_checkpoint",
    "read_eagle_checkpoint",
    "read_head_fingerprint",
    "read_header",
    "read_hydra_checkpoint",
    "read_json",
    "read_medusa_checkpoint",
    "read_tensor",
    "remove_model",
    "resolve_model",
    "silent",
    "target_fingerprint",
    "tensor_places",
    "write_draft_lm_checkpoint",
    "write_eagle_checkpoint",
    "write_hydra_checkpoint",
    "write_medusa_checkpoint",
]
