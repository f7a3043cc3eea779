"""Small vocabularies as the metadata of a GGUF file, and such files with nothing else in them."""

import gguf

from hard_texts import HARD_TEXTS
from reference.tokens import SIGNS, learn_merges

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool_call>", "</tool_call>"]
UNREACHABLE = "Ġunreachable"  # a token that no merges lead to


def learned(count=400):
    """Merges learned from the hard texts, but from none that spells a special token."""
    return learn_merges([text for text in HARD_TEXTS if "<|" not in text and "<tool" not in text], count)


def byte_level(pre, merges, **changes):
    """Byte-level BPE whose merges cross the borders of words, so that every split shows in the ids."""
    learned = dict.fromkeys("".join(pair) for pair in merges)
    tokens = [*SIGNS.values(), *(token for token in learned if token not in SIGNS.values()), UNREACHABLE]
    names = [*tokens, *CONTROL, *USER_DEFINED]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(CONTROL) + [4] * len(USER_DEFINED),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": names.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": names.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
    } | changes


def sentence_piece(**changes):
    """SentencePiece's BPE: bytes, letters, pieces learned from texts; scores fall from piece to piece."""
    texts = [text.replace(" ", "\u2581") for text in HARD_TEXTS if text.isascii() and "<|" not in text]
    letters = sorted({sign for text in texts for sign in text if sign.isprintable()})
    learned = dict.fromkeys("".join(pair) for pair in learn_merges(texts, 300, str))
    pieces = [piece for piece in learned if piece not in letters and piece.isprintable()]
    special, in_bytes = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["  ", "   ", "\n\n"]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) + len(letters)), *[4] * len(words)]
    scores = (
        [0.0] * (3 + 256) + [-float(i) for i in range(len(pieces) + len(letters))] + [-1000.0] * len(words)
    )
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*special, *in_bytes, *pieces, *letters, *words],
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    } | changes


def write_vocabulary(path, fields):
    """A GGUF file of these metadata, without tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in fields.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
