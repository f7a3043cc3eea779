"""The official client against a running server: it is understood, and gets eyas's own answers."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from serving import token_ids

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]
MODEL = "tiny"


def direct(llm, prompt=MESSAGES, **options):
    """The same request alone, by plain decoding, without a server."""
    return llm.generate(prompt, method="autoregressive", **options)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"seed": 7}, {"temperature": 1.0, "seed": 7}),
        (
            {"seed": 3, "temperature": 0.7, "top_p": 0.9, "presence_penalty": 1.5, "frequency_penalty": 0.5},
            {"seed": 3, "temperature": 0.7, "top_p": 0.9, "presence_penalty": 1.5, "frequency_penalty": 0.5},
        ),
        (
            {"temperature": 0, "logit_bias": {"70": 5}, "extra_body": {"repetition_penalty": 1.3}},
            {"temperature": 0.0, "logit_bias": {70: 5.0}, "repetition_penalty": 1.3},
        ),
        (
            {"seed": 1, "extra_body": {"top_k": 5, "min_p": 0.1, "eyas": {"draft_tokens": 9, "depth": 3}}},
            {"seed": 1, "temperature": 1.0, "top_k": 5, "min_p": 0.1},
        ),
        (
            {"seed": 0, "logit_bias": {"2": 5}, "extra_body": {"ignore_eos": True}},  # 2 ends answers
            {"seed": 0, "temperature": 1.0, "logit_bias": {2: 5.0}, "ignore_eos": True},
        ),
    ],
    ids=["greedy", "default", "filters", "biased", "extras", "endless"],
)
def test_a_chat_is_plain_decodings_answer(client, llm, fields, options):
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=24, **fields
    )
    expected = direct(llm, max_new_tokens=24, **options)
    [choice] = answer.choices
    assert choice.message.content == expected.text
    assert token_ids(choice.model_dump()) == list(expected.token_ids)
    assert choice.finish_reason == expected.finish_reason
    assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert answer.usage.completion_tokens == len(expected.token_ids)
    assert answer.model == MODEL


def test_a_stream_joined_is_the_answer(client, llm):
    stream = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=24,
        seed=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    expected = direct(llm, max_new_tokens=24, temperature=1.0, seed=5)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == expected.text
    assert [c.choices[0].delta.role for c in chunks] == ["assistant", *[None] * (len(chunks) - 1)]
    assert [c.choices[0].finish_reason for c in chunks] == [*[None] * (len(chunks) - 1), "length"]
    assert last.choices == []
    assert last.usage.completion_tokens == 24
    assert len({chunk.id for chunk in [*chunks, last]}) == 1


def test_completions_continue_raw_texts_and_ids(client, llm):
    ids = llm.tokenizer.encode("The sea")
    for prompt in ("The sea", ids, ["The sea", "A hill"], [ids, llm.tokenizer.encode("A hill")]):
        answer = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=12)
        texts = [direct(llm, text, raw=True, max_new_tokens=12).text for text in ("The sea", "A hill")]
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        assert [choice.text for choice in answer.choices] == texts[: 2 if several else 1]
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))


def test_completions_are_short_by_default_and_streams_join(client, llm):
    chunks = list(client.completions.create(model=MODEL, prompt="The sea", seed=2, stream=True))
    expected = direct(llm, "The sea", raw=True, max_new_tokens=16, temperature=1.0, seed=2)
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text


def test_n_answers_are_those_of_the_choices(client, llm):
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=16, seed=9, n=3)
    expected = direct(llm, max_new_tokens=16, temperature=1.0, seed=9, n=3)
    assert [choice.message.content for choice in answer.choices] == [c.text for c in expected.choices]
    assert answer.usage.completion_tokens == sum(len(c.token_ids) for c in expected.choices)
    assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert answer.model_dump()["metrics"] is None

    texts = ["", "", ""]
    for chunk in client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=16, seed=9, n=3, stream=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content
    assert texts == [c.text for c in expected.choices]


def test_log_probabilities(client, llm):
    expected = direct(llm, max_new_tokens=8, logprobs=3)
    fields = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0, "logprobs": True}
    answer = client.chat.completions.create(**fields, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert [entry.logprob for entry in content] == [row["logprob"] for row in expected.logprobs]
    for entry, row in zip(content, expected.logprobs, strict=True):
        assert entry.token == llm.tokenizer.decode([row["token_id"]], skip_special=False)
        assert bytes(entry.bytes) == llm.tokenizer.token_bytes(row["token_id"])
        assert [top.logprob for top in entry.top_logprobs] == [log_prob for _, log_prob in row["top"]]
    streamed = [
        entry
        for chunk in client.chat.completions.create(**fields, top_logprobs=3, stream=True)
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == content
    bare = client.chat.completions.create(**fields)
    assert [entry.top_logprobs for entry in bare.choices[0].logprobs.content] == [[]] * 8

    raw = direct(llm, "The sea", raw=True, max_new_tokens=8, logprobs=2)
    answer = client.completions.create(model=MODEL, prompt="The sea", max_tokens=8, temperature=0, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs == [row["logprob"] for row in raw.logprobs]
    assert all(len(top) <= 2 for top in logprobs.top_logprobs)
    assert logprobs.text_offset[0] == 0


def test_stop_strings_end_an_answer(client, llm):
    whole = direct(llm, max_new_tokens=24).text
    stop = whole[4:6]
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0, stop=stop)
    expected = direct(llm, stop=(stop,))
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == "stop"


def test_an_answer_may_be_sent_back_as_it_came(client):
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=8, temperature=0)
    why = {"role": "user", "content": [{"type": "text", "text": "Why?"}]}
    messages = [*MESSAGES, answer.choices[0].message, why]
    again = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=8, temperature=0)
    assert again.usage.completion_tokens == 8


def test_turns_of_a_conversation_reuse_their_caches(client, llm):
    """The same ids as from scratch, and the prompt read only where it is new."""
    messages = [{"role": "user", "content": "Tell me about the tides of the northern sea."}]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=12, seed=11)
    text = first.choices[0].message.content
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And neap tides?"}]
    second = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=12, seed=11)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 1
    expected = direct(llm, messages, max_new_tokens=12, temperature=1.0, seed=11)
    assert token_ids(second.choices[0].model_dump()) == list(expected.token_ids)


def test_concurrent_answers_are_those_of_the_requests_alone(client, llm):
    """L8 through the whole server: other lengths, temperatures, methods and trees beside do not matter."""
    cases = [
        {
            "messages": [{"role": "user", "content": "word " * (1 + 7 * at % 20) + str(at)}],
            "max_tokens": 5 + 11 * at % 40,
            "temperature": at % 3 / 2,
            "seed": at,
            "extra_body": {"eyas": {"method": "autoregressive"}} if at % 4 == 3 else {},
        }
        for at in range(16)
    ]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda case: client.chat.completions.create(model=MODEL, **case), cases))
    for case, answer in zip(cases, answers, strict=True):
        expected = direct(
            llm,
            case["messages"],
            max_new_tokens=case["max_tokens"],
            temperature=case["temperature"],
            seed=case["seed"],
        )
        assert token_ids(answer.choices[0].model_dump()) == list(expected.token_ids)


def test_models(client):
    [model] = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("error", "fields", "message"),
    [
        (openai.NotFoundError, {"model": "gpt-4"}, "tiny"),
        (openai.BadRequestError, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        (openai.BadRequestError, {"response_format": {"type": "json_schema"}}, "response_format"),
        (openai.BadRequestError, {"temperature": -1}, "temperature"),
        (openai.BadRequestError, {"n": 99}, "at most 16"),
        (openai.BadRequestError, {"max_tokens": 100000}, "holds 256"),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "x" * 400}]}, "shorten"),
        (openai.BadRequestError, {"extra_body": {"eyas": {"method": "guess"}}}, "guess"),
        (
            openai.BadRequestError,
            {"extra_body": {"eyas": {"method": "pld", "depth": 3}}},
            "not an option of pld",
        ),
        (openai.BadRequestError, {"extra_body": {"hallucinate": True}}, "hallucinate"),
    ],
)
def test_errors_are_the_clients_own(client, error, fields, message):
    with pytest.raises(error, match=message):
        client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "max_tokens": 4} | fields)
