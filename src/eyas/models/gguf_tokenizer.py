"""The tokenizer inside a GGUF file: byte-level BPE, built from lists of tokens and merges.

GGUF names the rule that splits a text before the merges (`tokenizer.ggml.pre`) and says nothing else about
it, so a name that is not known here is an error: a near miss would give other ids now and then.
"""

from collections.abc import Mapping
from typing import Any

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # tokenizer.ggml.token_type
_SPECIAL_NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


def build_tokenizer(fields: Mapping[str, Any]) -> Any:
    """A `tokenizers.Tokenizer` from a GGUF file's metadata.

    Raises:
        ValueError: another kind of tokenizer or an unknown splitting rule, by name.
        KeyError: metadata that is missing.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    splitters = {
        "smollm": [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    }
    kind, rule = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or rule not in splitters:
        raise ValueError(
            f"its tokenizer is {kind!r} with pre-tokenizer {rule!r}; known are 'gpt2' (byte-level BPE) with "
            f"{', '.join(map(repr, splitters))}"
        )
    tokens, types = _tokens(fields)
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    try:
        tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"its merges do not fit its tokens ({error})") from error
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters[rule])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, types, strict=True))
    special = [token for token, kind in kinds if kind in (_UNKNOWN, _CONTROL)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    added = [token for token, kind in kinds if kind == _USER_DEFINED]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    processor = _processor(fields, tokens)
    if processor is not None:
        tokenizer.post_processor = processor
    return tokenizer


def tokenizer_settings(fields: Mapping[str, Any], context_limit: int) -> dict[str, Any]:
    """tokenizer_config.json: special tokens by role, and the chat template."""
    tokens, _ = _tokens(fields)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_limit,
    }
    for name, role in _SPECIAL_NAMES.items():
        if f"tokenizer.ggml.{name}_token_id" in fields:
            settings[f"{role}_token"] = tokens[int(fields[f"tokenizer.ggml.{name}_token_id"])]
    if "tokenizer.chat_template" in fields:
        settings["chat_template"] = fields["tokenizer.chat_template"]
    return settings


def _tokens(fields: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = list(fields["tokenizer.ggml.tokens"])
    types = list(fields["tokenizer.ggml.token_type"])
    if len(set(tokens)) != len(tokens) or len(types) != len(tokens):
        raise ValueError(f"its {len(tokens)} tokens are not all different, or not all have a type")
    ids = [int(fields.get(f"tokenizer.ggml.{name}_token_id", 0)) for name in _SPECIAL_NAMES]
    if max(ids) >= len(tokens):
        raise ValueError(f"it names a special token {max(ids)}, but has {len(tokens)} tokens")
    return tokens, types


def _processor(fields: Mapping[str, Any], tokens: list[str]) -> Any:
    """What adds a BOS before and an EOS behind a text, where the model asks for them; or None."""
    from tokenizers import processors

    pieces, used = ["$A"], []
    if fields.get("tokenizer.ggml.add_bos_token", False):
        used.append(int(fields["tokenizer.ggml.bos_token_id"]))
        pieces.insert(0, tokens[used[-1]])
    if fields.get("tokenizer.ggml.add_eos_token", False):
        used.append(int(fields["tokenizer.ggml.eos_token_id"]))
        pieces.append(tokens[used[-1]])
    if not used:
        return None
    return processors.TemplateProcessing(single=pieces, special_tokens=[(tokens[i], i) for i in used])
