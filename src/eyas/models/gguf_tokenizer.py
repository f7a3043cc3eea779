"""The tokenizer inside a GGUF file, rebuilt for the library `tokenizers`.

GGUF holds a vocabulary with a type for each token, and names one of three kinds of rules
(`tokenizer.ggml.model`):

* gpt2: byte-level BPE. The merges are listed; the rule that splits a text before them is named
  (pre_tokenizers.py).
* llama: SentencePiece's BPE. Instead of merges each piece has a score; a space is written as U+2581, and what
  has no piece becomes bytes (`<0xE2>`).
* t5: SentencePiece's unigram model, with spaces and bytes as in llama.

Where llama.cpp differs from a model's original tokenizer, the original counts (docs/tokenizers.md has them).
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from eyas.models.pre_tokenizers import SPLIT_RULES, make_pre_tokenizer
from eyas.models.special_tokens import end_token_ids, fim_token_ids, is_control_name

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # tokenizer.ggml.token_type
_SPACE = "\u2581"
_NO_TOKEN = 2**32 - 1  # the id that some writers give for "none"
_TEMPLATE = "tokenizer.chat_template"

# Names of special tokens in the metadata: by role in a chat template, ends, and for filling in the middle.
_ROLES = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
    "seperator": "sep_token",  # as GGUF spells it
    "mask": "mask_token",
}
_ENDS = ("eos", "eot", "eom")
_FIM = {
    "prefix": "prefix",  # of old files
    "suffix": "suffix",
    "middle": "middle",
    "fim_pre": "prefix",
    "fim_suf": "suffix",
    "fim_mid": "middle",
    "fim_pad": "pad",
    "fim_rep": "repo",
    "fim_sep": "file",
}


class GGUFTokenizer:
    """The tokenizer that a GGUF file's metadata describe; ids are places in the list of tokens.

    Args:
        fields: metadata by key.

    Raises:
        KeyError: metadata that are missing, by key.
        ValueError: another kind of tokenizer; tokens that are not all different; ids beyond the last token.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._kind = fields["tokenizer.ggml.model"]
        if self._kind not in _KINDS:
            raise ValueError(f"its tokenizer is of the kind {self._kind!r}; known are {_listed(_KINDS)}")
        self.tokens: list[str] = self._list("tokens", str)
        if "tokenizer.ggml.token_type" in fields:
            self._types = self._list("token_type", int)
        else:
            self._types = [_NORMAL] * len(self.tokens)
        self._ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens) or len(self._types) != len(self.tokens):
            raise ValueError(f"its {len(self.tokens)} tokens are not all different, or not all have a type")
        for name in (*_ROLES, *_ENDS, *_FIM):
            token_id = self._named(name)
            if token_id is not None and not 0 <= token_id < len(self.tokens):
                raise ValueError(f"it names a special token {token_id}, but has {len(self.tokens)} tokens")

    def build(self) -> Any:
        """A `tokenizers.Tokenizer`.

        Raises:
            KeyError: metadata that are missing, by key.
            ValueError: an unknown splitting rule, by name; merges or scores that do not fit the tokens.
        """
        try:
            tokenizer = _KINDS[self._kind](self)
        except (KeyError, TypeError, ValueError):
            raise
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"its merges do not fit its tokens ({error})") from error
        self._add_tokens(tokenizer)
        return tokenizer

    def settings(self, context_limit: int | None = None) -> dict[str, Any]:
        """tokenizer_config.json: special tokens by role, and the chat templates."""
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        if context_limit is not None:
            settings["model_max_length"] = context_limit
        for name, role in _ROLES.items():
            token_id = self._named(name)
            if token_id is not None:
                settings[role] = self.tokens[token_id]
        templates = self.chat_templates
        if list(templates) == ["default"]:
            settings["chat_template"] = templates["default"]
        elif templates:
            settings["chat_template"] = [{"name": key, "template": text} for key, text in templates.items()]
        return settings

    @property
    def chat_templates(self) -> dict[str, str]:
        """The file's chat templates by name; the usual one is "default"."""
        templates = {"default": self._fields[_TEMPLATE]} if _TEMPLATE in self._fields else {}
        for key in self._fields:  # not its items: they would all be decoded
            if key.startswith(f"{_TEMPLATE}."):
                templates.setdefault(key.removeprefix(f"{_TEMPLATE}."), self._fields[key])
        return templates

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: EOS, end of turn and of message, by metadata and by name."""
        given = [self._named(name) for name in _ENDS]
        return end_token_ids(self._control, [token_id for token_id in given if token_id is not None])

    @property
    def fim_ids(self) -> dict[str, int]:
        """The fill-in-the-middle tokens by part: prefix, suffix, middle, pad, repo, file."""
        given = ((part, self._named(name)) for name, part in _FIM.items())
        return fim_token_ids(self._control, {part: i for part, i in given if i is not None})

    @cached_property
    def _control(self) -> dict[str, int]:
        """Tokens that mean something: by type, or by a name that some writers gave another type."""
        by_name = (_NORMAL, _USER_DEFINED)
        return {
            token: token_id
            for token_id, (token, kind) in enumerate(zip(self.tokens, self._types, strict=True))
            if kind in (_UNKNOWN, _CONTROL) or (kind in by_name and is_control_name(token))
        }

    def _of_type(self, kind: int) -> list[int]:
        """The ids of a type, without control tokens."""
        return [
            token_id
            for token_id, (token, own) in enumerate(zip(self.tokens, self._types, strict=True))
            if own == kind and token not in self._control
        ]

    def _named(self, name: str) -> int | None:
        """The id of a special token that the metadata give; None without one."""
        token_id = self._fields.get(f"tokenizer.ggml.{name}_token_id", _NO_TOKEN)
        return None if int(token_id) == _NO_TOKEN else int(token_id)

    def _flag(self, name: str, default: bool) -> bool:
        return bool(self._fields.get(f"tokenizer.ggml.{name}", default))

    def _list(self, name: str, kind: type | tuple[type, ...]) -> list[Any]:
        values = self._fields[f"tokenizer.ggml.{name}"]
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise ValueError(f"tokenizer.ggml.{name} is not the list that it should be")
        return values

    def _byte_level(self) -> Any:
        """Byte-level BPE."""
        from tokenizers import Tokenizer, decoders, models, normalizers

        name = self._fields.get("tokenizer.ggml.pre")
        if name is None:
            raise ValueError("it does not say how a text is split (tokenizer.ggml.pre); get a newer file")
        if name not in SPLIT_RULES:
            raise ValueError(f"it has the pre-tokenizer {name!r}; known are {_listed(SPLIT_RULES)}")
        rule = SPLIT_RULES[name]
        merges = [tuple(merge.split(" ", 1)) for merge in self._list("merges", str)]
        if not all(len(pair) == 2 for pair in merges):
            raise ValueError("its merges do not fit its tokens (one is no pair)")
        tokenizer = Tokenizer(models.BPE(self._ids, merges, ignore_merges=rule.ignore_merges))
        if rule.nfc:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = make_pre_tokenizer(rule)
        tokenizer.decoder = decoders.ByteLevel()
        self._add_ends(tokenizer, add_bos=rule.add_bos)
        return tokenizer

    def _sentence_piece(self) -> Any:
        """SentencePiece's BPE, its scores as merges."""
        from tokenizers import Tokenizer, models

        unknown = self._named("unknown")
        name = None if unknown is None else self.tokens[unknown]
        merges = self._merges_of_scores()
        model = models.BPE(self._ids, merges, unk_token=name, fuse_unk=True, byte_fallback=True)
        tokenizer = Tokenizer(model)
        self._add_space_rules(tokenizer)
        self._add_ends(tokenizer, add_bos=True)
        return tokenizer

    def _unigram(self) -> Any:
        """SentencePiece's unigram model."""
        from tokenizers import Tokenizer, models, normalizers

        has_bytes = all(f"<0x{byte:02X}>" in self._ids for byte in range(256))
        pieces = list(zip(self.tokens, self._scores(), strict=True))
        tokenizer = Tokenizer(models.Unigram(pieces, self._named("unknown"), has_bytes))
        characters = bytes(int(byte) & 0xFF for byte in self._fields.get(_CHARSMAP, ()))
        self._add_space_rules(tokenizer, [normalizers.Precompiled(characters)] if characters else [])
        self._add_ends(tokenizer, add_eos=True)
        return tokenizer

    def _scores(self) -> list[float]:
        scores = [float(score) for score in self._list("scores", (int, float))]
        if len(scores) != len(self.tokens):
            raise ValueError(f"it has {len(scores)} scores for {len(self.tokens)} tokens")
        return scores

    def _merges_of_scores(self) -> list[tuple[str, str]]:
        """The merges that SentencePiece's scores amount to, best first.

        A pair is as good as the piece that it makes, so each cut of a piece into two others is a merge with
        the piece's score. Only normal pieces take part: no text becomes a control token by merging.
        """
        scores, normal = self._scores(), self._of_type(_NORMAL)
        pieces = {self.tokens[token_id] for token_id in normal}
        merges = []
        for piece in (self.tokens[i] for i in sorted(normal, key=lambda i: -scores[i])):
            for cut in range(len(piece) - 1, 0, -1):
                left = piece[:cut]
                if left in pieces and piece[cut:] in pieces:
                    merges.append((left, piece[cut:]))
        return merges

    def _add_space_rules(self, tokenizer: Any, first: Iterable[Any] = ()) -> None:
        """Spaces as U+2581 on the way in, and back on the way out; a text may get one at its begin."""
        from tokenizers import Regex, decoders, normalizers

        steps, has_prefix = list(first), self._flag("add_space_prefix", True)
        if self._flag("remove_extra_whitespaces", False):
            steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
        if has_prefix:
            steps.append(normalizers.Prepend(_SPACE))
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
        back = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if has_prefix else back)

    def _add_tokens(self, tokenizer: Any) -> None:
        """Tokens that are found in a text before anything else."""
        from tokenizers import AddedToken

        # Phi-3's tokenizer drops white space behind most control tokens; no metadata say so.
        is_phi3 = self._kind == "llama" and self._fields.get("general.architecture") == "phi3"
        keeping = {"<unk>", "<s>", "<|endoftext|>"}
        tokenizer.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False, rstrip=is_phi3 and token not in keeping)
                for token in self._control
            ]
        )
        words = [self.tokens[token_id] for token_id in self._of_type(_USER_DEFINED)]
        tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])

    def _add_ends(self, tokenizer: Any, *, add_bos: bool = False, add_eos: bool = False) -> None:
        """A BOS before and an EOS behind a text, where the file or else the kind asks for them."""
        from tokenizers import processors

        pieces, used = ["$A"], []
        for name, is_usual, place in (("bos", add_bos, 0), ("eos", add_eos, 2)):
            if self._flag(f"add_{name}_token", is_usual):
                token_id = self._named(name)
                if token_id is None:
                    raise ValueError(f"it puts a {name.upper()} token to each text, but names none")
                pieces.insert(place, self.tokens[token_id])
                used.append((self.tokens[token_id], token_id))
        if used:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=pieces, special_tokens=list(dict.fromkeys(used))
            )


_CHARSMAP = "tokenizer.ggml.precompiled_charsmap"
_KINDS = {
    "gpt2": GGUFTokenizer._byte_level,
    "llama": GGUFTokenizer._sentence_piece,
    "t5": GGUFTokenizer._unigram,
}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
