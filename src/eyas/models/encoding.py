"""How a text becomes token ids, and who may write control tokens.

A prompt is made of two things: control tokens (`<|im_end|>`, a BOS), which the chat template writes and which
mean something instead of being text, and texts, which people write. A text that spells a control token stays
text, or anybody could end their own turn and speak in another role. So there are two tokenizers over one
vocabulary: one recognises control tokens in a text, as the published tokenizer does; the other does not.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from eyas.models.special_tokens import is_control_name


class Encoding:
    """Turns texts and rendered chats into ids.

    Args:
        backend: a `tokenizers.Tokenizer`; it is not changed.

    Attributes:
        control: ids of control tokens by name. Other added tokens (Qwen's `<tool_call>`) are words of a text.
    """

    def __init__(self, backend: Any) -> None:
        added = sorted(backend.get_added_tokens_decoder().items())
        self._parsing = backend
        self.control: Mapping[str, int] = {
            token.content: token_id
            for token_id, token in added
            if token.special or is_control_name(token.content)
        }
        self._plain = _without_control(backend, [token for _, token in added], self.control)
        unknown = getattr(backend.model, "unk_token", None)  # may stand for any text
        self._reserved = {token_id for name, token_id in self.control.items() if name != unknown}
        self._trimmed = {token.content: (token.lstrip, token.rstrip) for _, token in added}
        self._lengths = sorted({len(name) for name in self.control}, reverse=True)
        begins = "".join(sorted({name[0] for name in self.control if name}))
        self._begin = re.compile(f"[{re.escape(begins)}]") if begins else None

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a text.

        Args:
            text: any.
            add_special: add the model's own tokens around it, such as a BOS.
            parse_special: make tokens of the control tokens that the text spells.
        """
        if parse_special:
            return list(self._parsing.encode(text, add_special_tokens=add_special).ids)
        encoded = self._plain.encode(text, add_special_tokens=add_special)
        ids: list[int] = []
        for token_id, is_added in zip(encoded.ids, encoded.special_tokens_mask, strict=True):
            ids += [token_id] if is_added else self._as_text(token_id)
        return ids

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """Ids of a rendered chat (`ChatTemplate.render_marked`).

        A control token with a mark in it is text. Where there is no such token, the ids are those that the
        published tokenizer gives to the whole text.
        """
        whole = text.replace(mark, "")
        written = list(self._find(text))
        places = [(start - text.count(mark, 0, start), name) for start, name in written]
        if places == list(self._find(whole)):
            ids = self.encode(whole, add_special=False, parse_special=True)
            reserved = [self.control[name] for _, name in places if self.control[name] in self._reserved]
            if reserved == [token_id for token_id in ids if token_id in self._reserved]:
                return ids
        return self._encode_pieces(text, written, mark)

    def spelled(self, text: str) -> list[str]:
        """The control tokens that a text spells, in order."""
        return [name for _, name in self._find(text)]

    def _encode_pieces(self, text: str, written: list[tuple[int, str]], mark: str) -> list[int]:
        """Ids of a text whose only control tokens are those at the places in `written`."""
        ids, start, trims_left = [], 0, False
        for place, name in [*written, (len(text), "")]:
            piece = text[start:place].replace(mark, "")
            lstrip, rstrip = self._trimmed.get(name, (False, False))
            piece = piece.lstrip() if trims_left else piece
            piece = piece.rstrip() if lstrip else piece
            ids += self.encode(piece, add_special=False, parse_special=False)
            if name:
                ids.append(self.control[name])
            start, trims_left = place + len(name), rstrip
        return ids

    def _find(self, text: str) -> Iterator[tuple[int, str]]:
        """Where a text spells control tokens: from the left, the longest first."""
        end = 0
        for match in self._begin.finditer(text) if self._begin else ():
            start = match.start()
            if start < end:
                continue
            for length in self._lengths:
                name = text[start : start + length]
                if name in self.control:
                    yield start, name
                    end = start + len(name)
                    break

    def _as_text(self, token_id: int) -> list[int]:
        """The token itself, or if it is a control token, which merges may have made, its name in pieces."""
        if token_id not in self._reserved:
            return [token_id]
        name = str(self._plain.id_to_token(token_id))
        pieces = [piece for piece in (name[:1], name[1:]) if piece]
        ids = [token.id for piece in pieces for token in self._plain.model.tokenize(piece)]
        if len(pieces) < 2:
            return [other for other in ids if other not in self._reserved]
        return [part for other in ids for part in self._as_text(other)]


def _without_control(backend: Any, added: list[Any], control: Mapping[str, int]) -> Any:
    """A tokenizer that shares the backend's vocabulary and takes the names of control tokens as text."""
    from tokenizers import AddedToken, Tokenizer

    plain = Tokenizer(backend.model)  # shared, not copied
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        if getattr(backend, part) is not None:
            setattr(plain, part, getattr(backend, part))
    plain.add_tokens(
        [
            AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=token.content in control,
            )
            for token in added
        ]
    )
    plain.encode_special_tokens = True
    return plain
