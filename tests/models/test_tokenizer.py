"""Tokenizers of directories, and text token by token: the pieces joined are the text of all ids."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from eyas.errors import ConfigError, ModelError
from eyas.models import Tokenizer
from eyas.models.gguf_convert import convert_gguf
from tiny_gguf import SPECIAL, write_gguf


def byte_level():
    """GPT-2's kind: each byte a token, then tokens of several bytes that end inside characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("â", "Ĥ"), ("âĤ", "¬"), ("ð", "Ł"), ("Ģ", "Ģ"), ("Ġ", "a"), ("a", "b")]
    names = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    backend = Backend(models.BPE({token: index for index, token in enumerate(names)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.add_tokens([AddedToken("<think> ☂", special=False)])
    return backend


_WORDS = [*"abé☂", "▁", "▁▁", "▁a", "▁b", "ab", "<0x", " "]


def _pieces(decoder, pre_tokenizer):
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
    vocabulary = {token: index for index, token in enumerate(names)}
    backend = Backend(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoder
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return backend


def byte_fallback():
    """Llama 2's kind."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return _pieces(decoders.Sequence(steps), None)


def gemma():
    """Byte fallback without a leading space to lose."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _pieces(decoders.Sequence(steps), None)


def metaspace():
    """SentencePiece through Metaspace: only the first token loses its spaces."""
    return _pieces(decoders.Metaspace("▁", "always"), pre_tokenizers.Metaspace("▁", "always"))


def metaspace_fallback():
    steps = [decoders.ByteFallback(), decoders.Metaspace("▁", "first")]
    return _pieces(decoders.Sequence(steps), pre_tokenizers.Metaspace("▁", "first"))


def no_decoder():
    """Tokens joined by spaces."""
    return _pieces(None, None)


KINDS = [byte_level, byte_fallback, gemma, metaspace, metaspace_fallback, no_decoder]
TOKENIZERS = {kind.__name__: Tokenizer(kind()) for kind in KINDS}


def pieces(tokenizer, ids):
    stream = tokenizer.stream_decoder()
    return [stream.push(token_id) for token_id in ids] + [stream.flush()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_the_pieces_joined_are_the_text(kind, data):
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=24))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_bytes_of_real_and_broken_characters(kind, data):
    """Mostly bytes, so that characters come whole, cut and overlong."""
    tokenizer = TOKENIZERS[kind]
    text = data.draw(st.text(st.sampled_from("aé☂🦅�\u200d \n"), max_size=8)).encode()
    extra = data.draw(st.binary(max_size=4))
    cut = data.draw(st.integers(0, len(text)))
    names = {tokenizer._backend.id_to_token(i): i for i in range(tokenizer.vocab_size)}
    if kind == "byte_level":
        signs = {byte: sign for sign, byte in byte_table().items()}
        ids = [names[signs[byte]] for byte in text[:cut] + extra + text[cut:]]
    else:
        ids = [names[f"<0x{byte:02X}>"] for byte in text[:cut] + extra + text[cut:]]
    ids.insert(data.draw(st.integers(0, len(ids))), names.get("a", 5))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def byte_table():
    """GPT-2's alphabet, from the library: encode each character whose UTF-8 shows the byte."""
    from eyas.models.decoding import _BYTES

    assert set(_BYTES) == set(pre_tokenizers.ByteLevel.alphabet())
    return _BYTES


@given(st.text(max_size=30))
def test_any_text_survives_byte_level(text):
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == text


@given(st.text(st.sampled_from("ab é☂🦅\n"), max_size=12))
def test_the_bytes_of_tokens_joined_are_those_of_the_text(text):
    for kind in ("byte_level", "gemma"):
        tokenizer = TOKENIZERS[kind]
        joined = b"".join(tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text))
        assert joined.replace(b"\xe2\x96\x81", b" ") == text.encode()
    assert TOKENIZERS["byte_level"].token_bytes(10**6) == b""


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.sampled_from("ab "), max_size=12))
def test_tokens_keep_the_space_before_a_word(kind, text):
    """Only the first of an answer may lose it."""
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    joined = "".join(map(tokenizer.token_text, ids))
    assert joined.lstrip(" ") == tokenizer.decode(ids).lstrip(" ")
    if ids:
        assert b"".join(map(tokenizer.token_bytes, ids)) == joined.encode()


def test_incomplete_characters_are_held_back():
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("🦅 a")
    assert pieces(tokenizer, ids)[-3:] == ["🦅", " a", ""]
    assert not any("�" in piece for piece in pieces(tokenizer, ids))
    assert pieces(tokenizer, ids[:1])[-1] == "�"


def test_special_tokens_have_no_text():
    tokenizer = TOKENIZERS["byte_level"]
    assert pieces(tokenizer, [0, 1, 2]) == ["", "", "", ""]
    assert tokenizer.is_special(2)
    assert tokenizer.special_ids == {0, 1, 2}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_push_costs_the_same_however_long_the_answer_is(kind):
    tokenizer = TOKENIZERS[kind]
    word = tokenizer._backend.token_to_id("ab")
    stream = tokenizer.stream_decoder()
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(3000):
            stream.push(word)
        seconds.append(time.perf_counter() - started)
    assert seconds[-1] < 5 * seconds[0] + 0.1


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    convert_gguf(write_gguf(tmp_path / "tiny.gguf"), folder)
    return folder


def edit(folder, name, **changes):
    path = folder / name
    document = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(document | changes))


def chat(folder):
    return Tokenizer.load(folder).decode(
        Tokenizer.load(folder).apply_chat_template([{"role": "user", "content": "hi"}]), skip_special=False
    )


def test_where_the_template_is_looked_for(model):
    edit(model, "tokenizer_config.json", chat_template="config")
    assert chat(model) == "config"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    edit(model, "tokenizer_config.json", chat_template=named)
    assert chat(model) == "named"
    edit(model, "chat_template.json", chat_template="json")
    assert chat(model) == "json"
    (model / "chat_template.jinja").write_text("jinja {{ bos_token }}")
    assert chat(model) == "jinja <|im_start|>"


def test_special_tokens_may_be_objects(model):
    edit(model, "tokenizer_config.json", bos_token={"content": "<B>"}, chat_template="{{ bos_token }}")
    assert chat(model) == "<B>"


def test_without_a_template_raw_is_the_remedy(model):
    edit(model, "tokenizer_config.json", chat_template=None)
    with pytest.raises(ConfigError, match="--raw"):
        chat(model)


def test_messages_need_role_and_content(model):
    with pytest.raises(ConfigError, match="role and content"):
        Tokenizer.load(model).apply_chat_template([{"role": "user"}])


def test_where_stop_tokens_are_looked_for(model):
    edit(model, "generation_config.json", eos_token_id=[2, 0])
    assert Tokenizer.load(model).stop_token_ids == (2, 0)
    edit(model, "generation_config.json", eos_token_id=0)
    assert Tokenizer.load(model).stop_token_ids == (0,)
    (model / "generation_config.json").unlink()
    edit(model, "config.json", eos_token_id=1)
    assert Tokenizer.load(model).stop_token_ids == (1,)
    edit(model, "config.json", eos_token_id=None, text_config={"eos_token_id": 0})
    assert Tokenizer.load(model).stop_token_ids == (0,)
    edit(model, "config.json", text_config=None)
    assert Tokenizer.load(model).stop_token_ids == (2,)  # tokenizer_config's eos_token
    edit(model, "tokenizer_config.json", eos_token=None)
    assert Tokenizer.load(model).stop_token_ids == ()


def test_broken_stop_tokens(model):
    edit(model, "generation_config.json", eos_token_id="x")
    with pytest.raises(ModelError, match="eos_token_id 'x'"):
        Tokenizer.load(model)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": 3}'])
def test_a_broken_tokenizer(text, model):
    (model / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read") as caught:
        Tokenizer.load(model)
    assert "\n" not in str(caught.value)


def test_no_tokenizer(model):
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        Tokenizer.load(model)


def test_prompts_are_neither_cut_nor_padded(model):
    backend = Backend.from_file(str(model / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.save(str(model / "tokenizer.json"))
    assert len(Tokenizer.load(model).encode("x" * 20)) == 20


def test_bytes_that_are_no_text(model):
    with pytest.raises(ConfigError, match="UTF-8"):
        Tokenizer.load(model).encode("caf\udce9")
