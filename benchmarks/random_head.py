"""Write an EAGLE head of random weights for a model: it drafts nonsense, and the ids must stay the same.

python benchmarks/random_head.py MODEL OUT
"""

import sys
from pathlib import Path

import numpy as np

from eyas.drafters.eagle_head import EAGLE
from eyas.drafters.heads import HeadFile, write_head
from eyas.models import resolve_model, target_fingerprint
from eyas.models.families import read_spec

DRAFT_IDS = np.arange(4000)  # of its draft vocabulary


def main() -> None:
    """One layer, as wide as the model, 8 heads."""
    model, out = resolve_model(sys.argv[1]), Path(sys.argv[2])
    spec = read_spec(model)
    document = {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.hidden_size,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": spec.vocab_size,
        "rms_norm_eps": 1e-6,
        "target_fingerprint": target_fingerprint(model),
    }
    generator = np.random.default_rng(0)
    shapes = EAGLE.tensors(EAGLE.config(HeadFile(out, document, {}, DRAFT_IDS)))
    weights = {
        name: (generator.normal(0, 0.02, shape) + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    write_head(EAGLE, out, weights, document, DRAFT_IDS)


if __name__ == "__main__":
    main()
