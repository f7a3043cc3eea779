"""Nobody writes a control token by typing, in a prompt or in a message, whatever its template does."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vocabularies import CONTROL, byte_level, learned, sentence_piece
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from eyas.errors import ConfigError
from eyas.models import Tokenizer
from eyas.models.chat_template import ChatTemplate
from eyas.models.encoding import Encoding
from eyas.models.gguf_tokenizer import GGUFTokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Each changes contents in another way.
TEMPLATES = {
    "plain": CHATML,
    "trim": CHATML.replace("m['content']", "m['content'] | trim"),
    "replace": CHATML.replace("m['content']", "m['content'] | replace('x', '') | replace('\n', '')"),
    "tojson": CHATML.replace("m['content']", "m | tojson"),
    "ascii json": CHATML.replace("m['content']", "[m.content, {m.content: 1}] | tojson(ensure_ascii=True)"),
    "python": CHATML.replace("m['content']", "(m | string)"),
    "thinking": CHATML.replace(
        "m['content']",
        "(m.content.split('</think>')[-1].lstrip('\n') if '</think>' in m.content else m.content)",
    ),
    "split": CHATML.replace("m['content']", "m.content.split('|') | join('|')"),
    "upper": CHATML.replace("m['content']", "m.content | upper | lower"),
    "tag": CHATML.replace("<|im_start|>' + m['role']", "<|im_' + 'start|>' + m['role']"),
    "halves": CHATML.replace("m['content']", "m.content[:4] ~ m.content[4:]"),
}
PARTS = [
    *CONTROL,
    "<",
    "<|",
    "|>",
    ">",
    "|",
    "im_end",
    "im_start",
    "x",
    "\n",
    " ",
    "</think>",
    "</",
    "é",
    "\u0338",
    "<|im_",
    "\\",
    '"',
]
CONTENTS = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
FIELDS = byte_level("qwen2", learned(100))
BACKEND = GGUFTokenizer(FIELDS).build()
TOKENIZERS = {name: Tokenizer(BACKEND, chat_template=source) for name, source in TEMPLATES.items()}
RENDERERS = {name: ChatTemplate(source) for name, source in TEMPLATES.items()}
SENTENCE_PIECE = Tokenizer(
    GGUFTokenizer(sentence_piece()).build(), chat_template="<s>{{ messages[0].content }}</s>"
)
IDS = {FIELDS["tokenizer.ggml.tokens"].index(name): name for name in CONTROL}


def control_of(ids):
    return [IDS[i] for i in ids if i in IDS]


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=50)
@given(first=CONTENTS, second=CONTENTS)
def test_a_chat_has_the_templates_control_tokens_and_no_others(template, first, second):
    tokenizer = TOKENIZERS[template]
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": second}]
    ids = tokenizer.apply_chat_template(messages)
    assert control_of(ids) == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=50)
@given(first=CONTENTS, second=CONTENTS)
def test_no_sign_of_a_text_is_lost_or_added(template, first, second):
    tokenizer = TOKENIZERS[template]
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": second}]
    rendered = RENDERERS[template].render(messages=messages, add_generation_prompt=True)
    assert tokenizer.decode(tokenizer.apply_chat_template(messages), skip_special=False) == _composed(
        rendered
    )


def _composed(text):
    return BACKEND.normalizer.normalize_str(text)


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=50)
@given(content=st.text(max_size=12).filter(lambda text: not any(name in text for name in CONTROL)))
def test_other_texts_get_the_ids_of_the_published_tokenizer(template, content):
    tokenizer = TOKENIZERS[template]
    messages = [{"role": "user", "content": content}]
    rendered = RENDERERS[template].render(messages=messages, add_generation_prompt=True)
    ids = BACKEND.encode(rendered, add_special_tokens=False).ids
    assert tokenizer.apply_chat_template(messages) == ids
    assert tokenizer.apply_chat_template(messages, parse_special=True) == ids


def test_unless_asked_for():
    tokenizer = Tokenizer(BACKEND, chat_template=CHATML)
    messages = [{"role": "user", "content": "a<|im_end|>b"}]
    assert control_of(tokenizer.apply_chat_template(messages, parse_special=True))[1:3] == ["<|im_end|>"] * 2
    assert control_of(tokenizer.encode("a<|im_end|>b")) == []
    assert control_of(tokenizer.encode("a<|im_end|>b", parse_special=True)) == ["<|im_end|>"]
    assert tokenizer.spelled_control("a<|im_end|>b<|im_") == ["<|im_end|>"]


@given(CONTENTS)
def test_a_prompt_is_text(text):
    tokenizer = TOKENIZERS["plain"]
    assert control_of(tokenizer.encode(text)) == []
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == _composed(text)


def test_a_template_still_finds_its_own_strings():
    template = ChatTemplate(
        "{% set text = messages[0].content %}"
        "{% if '</think>' in text and text.startswith('<tool>') %}yes{% endif %}",
        ["<|im_end|>"],
    )
    text, mark = template.render_marked([{"content": "<tool>a</think><|im_end|>"}])
    assert text == "yes"
    assert mark


def test_names_of_fields_stay_and_other_keys_are_marked():
    template = ChatTemplate(
        "{% for k, v in messages[0].more.items() %}{{ k }}={{ v }};{% endfor %}", ["<a>", "m"]
    )
    text, mark = template.render_marked([{"more": {"m": "m", "<a>": "<a>", "n": 1}}])
    assert text == f"m=m{mark};<{mark}a>=<{mark}a>;n=1;"


def test_the_mark_is_a_sign_that_nobody_used():
    used = "".join(map(chr, range(0x12000, 0x12010)))
    text, mark = ChatTemplate("{{ messages[0].content }}\U00012010", ["<a>"]).render_marked(
        [{"content": used + "<"}]
    )
    assert mark == "\U00012011"
    assert text == f"{used}<{mark}\U00012010"


def test_a_refusal_shows_no_marks():
    template = ChatTemplate("{{ raise_exception('no ' + messages[0].content) }}", ["<a>"])
    with pytest.raises(ConfigError, match=r"no <a>\)"):
        template.render_marked([{"content": "<a>"}])


def test_control_tokens_that_merges_would_make_are_spelled_out():
    """As in the first conversions of Llama 2, whose merges lead to `</s>`."""
    names = ["</s>", "<", "/", "s", ">", "</", "s>", "a"]
    backend = Backend(
        models.BPE({name: i for i, name in enumerate(names)}, [("<", "/"), ("s", ">"), ("</", "s>")])
    )
    backend.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    encoding = Encoding(backend)
    assert encoding.encode("a</s>a", add_special=False, parse_special=True) == [7, 0, 7]
    assert [names[i] for i in encoding.encode("a</s>a", add_special=False, parse_special=False)] == [
        "a",
        "<",
        "/",
        "s>",
        "a",
    ]
    tokenizer = Tokenizer(backend, chat_template="{{ messages[0].content }}</s>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "</s>"}])[-1:] == [0]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "</s>"}]).count(0) == 1


def test_a_published_file_may_call_its_roles_ordinary():
    """DeepSeek's tokenizer.json does not call `<｜User｜>` special."""
    backend = Backend(models.BPE({sign: i for i, sign in enumerate("<>｜Usera")}, []))
    backend.add_tokens(
        [AddedToken("<｜User｜>", special=False, normalized=False), AddedToken("<sr>", special=False)]
    )
    tokenizer = Tokenizer(backend, chat_template="<｜User｜>{{ messages[0].content }}")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "<｜User｜><sr>"}])
    role, word = backend.token_to_id("<｜User｜>"), backend.token_to_id("<sr>")
    assert ids[0] == role
    assert ids.count(role) == 1
    assert ids[-1] == word, "other added tokens are words"
    assert tokenizer.decode([role]) == "<｜User｜>", "its text is as published"


def test_tokens_that_take_white_space_keep_doing_so():
    backend = Backend(models.BPE({"<e>": 0, "a": 1, " ": 2, "<": 3, "e": 4, ">": 5}, []))
    backend.add_special_tokens([AddedToken("<e>", special=True, normalized=False, rstrip=True, lstrip=True)])
    tokenizer = Tokenizer(backend, chat_template="a <e> {{ messages[0].content }}")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}]) == [1, 0, 1]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "<e>a"}]) == [1, 0, 3, 4, 5, 1]


def test_an_unknown_word_is_no_control_token():
    backend = Backend(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken("<unk>", special=True)])
    tokenizer = Tokenizer(backend, chat_template="{{ messages[0].content }}")
    assert tokenizer.encode("a b") == [1, 0]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a b"}]) == [1, 0]


@given(CONTENTS)
def test_sentence_piece_keeps_to_it_too(text):
    ids = SENTENCE_PIECE.apply_chat_template(
        [{"role": "user", "content": text + "</s><s>" + json.dumps(text)}]
    )
    assert [i for i in ids if i in (1, 2)] == [1, 2]
    assert [ids[0], ids[-1]] == [1, 2]
