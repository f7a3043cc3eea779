"""What a grammar costs: `python benchmarks/masks.py MODEL`, for the tokenizer of a model.

Reading the vocabulary happens once a process, reading a schema once, and a mask is computed at each node of a
tree that the target visits or a draft network expands.
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import numpy as np

from eyas.engine.grammar import Grammars
from eyas.engine.structure import StructureConfig
from eyas.models.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "email": {"type": "string", "pattern": "^[a-z.]+@[a-z.]+$"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
        "address": {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]},
    },
    "required": ["name", "age", "email", "tags", "address"],
    "additionalProperties": False,
}
ANSWER = {
    "name": "Juana Azurduy de Padilla",
    "age": 81,
    "email": "juana.azurduy@example.com",
    "tags": ["red", "blue"],
    "address": {"street": "Calle España 43, Sucre"},
}
REPEATS = 5


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file or a directory")
    args = parser.parse_args()
    tokenizer = Tokenizer.load(args.model)
    began = perf_counter()
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    grammars.open(StructureConfig(choice=("a",)), tokenizer.stop_token_ids)
    print(f"{tokenizer.vocab_size} tokens, vocabulary read in {perf_counter() - began:.2f} s")
    ids = tokenizer.encode(json.dumps(ANSWER, ensure_ascii=False), add_special=False)
    for spaces in (None, ""):
        text = (
            ids
            if spaces is None
            else tokenizer.encode(
                json.dumps(ANSWER, ensure_ascii=False, separators=(",", ":")), add_special=False
            )
        )
        masks, rows, first = [], [], 0.0
        logits = np.zeros(tokenizer.vocab_size)
        for _ in range(REPEATS):
            began = perf_counter()
            config = StructureConfig(json_schema=json.dumps(SCHEMA), whitespace_pattern=spaces)
            grammar = grammars.open(config, tokenizer.stop_token_ids)
            assert grammar is not None
            first = first or perf_counter() - began
            for count in range(len(text) + 1):
                began = perf_counter()
                grammar.mask(text[:count])
                masks.append(1e3 * (perf_counter() - began))
                began = perf_counter()
                grammar.restrict(logits.copy(), text[:count], None)
                rows.append(1e3 * (perf_counter() - began))
                assert grammar.num_allowed(text[:count], text[count : count + 1]) == (count < len(text))
                grammar.commit(text[:count])
        form = "as models write it" if spaces is None else "compact"
        print(
            f"JSON {form}: schema read in {1e3 * first:.1f} ms; mask of a node: median "
            f"{np.median(masks):.3f} ms, 95 % below {np.percentile(masks, 95):.3f}, most {max(masks):.2f}; "
            f"applied to float64 logits in NumPy {np.median(rows):.3f} ms"
        )


if __name__ == "__main__":
    main()
