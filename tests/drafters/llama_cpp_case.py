"""A tiny target and an EAGLE-3 head for it, as llama.cpp reads both: what each program drafts is compared."""

import ml_dtypes
import numpy as np

from eyas.drafters.eagle3 import with_embedding
from eyas.drafters.head_export import export_head
from eyas.models.families.common import DRAFT
from eyas.models.spec import llama_stack
from eyas.models.tensors import stack_shapes
from tiny import write_arrays
from tiny_gguf import HEADS, HIDDEN, INTER, KV_HEADS, SIZE, tokens, write_gguf

TAPS = (0, 1, 1)  # llama.cpp wants three, and the target has two layers
DRAFT_IDS = tuple(range(1, len(tokens()), 2))
DEPTH = 4
PROMPTS = [np.random.default_rng(n).integers(3, len(tokens()), 5 + 3 * n).tolist() for n in range(6)]


def write_case(folder):
    """Writes `target.gguf`, `head.gguf` and the folder `head` into a folder."""
    target = write_gguf(folder / "target.gguf", seed=7)
    rng = np.random.default_rng(8)
    stack = llama_stack(
        hidden_size=HIDDEN,
        intermediate_size=INTER,
        num_layers=1,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=SIZE,
        final_norm=False,
    )
    shapes = DRAFT.shapes(stack_shapes(with_embedding(stack, False)))
    shapes |= {"fc.weight": (HIDDEN, 3 * HIDDEN), "norm.weight": (HIDDEN,)}
    shapes |= {"lm_head.weight": (len(DRAFT_IDS), HIDDEN)}
    arrays = {
        name: (0.3 * rng.standard_normal(shape) + (len(shape) == 1))
        .astype(ml_dtypes.bfloat16)
        .astype(np.float32)
        for name, shape in sorted(shapes.items())
    }
    document = {
        "head_kind": "eagle3",
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
        "vocab_size": len(tokens()),
        "max_position_embeddings": 128,
        "eagle_aux_hidden_state_layer_ids": list(TAPS),
    }
    write_arrays(folder / "head", arrays, document, DRAFT_IDS)
    export_head(folder / "head", folder / "head.gguf", "gguf", str(target))
