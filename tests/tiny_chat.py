"""A tiny random chat model: a Llama over bytes, with a template, and if wanted with a random head."""

import json

from tiny import write_head, write_llama

SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCAB = len(SPECIAL) + 256
CONTEXT = 256
SHORT = ("--max-new-tokens", "16", "--dtype", "float64", "--threads", "1")


def write_tokenizer(directory, more=(), template=TEMPLATE):
    """Byte-level BPE without merges: every byte is a token, between the special ones and `more` of them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet, *more])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*SPECIAL, *more)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"chat_template": template, "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def write_chat_model(directory, *, head=False, max_positions=CONTEXT, more=(), template=TEMPLATE):
    """A Hugging Face directory that `--model` takes."""
    write_llama(directory, vocab_size=VOCAB + len(more), max_positions=max_positions)
    write_tokenizer(directory, more, template)
    if head:
        write_head(directory / "head", vocab_size=VOCAB + len(more))
    return directory
