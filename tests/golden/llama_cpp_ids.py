"""Asks llama.cpp for the ids of the hard texts, and keeps them in golden files beside this script.

    python -m venv llama && llama/bin/pip install llama-cpp-python==0.3.36 gguf regex
    PYTHONPATH=tests:tests/models llama/bin/python tests/golden/llama_cpp_ids.py [MODEL.gguf ...]

It takes minutes to compile, so tests compare with what is kept here (tests/models/test_llama_cpp_ids.py).
Small vocabularies are those of tests/models/tiny_vocabularies.py; of a model's file only the vocabulary is
read, and its ids are kept under its name.
"""

import json
import sys
import tempfile
from pathlib import Path

import llama_cpp
from tiny_vocabularies import byte_level, learned, sentence_piece, write_vocabulary

from hard_texts import DIGEST, HARD_TEXTS

HERE = Path(__file__).parent
# Names of pre-tokenizers that eyas knows and llama.cpp too.
NAMES = (
    *("command-r", "dbrx", "deepseek-coder", "deepseek-llm", "deepseek-r1-qwen", "deepseek-v3", "default"),
    *(
        "falcon",
        "gpt-2",
        "gpt-4o",
        "llama-bpe",
        "llama3",
        "llama-v3",
        "llama4",
        "mpt",
        "olmo",
        "phi-2",
        "qwen2",
    ),
    *("qwen35", "refact", "smollm", "starcoder", "tekken"),
)


def ids_of(path):
    """Each text's ids as text and, where they are others, with control tokens parsed; None if it cannot."""
    try:
        model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    except ValueError as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        return None
    texts = [text.encode() for text in HARD_TEXTS]
    pairs = [
        [model.tokenize(text, add_bos=False, special=parse) for parse in (False, True)] for text in texts
    ]
    return [[plain] if plain == parsed else [plain, parsed] for plain, parsed in pairs]


def keep(name, vocabularies):
    """Write the ids of some vocabularies, a line for each text."""
    rows = [
        f"{json.dumps(key)}: [\n"
        + ",\n".join(json.dumps(ids, separators=(",", ":")) for ids in texts)
        + "\n]"
        for key, texts in vocabularies.items()
    ]
    head = f'"llama_cpp_python": "{llama_cpp.__version__}", "texts": "{DIGEST}"'
    path = HERE / f"tokens_{name}.json"
    path.write_text(f'{{{head}, "ids": {{\n' + ",\n".join(rows) + "\n}}\n")
    print(path, path.stat().st_size)


def main():
    merges = learned()
    with tempfile.TemporaryDirectory() as folder:
        made = {
            pre: ids_of(write_vocabulary(Path(folder) / f"{pre}.gguf", byte_level(pre, merges)))
            for pre in NAMES
        }
        for prefix in (True, False):
            fields = sentence_piece(**{"tokenizer.ggml.add_space_prefix": prefix})
            name = "sentence-piece" if prefix else "sentence-piece without prefix"
            made[name] = ids_of(write_vocabulary(Path(folder) / f"spm{prefix}.gguf", fields))
    keep("small", {name: ids for name, ids in made.items() if ids is not None})
    for path in map(Path, sys.argv[1:]):
        keep(path.stem, {path.stem: ids_of(path)})


if __name__ == "__main__":
    main()
