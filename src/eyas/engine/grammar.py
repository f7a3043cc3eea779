"""Structured output: which tokens may follow, at every node of a draft tree.

A grammar is read for a model's tokens (`Grammars`), and each answer follows its own (`Grammar`). It is a
processor like the others, and the first of them (docs/laws.md, L3): before anything else, the logits of
tokens that it forbids after the prefix of a path become -inf. So an answer that is drafted has the ids of the
one that is decoded plainly under the same grammar. Besides it says what follows for certain, which is drafted
for nothing.

The library llguidance reads the grammars and computes the masks, bits over the vocabulary. It comes with the
extra `grammar` and is imported at the first grammar.
"""

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eyas.engine.structure import StructureConfig
from eyas.engine.tree import Floats, Ints, Prefix, before_stop
from eyas.errors import ConfigError

if TYPE_CHECKING:
    import llguidance

WHITESPACE = r" |\n[ \t]{0,40}"  # of JSON: what models write, and no endless run of it
# In JSON strings. An escape such as \u0061 would be another way to write a property's name, past its schema.
ESCAPES = 'bfnrt"\\\\'
COMPILER_STACK = 2**28  # bytes: rules that refer to each other are read by recursion
# The library's limits that are not its own defaults: states of an answer's automaton, 1 to 2 kB each.
LIMITS: dict[str, Any] = {"max_lexer_states": 50_000}
_SHORT = 200  # characters of a message
_REMEDY = "; simplify it."
_NO_TOKEN = "no token of the model begins with a text that has to follow"


class GrammarTokenizer(Protocol):
    """What a grammar needs to know of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def control_names(self) -> Mapping[str, int]:
        """Ids of control tokens by name, which are no text."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Whether a token has no text of its own."""
        ...

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Ids of a text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for."""
        ...


class Grammars:
    """Reads grammars for a model's tokens. Several threads may use one.

    Args:
        tokenizer: of the model.
        vocab_size: V, of its logits; ids that the tokenizer does not know are never allowed.
    """

    def __init__(self, tokenizer: GrammarTokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._lock = threading.Lock()

    def open(self, config: StructureConfig, end_ids: Iterable[int]) -> "Grammar | None":
        """The grammar of one answer, which ends with one of `end_ids`; None where the answer is free.

        Raises:
            ConfigError: the grammar cannot be read, or an answer could not end.
        """
        kind = config.kind
        if kind is None:
            return None
        ends = [token_id for token_id in end_ids if 0 <= token_id < self._vocab_size]
        if not ends:
            raise ConfigError(
                f"{kind} needs a stop token, and the model has none; give one with stop_token_ids."
            )
        return Grammar(self._reader(config), self._vocab_size, ends, kind)

    def _reader(self, config: StructureConfig) -> "Callable[[], llguidance.LLMatcher]":
        """Makes matchers of a grammar; no two share an automaton, so none meets the limits of another."""
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError:
            raise ConfigError(
                f"{config.kind} needs the package llguidance; install it with `pip install 'eyas[grammar]'`."
            ) from None
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = _vocabulary(self._tokenizer, self._vocab_size)
        vocabulary, source = self._vocabulary, _source(config)
        limits = LLParserLimits(verbose_errors=False, **LIMITS)

        def read() -> LLMatcher:
            matcher = _with_large_stack(lambda: LLMatcher(vocabulary, source, log_level=0, limits=limits))
            if not matcher.is_error():
                matcher.compute_bitmask()  # what allows no text at all shows here
            if matcher.is_error():
                raise ConfigError(f"{config.kind} cannot be used: {_explained(matcher.get_error(), config)}")
            return matcher

        return read


class _LimitError(Exception):
    """The library met one of its limits: the matcher and its copies are of no more use."""


class Grammar:
    """The grammar of one answer: which tokens may follow any prefix of it.

    Every method takes `generated`, the answer up to and including a node's token, and depends on nothing
    else. A prefix that the grammar does not allow itself, such as one in Lookahead's window, allows
    everything.

    A matcher only goes forward: each node of a tree has a copy of its parent's. (Taken back by the library's
    `rollback`, one can allow what belongs to the path that it left: version 1.9.1.)

    Args:
        read: gives a matcher before the first token.
        vocab_size: V.
        end_ids: tokens that end an answer, at least one: allowed where the grammar accepts the text so far,
            and nowhere else.
        kind: of the grammar, for messages.
    """

    def __init__(
        self,
        read: "Callable[[], llguidance.LLMatcher]",
        vocab_size: int,
        end_ids: Sequence[int],
        kind: str,
    ) -> None:
        self._new_matcher = read
        self._vocab_size = vocab_size
        is_end = np.zeros(vocab_size, dtype=np.bool_)
        is_end[list(end_ids)] = True
        self._ends = np.packbits(is_end, bitorder="little")
        self._end_ids = frozenset(end_ids)
        self._kind = kind
        self._certain: list[int] = []  # tokens that all prefixes to come begin with
        # By the path behind these:
        self._matchers: dict[tuple[int, ...], llguidance.LLMatcher] = {(): read()}
        self._masks: dict[tuple[int, ...], NDArray[np.uint8]] = {}
        self._errors: dict[tuple[int, ...], str] = {}

    def mask(self, generated: Sequence[int]) -> NDArray[np.uint8]:
        """(ceil(V / 8),) a bit for each token, the lowest id in the lowest bit: 1 where it may follow.

        None may where the library met one of its limits, and where the vocabulary has no token that fits.
        """
        return self._mask(self._behind(generated))

    def require(self, generated: Sequence[int]) -> None:
        """Raise ConfigError where no token may follow."""
        if self.mask(generated).any():
            return
        reason = self._errors.get(self._behind(generated))
        if reason is not None:
            raise ConfigError(f"{self._kind} cannot be followed behind the answer so far: {reason}{_REMEDY}")
        raise ConfigError(f"{self._kind} allows no token of this model behind the answer so far.")

    def restrict(self, row: Floats, generated: Sequence[int], columns: Ints | None) -> None:
        """Make the logits (M,) of forbidden tokens -inf, in place; `columns` as in `Sampler.scores`."""
        bits = np.unpackbits(self.mask(generated), count=self._vocab_size, bitorder="little")
        row[(bits if columns is None else bits[columns]) == 0] = -np.inf

    def num_allowed(self, generated: Sequence[int], token_ids: Sequence[int]) -> int:
        """How many of these tokens, one behind the other, may follow."""
        path = self._behind(generated)
        for at, token in enumerate(token_ids):
            if not _has(self._mask(path), token):
                return at
            path = (*path, token)
        return len(token_ids)

    def forced(self, generated: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens of which each is the only one that may follow the one before."""
        try:
            matcher = self._matcher(self._behind(generated))
            found = [] if matcher is None else matcher.compute_ff_tokens()[: max(0, most)]
            if matcher is not None and matcher.is_error():
                raise _LimitError
        except _LimitError:  # `require` tells, should the answer get there
            self._restart()
            return []
        return list(takewhile(lambda token: token < self._vocab_size and token not in self._end_ids, found))

    def commit(self, generated: Sequence[int]) -> None:
        """This much of the answer is certain: all prefixes to come begin with it."""
        text = before_stop(self._behind(generated), self._end_ids)
        matcher = self._matchers[()]
        count = matcher.try_consume_tokens(list(text)) if text else 0
        self._certain += text
        self._matchers, self._masks, self._errors = {(): matcher}, {}, {}
        if count < len(text):
            self._restart()

    def _behind(self, generated: Sequence[int]) -> tuple[int, ...]:
        """What follows the certain tokens."""
        if isinstance(generated, Prefix):
            return generated.after(len(self._certain))
        return tuple(generated[len(self._certain) :])

    def _mask(self, path: tuple[int, ...]) -> NDArray[np.uint8]:
        """`mask` behind the certain tokens and a path."""
        found = self._masks.get(path)
        if found is None:
            found = self._masks[path] = self._compute(path)
        return found

    def _matcher(self, path: tuple[int, ...]) -> "llguidance.LLMatcher | None":
        """A matcher behind a path; None where the grammar forbids one of its tokens."""
        known = len(path)
        while path[:known] not in self._matchers:
            known -= 1
        for at in range(known, len(path)):
            above, token = path[:at], path[at]
            if token in self._end_ids or not _has(self._mask(above), token):
                if above in self._errors:
                    raise _LimitError(self._errors[above])
                return None
            matcher = self._matchers[above].deep_copy()
            if not matcher.try_consume_tokens([token]):
                raise _LimitError(matcher.get_error())
            self._matchers[path[: at + 1]] = matcher
        return self._matchers[path]

    def _compute(self, path: tuple[int, ...]) -> NDArray[np.uint8]:
        size = (self._vocab_size + 7) // 8
        for _ in range(2):  # other paths may have met the limit: then a fresh matcher goes on
            try:
                matcher = self._matcher(path)
                if matcher is None:
                    return np.full(size, 0xFF, dtype=np.uint8)
                words = bytearray(matcher.compute_bitmask())
                if not matcher.is_error():
                    break
                reason = matcher.get_error()
            except _LimitError as error:
                reason = str(error)
            self._restart()
        else:
            has_none = _NO_TOKEN in reason or reason.startswith("NoExtension")
            self._errors[path] = _NO_TOKEN if has_none else _short(reason.partition("\n")[0])
            return np.zeros(size, dtype=np.uint8)
        mask = np.frombuffer(words, dtype=np.uint8)[:size]
        mask &= ~self._ends
        if matcher.is_accepting():
            mask |= self._ends
        if self._vocab_size & 7:
            mask[-1] &= (1 << (self._vocab_size & 7)) - 1  # tokens that the logits do not have
        return mask

    def _restart(self) -> None:
        """Begin again with a matcher whose automaton is empty."""
        matcher = self._new_matcher()
        if self._certain:
            matcher.try_consume_tokens(self._certain)
        self._matchers = {(): matcher}


def _has(mask: NDArray[np.uint8], token_id: int) -> bool:
    """Whether a mask allows a token."""
    return bool(mask[token_id >> 3] >> (token_id & 7) & 1)


def _source(config: StructureConfig) -> str:
    """A grammar as llguidance reads it."""
    from llguidance import LLMatcher, grammar_from

    try:
        if config.json_schema is not None:
            schema = _checked(config.json_schema)
            spaces = WHITESPACE if config.whitespace_pattern is None else config.whitespace_pattern
            settings: Any = {"whitespace_pattern": spaces} if spaces else {"whitespace_flexible": False}
            settings["json_allowed_escapes"] = ESCAPES
            return LLMatcher.grammar_from_json_schema(schema, overrides=settings)
        if config.grammar is not None:
            return grammar_from("grammar", config.grammar)
        if config.regex is not None:
            return LLMatcher.grammar_from_regex(config.regex)
        return grammar_from("choice", json.dumps(config.choice))
    except (ValueError, RecursionError) as error:
        reason = str(error).removeprefix("Failed to convert the grammar from GBNF to Lark: ")
        raise ConfigError(f"{config.kind} cannot be read: {_short(reason)}.") from None


def _explained(message: str, config: StructureConfig) -> str:
    """An error of the library in one line, with its place."""
    first, _, rest = message.partition("\n")
    if config.regex is not None and (reason := re.search(r"error: (.+)", rest)):
        caret = re.search(r"^ {4}( *)\^", rest, re.MULTILINE)
        place = f" at character {len(caret[1]) + 1}" if caret else ""
        return f"{reason[1]}{place}."
    if message.startswith("NoExtension"):
        return "no text of the model's tokens satisfies it."
    if _NO_TOKEN in message:
        return f"{_NO_TOKEN}."
    if message.startswith("panic"):
        return f"it is too large{_REMEDY}"
    if config.json_schema is not None:
        return f"{_short(first)}{_place(config.json_schema, first)}{_REMEDY}"
    place, _, reason_text = re.sub(r"^at ", "", first).partition(": ")
    if lines := re.fullmatch(r"(\d+)\((\d+)\)", place):
        return f"{_short(reason_text)}, in line {lines[1]} at character {lines[2]}."
    return f"{_short(first)}."


def _checked(text: str) -> str:
    """A schema as an object, without what the library would take for something else.

    Raises:
        ConfigError: an `$id` beside a `$ref` below the root, which counts in some drafts of JSON Schema only;
            a text with a control character that needs an escape of those that are left out.
    """
    schema = json.loads(text)
    if schema is True:
        return "{}"
    if not isinstance(schema, Mapping):
        wanted = "which allows nothing" if schema is False else "but it must be an object"
        raise ConfigError(f"json_schema is {_short(text)!r}, {wanted}; give another one.")
    for path, node in _nodes(schema):
        is_inner = path != "#" and isinstance(node, Mapping)
        if is_inner and all(isinstance(node.get(key), str) for key in ("$ref", "$id")):
            raise ConfigError(
                f"json_schema has $id beside $ref, at {_short(path)}; leave one of them out, or nest them."
            )
        if _CONTROL.search(node if isinstance(node, str) else path):
            raise ConfigError(f"json_schema has a control character, at {_short(path)!r}; leave it out.")
    return text


_CONTROL = re.compile("[\\x00-\\x07\\x0b\\x0e-\\x1f]")
_NAMING = ("type", "format", "$ref")  # keywords whose values a message names


def _place(schema: str, message: str) -> str:
    """Where a schema has the first keyword or value that a message names, as a JSON pointer."""
    words = set(re.findall(r"[$\w.:/-]+", message)) - {"type", "format", "items"}
    for path, node in _nodes(json.loads(schema)):
        key = path.rpartition("/")[2]
        if key in words or (key in _NAMING and isinstance(node, str) and node in words):
            return f", at {_short(path)}"
    return ""


def _nodes(schema: Any) -> Iterator[tuple[str, Any]]:
    """All values in a schema with their JSON pointers, from the outside inwards."""
    waiting = deque([("#", schema)])
    while waiting:
        path, node = waiting.popleft()
        yield path, node
        if isinstance(node, Mapping):
            waiting += [(f"{path}/{key}", value) for key, value in node.items()]
        elif isinstance(node, list):
            waiting += [(f"{path}/{at}", value) for at, value in enumerate(node)]


def _short(text: str) -> str:
    """In one line, of a length that can be read."""
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."


def _with_large_stack(make: "Callable[[], llguidance.LLMatcher]") -> "llguidance.LLMatcher":
    """`make()` on a thread of its own, whose stack suffices for long chains of rules."""
    made: list[llguidance.LLMatcher] = []
    thread = threading.Thread(target=lambda: made.append(make()), name="eyas-grammar")
    before = threading.stack_size(COMPILER_STACK)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return made[0]


def _vocabulary(tokenizer: GrammarTokenizer, vocab_size: int) -> "llguidance.LLTokenizer":
    """The tokens as llguidance reads them, behind them one that stands for the end of a text."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Tokens(tokenizer, vocab_size)))


class _Tokens:
    """Each token's bytes, and how a text is tokenized: what `TokenizerWrapper` asks for."""

    bos_token_id = None

    def __init__(self, tokenizer: GrammarTokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        count = max(vocab_size, tokenizer.vocab_size)
        control = set(tokenizer.control_names.values())
        special = [at for at in range(count) if at in control or tokenizer.is_special(at)]
        self.eos_token_id = count
        self.special_token_ids = [*special, count]
        names = {token_id: name for name, token_id in tokenizer.control_names.items()}
        self.tokens = [tokenizer.token_bytes(at) for at in range(count)]
        for at in special:
            self.tokens[at] = names.get(at, f"<|special {at}|>").encode()
        self.tokens.append(b"<|end of the text|>")
        self._longest = max(map(len, self.tokens))
        self._ids = {text: at for at, text in reversed([*enumerate(self.tokens)]) if at not in {*special}}

    def __call__(self, text: str) -> list[int]:
        """Tokens whose bytes are those of `text`, if possible the ones that the model would write."""
        wanted = text.encode()
        for before in ("", "\n"):  # some tokenizers put a space before a text; not before a line's
            ids = self._tokenizer.encode(before + text, add_special=False)
            for skipped in range(4):
                if b"".join(self.tokens[at] for at in ids[skipped:]) == wanted:
                    return ids[skipped:]
        return self._longest_first(wanted)

    def _longest_first(self, text: bytes) -> list[int]:
        ids: list[int] = []
        while text:
            size = next((n for n in range(min(self._longest, len(text)), 0, -1) if text[:n] in self._ids), 0)
            if not size:
                raise ValueError(_NO_TOKEN)
            ids.append(self._ids[text[:size]])
            text = text[size:]
        return ids
