"""Fill-in-the-middle prompts: llama.cpp's order, texts that stay text, and what is left out of a long one."""

import os
from pathlib import Path

import pytest

from eyas.errors import ConfigError
from eyas.models import Infill, Snippet, Tokenizer
from eyas.models.infill import infill_ids, infill_stops
from tiny_chat import write_tokenizer

FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")
REPO = ("<|repo_name|>", "<|file_sep|>")
SNIPPETS = [Snippet("a = 1\n", "a.py"), Snippet("b = 2\n", "b.py")]


def load(directory, more):
    write_tokenizer(directory, more)
    return Tokenizer.load(directory)


def shown(tokenizer, infill, room=None):
    return tokenizer.decode(infill_ids(tokenizer, infill, room), skip_special=False)


def test_the_order_is_llama_cpps(tmp_path):
    tokenizer = load(tmp_path, FIM + REPO)
    bare = "<|fim_prefix|>def f():\n<|fim_suffix|>\nend<|fim_middle|>"
    assert shown(tokenizer, Infill("def f():\n", "\nend")) == bare
    with_files = Infill("def f():\n", "\nend", "  re", SNIPPETS)
    assert shown(tokenizer, with_files) == (
        "<|repo_name|>myproject\n<|file_sep|>a.py\na = 1\n<|file_sep|>b.py\nb = 2\n<|file_sep|>filename\n"
        "<|fim_prefix|>def f():\n  re<|fim_suffix|>\nend<|fim_middle|>"
    )
    assert shown(tokenizer, Infill("", "")) == "<|fim_prefix|><|fim_suffix|><|fim_middle|>"


def test_without_tokens_for_files_snippets_are_text_before_the_prefix(tmp_path):
    tokenizer = load(tmp_path, FIM)
    assert shown(tokenizer, Infill("p", "s", extra=SNIPPETS[:1])) == (
        "\n\n--- snippet ---\n\na = 1\n<|fim_prefix|>p<|fim_suffix|>s<|fim_middle|>"
    )


def test_a_text_that_spells_a_token_stays_text(tmp_path):
    tokenizer = load(tmp_path, FIM + REPO)
    infill = Infill("<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", [Snippet("<|file_sep|>", "</s>")])
    fim = tokenizer.fim_token_ids
    written = [token for token in infill_ids(tokenizer, infill) if tokenizer.is_special(token)]
    assert written == [fim[part] for part in ("repo", "file", "file", "prefix", "suffix", "middle")]
    parsed = infill_ids(tokenizer, infill, parse_special=True)
    assert sum(map(tokenizer.is_special, parsed)) == 11


def test_a_long_prompt_loses_old_snippets_then_the_outer_text(tmp_path):
    tokenizer = load(tmp_path, FIM + REPO)
    infill = Infill("abcdefgh" * 4, "12345678" * 4, "X", SNIPPETS)
    whole = len(infill_ids(tokenizer, infill))
    for room in range(8, whole + 1):
        ids = infill_ids(tokenizer, infill, room)
        assert len(ids) <= room
        text = tokenizer.decode(ids, skip_special=False)
        before, after = text.split("<|fim_suffix|>")
        if "a.py" in text:
            assert "b.py" in text
        assert infill.prefix.endswith(before.split("<|fim_prefix|>")[1].removesuffix("X"))
        assert infill.suffix.startswith(after.removesuffix("<|fim_middle|>"))
        assert ("b.py" not in text) or (infill.prefix in text and infill.suffix in text)
    assert "a.py" not in shown(tokenizer, infill, whole - 1)


def test_it_ends_at_every_end_and_every_infill_token(tmp_path):
    tokenizer = load(tmp_path, (*FIM, *REPO, "<|endoftext|>"))
    names = {tokenizer.token_text(token) for token in infill_stops(tokenizer)}
    assert names == {*FIM, *REPO, "</s>", "<|endoftext|>"}


def test_a_model_without_the_tokens_says_so(tmp_path):
    with pytest.raises(ConfigError, match="no fill-in-the-middle tokens"):
        infill_ids(load(tmp_path, FIM[:2]), Infill("a", "b"))


def test_qwens_own_tokens():
    """The vocabulary of a real model: its tokens by their names, and no BOS."""
    file = Path(os.environ.get("EYAS_TEST_MODELS", "absent")) / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    if not file.is_file():
        pytest.skip("no Qwen2.5-Coder in the folder EYAS_TEST_MODELS")
    tokenizer = Tokenizer.load(file)
    assert shown(tokenizer, Infill("def f():\n", "\nend", "  re", SNIPPETS[:1])) == (
        "<|repo_name|>myproject\n<|file_sep|>a.py\na = 1\n<|file_sep|>filename\n"
        "<|fim_prefix|>def f():\n  re<|fim_suffix|>\nend<|fim_middle|>"
    )
    names = {tokenizer.token_text(token) for token in infill_stops(tokenizer)}
    assert {"<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|file_sep|>"} <= names
