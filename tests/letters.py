"""Tokenizers for grammars: of 64 tokens (JSON's signs, letters, words, control tokens), and of bytes."""

CONTROL = {0: "<pad>", 1: "<s>", 2: "</s>", 7: "<end>"}
WORDS = [
    "name",
    "na",
    "me",
    "age",
    '"name"',
    '":',
    '",',
    '{"',
    '"}',
    "true",
    "false",
    "null",
    ": ",
    ", ",
    "10",
]
SIGNS = '{}[]":,- \n.0123456789abcdefghijklmnopqrstuvxy'
TEXTS = [*WORDS, *SIGNS]


class Letters:
    """As `eyas.engine.grammar.GrammarTokenizer` asks for it; tokens are the longest that fit."""

    vocab_size = 64

    def __init__(self):
        free = [at for at in range(self.vocab_size) if at not in CONTROL]
        assert len(TEXTS) == len(free)
        self.texts = dict(zip(free, TEXTS, strict=True))
        self.ids = {text: at for at, text in self.texts.items()}
        self.control_names = {name: at for at, name in CONTROL.items()}

    def is_special(self, token_id):
        return token_id in CONTROL

    def token_bytes(self, token_id):
        return self.texts.get(token_id, "").encode()

    def encode(self, text, *, add_special=True):
        ids = []
        while text:
            size = next((size for size in range(6, 0, -1) if text[:size] in self.ids), 0)
            ids += [self.ids[text[:size]]] if size else []  # what it does not know it leaves out
            text = text[size or 1 :]
        return ids

    def decode(self, token_ids):
        return "".join(self.texts.get(token, "") for token in token_ids)


END = 256


class Bytes:
    """Each byte is a token."""

    vocab_size = 257

    def __init__(self):
        self.control_names = {"</s>": END}

    def is_special(self, token_id):
        return token_id == END

    def token_bytes(self, token_id):
        return bytes([token_id]) if token_id < END else b""

    def encode(self, text, *, add_special=True):
        return list(text.encode())
