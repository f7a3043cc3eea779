"""Text of an answer, released token by token as soon as later tokens cannot change it.

The pieces, joined, equal the decoding of all ids at once, although a token's text may depend on its
neighbours. Three cases occur in practice:

* Byte-level BPE (GPT-2, Llama 3, Qwen): a token is some bytes, maybe a part of a character. The bytes go
  through an incremental UTF-8 decoder, which holds back at most three.
* Byte fallback (Llama 2, Mistral, Gemma): tokens such as <0xE2> stand for bytes, and a run of them becomes
  replacement characters, all of it, if it is not valid UTF-8 as a whole. So a run is released when it ends.
* A leading space that only the first token loses. Later tokens are decoded behind an anchor, a token with
  visible text, which is then removed.

Each push costs one short decode, however long the answer is.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

_REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class StreamDecoder(Protocol):
    """Decodes one answer."""

    def push(self, token_id: int) -> str:
        """Text that this token releases; special tokens have none."""
        ...

    def flush(self) -> str:
        """The rest of the text at the end, incomplete UTF-8 as replacement characters."""
        ...


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a tokenizer turns tokens into text, found once and shared by its streams.

    Attributes:
        backend: a `tokenizers.Tokenizer`.
        byte_level: every token is bytes, and nothing else happens.
        byte_fallback: tokens such as <0xE2> stand for bytes.
        anchor: a token with visible text.
        special_ids: tokens without text of their own.
    """

    backend: Any = field(repr=False)
    byte_level: bool
    byte_fallback: bool
    anchor: int
    special_ids: frozenset[int]
    _bytes: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)  # of tokens asked for

    @classmethod
    def of(cls, backend: Any) -> "Decoding":
        """Read the decoder that a tokenizer declares."""
        steps = list(_steps(json.loads(backend.decoder.__getstate__()) if backend.decoder else None))
        byte_level = bool(steps) and set(steps) == {"ByteLevel"}
        added = backend.get_added_tokens_decoder()
        special = frozenset(token_id for token_id, token in added.items() if token.special)
        anchor = -1 if byte_level else _find_anchor(backend, special)
        return cls(backend, byte_level, "ByteFallback" in steps, anchor, special)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none of an unknown id."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._find_bytes(token_id)
        return known

    def _find_bytes(self, token_id: int) -> bytes:
        token = self.backend.id_to_token(token_id)
        if token is None:
            return b""
        if self.byte_level:
            return _token_bytes(token)
        if self.byte_fallback and _BYTE_TOKEN.fullmatch(token):
            return bytes([int(token[1:-1], 16)])
        return self.token_text(token_id).encode()

    def token_text(self, token_id: int) -> str:
        """A token's text behind others, where it keeps a leading space; a special one's name."""
        before = [self.anchor] if self.anchor >= 0 and token_id not in self.special_ids else []
        start = len(self.backend.decode(before))
        return str(self.backend.decode([*before, token_id], skip_special_tokens=False))[start:]

    def stream(self, shown: Mapping[int, str] | None = None) -> StreamDecoder:
        """A decoder for one answer, in whose text these special tokens stand by name."""
        stream = ByteStream(self) if self.byte_level else AnchoredStream(self)
        return ShowingStream(stream, shown) if shown else stream


class ByteStream:
    """Byte-level BPE: each token's bytes through an incremental UTF-8 decoder."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """See `StreamDecoder`."""
        if token_id in self._decoding.special_ids:
            return ""
        return self._utf8.decode(self._decoding.token_bytes(token_id))

    def flush(self) -> str:
        """See `StreamDecoder`."""
        return self._utf8.decode(b"", final=True)


class AnchoredStream:
    """Any other tokenizer: the held tokens, decoded behind the anchor once some text is out."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._anchor: list[int] = []  # empty until the first text is out
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """See `StreamDecoder`."""
        backend = self._decoding.backend
        token = None if token_id in self._decoding.special_ids else backend.id_to_token(token_id)
        if token is None:
            return ""
        self._held.append(token_id)
        if self._decoding.byte_fallback and _BYTE_TOKEN.fullmatch(token):
            return ""
        text = self._text()
        # Without byte fallback, a replacement at the end may be a character whose other half is to come.
        if not text or (text.endswith(_REPLACEMENT) and not self._decoding.byte_fallback):
            return ""
        return self._release(text)

    def flush(self) -> str:
        """See `StreamDecoder`."""
        return self._release(self._text())

    def _text(self) -> str:
        backend = self._decoding.backend
        start = len(backend.decode(self._anchor)) if self._anchor else 0
        return str(backend.decode([*self._anchor, *self._held]))[start:]

    def _release(self, text: str) -> str:
        self._held = []
        if text and self._decoding.anchor >= 0:
            self._anchor = [self._decoding.anchor]
        return text


class ShowingStream:
    """Another decoder's text, with the names of some special tokens in their places."""

    def __init__(self, stream: StreamDecoder, shown: Mapping[int, str]) -> None:
        self._stream = stream
        self._shown = shown

    def push(self, token_id: int) -> str:
        """See `StreamDecoder`."""
        name = self._shown.get(token_id)
        return self._stream.push(token_id) if name is None else self._stream.flush() + name

    def flush(self) -> str:
        """See `StreamDecoder`."""
        return self._stream.flush()


def _steps(decoder: Any) -> Iterator[str]:
    """Types of a decoder's steps, sequences opened."""
    if not decoder:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder["type"]


def _find_anchor(backend: Any, special: frozenset[int]) -> int:
    """A token whose text is the same wherever it stands: letters if there are any; -1 without one."""
    other = -1
    for token_id in range(backend.get_vocab_size()):
        token = backend.id_to_token(token_id)
        if token is None or token_id in special or _BYTE_TOKEN.fullmatch(token):
            continue
        if token.isascii() and token.isalpha():
            return token_id
        if other < 0 and token.isprintable() and "\u2581" not in token:
            other = token_id
    return other


def _byte_of_sign() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes of Latin-1 stand for themselves, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _byte_of_sign()


def _token_bytes(token: str) -> bytes:
    """A token's bytes; an added token that is not written in the alphabet is its own text."""
    try:
        return bytes([_BYTES[sign] for sign in token])
    except KeyError:
        return token.encode()
