"""Kinds of prompts: what their lines are, and which tokens the target reads."""

import json

import pytest

from eyas.errors import ConfigError, DataError
from eyas.models import Tokenizer
from eyas.training.config import DistilConfig
from eyas.training.distil import Distilled, _jobs
from eyas.training.prompts import Conversation, Edit, FillInTheMiddle, Prompt, Question, read_prompts
from tiny_gguf import SPECIAL, TEMPLATE, write_gguf
from tiny_gguf import tokens as words

FIM = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"]
KINDS = [
    Question("hello"),
    Conversation(({"role": "user", "content": "hello"},)),
    FillInTheMiddle("he", "llo"),
    Edit("shout", "hello"),
]


def tokenizer(folder, names):
    return Tokenizer.load(write_gguf(folder / "m.gguf", tokens=names))


@pytest.fixture(scope="module")
def code_model(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("code"), [*words(), *FIM])


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("chat"), words())


def read(folder, *rows):
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_prompts(path)


def test_each_line_is_of_the_kind_of_its_fields(tmp_path):
    messages = [{"role": "user", "content": "hello", "name": "me"}]
    rows = [
        {"id": "q", "prompt": "hello", "source": "a book"},
        {"messages": messages, "category": "chat"},
        {"prefix": "he", "suffix": "llo"},
        {"instruction": "shout", "text": "hello"},
    ]
    prompts = read(tmp_path, *rows)
    assert [prompt.content for prompt in prompts] == KINDS
    assert [(prompt.id, prompt.category) for prompt in prompts] == [
        ("q", ""),
        ("2", "chat"),
        ("3", ""),
        ("4", ""),
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "prompt is missing"),
        ({"prompt": 3}, "prompt is missing or not a str"),
        ({"prefix": "a"}, "suffix is missing"),
        ({"text": "a"}, "instruction is missing"),
        ({"messages": "a"}, "messages is missing or not a list"),
        ({"messages": ["a"]}, "messages hold objects only"),
        ({"messages": [{"role": "user"}]}, "content is missing"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "content is invalid text"),
        ({"prefix": "a", "suffix": "\ud800"}, "suffix is invalid text"),
        ({"prompt": "a", "prefix": "b", "suffix": "c"}, "two prompts in one"),
    ],
    ids=str,
)
def test_broken_lines_are_named(tmp_path, row, problem):
    with pytest.raises(DataError, match=f"line 2: .*{problem}") as caught:
        read(tmp_path, {"prompt": "fine"}, row)
    assert "\n" not in str(caught.value)


def test_the_targets_own_answer_comes_in_place_of_an_assistants_last(tmp_path):
    turns = [
        ("system", "be brief"),
        ("user", "hi"),
        ("assistant", "hi!"),
        ("user", "more"),
        ("assistant", "no"),
    ]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    [prompt] = read(tmp_path, *rows)
    assert [message["content"] for message in prompt.content.messages] == ["be brief", "hi", "hi!", "more"]


def test_chats_and_edits_are_read_by_the_chat_template(code_model):
    def ids(*messages):
        return code_model.apply_chat_template([{"role": role, "content": text} for role, text in messages])

    assert "im_start" in TEMPLATE
    assert Question("hello").token_ids(code_model) == ids(("user", "hello"))
    turns = [("user", "hello"), ("assistant", "he"), ("user", "ll")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    assert Conversation(messages).token_ids(code_model) == ids(*turns)
    assert Edit("shout", "hello").token_ids(code_model) == ids(("user", "shout\n\nhello"))


def test_a_gap_stands_between_the_models_own_tokens(code_model):
    """And an answer ends where another text would begin."""
    prefix, suffix, middle, pad = (code_model.control_names[name] for name in FIM)
    gap = FillInTheMiddle("he", "<|fim_middle|>")  # spelled in the text, it is text
    after = code_model.encode("<|fim_middle|>", add_special=False)
    assert middle not in after
    he = code_model.encode("he", add_special=False)
    assert gap.token_ids(code_model) == [*code_model.encode(""), prefix, *he, suffix, *after, middle]
    assert {prefix, suffix, middle, pad} < set(gap.stop_token_ids(code_model))
    [job] = _jobs([Prompt("a", gap)], code_model, DistilConfig(), (), Distilled(100))
    assert job.stop_token_ids == gap.stop_token_ids(code_model)


def test_a_model_without_such_tokens_says_so(chat_model):
    assert set(SPECIAL) <= set(chat_model.control_names)
    with pytest.raises(
        ConfigError, match=r"prompt 'x' cannot be asked: this model has no fill-in-the-middle tokens"
    ):
        Prompt("x", FillInTheMiddle("a", "b")).token_ids(chat_model)


@pytest.mark.parametrize(
    ("content", "is_empty"),
    [
        *((content, False) for content in KINDS),
        (Question(" "), True),
        (Conversation(()), True),
        (Conversation(({"role": "user", "content": ""},)), True),
        (FillInTheMiddle("", "\n"), True),
        (FillInTheMiddle("a", ""), False),
        (Edit("", ""), True),
    ],
    ids=str,
)
def test_empty_prompts_are_left_out(content, is_empty, code_model):
    made = Distilled(100)
    jobs = list(_jobs([Prompt("a", content)], code_model, DistilConfig(), (), made))
    assert (len(jobs), made.empty) == ((0, 1) if is_empty else (1, 0))
