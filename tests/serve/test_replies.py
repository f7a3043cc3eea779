"""Log-probabilities of completions: names and places of tokens, the same in a stream as in the body."""

import math

from eyas.engine.cycle import Piece
from eyas.engine.sampling import SampledToken
from eyas.serve.openai_replies import TextReply
from eyas.serve.replies import Texts


def made_reply(llm):
    return TextReply("id", "tiny", "print", [1], 1, {}, Texts(llm.tokenizer), logprobs=True)


def token_of(llm, byte):
    known = range(llm.runtime.target.vocab_size)
    return next(at for at in known if llm.tokenizer.token_bytes(at) == bytes([byte]))


def joined(chunks, name):
    return [value for chunk in chunks for value in chunk["choices"][0]["logprobs"][name]]


def test_tokens_stand_where_their_characters_begin(llm):
    said = "a☂é\nb"
    ids = [token_of(llm, byte) for byte in said.encode()]
    ids.insert(4, 2)  # a special one
    decoder, reply, chunks, text = llm.tokenizer.stream_decoder(), made_reply(llm), [], ""
    for start in range(0, len(ids), 2):  # characters are held back until they are whole
        pair = ids[start : start + 2]
        tokens = tuple(SampledToken(token_id, -0.5, ((token_id, -0.5),)) for token_id in pair)
        piece = Piece("".join(map(decoder.push, pair)), tokens)
        reply.add(0, piece)
        chunks.append(reply.chunk(0, piece))
        text += chunks[-1]["choices"][0]["text"]
    assert text == said
    body = reply.body()["choices"][0]["logprobs"]
    assert body["text_offset"] == [0, 1, 2, 2, 2, 2, 3, 3, 4]
    assert body["tokens"][:6] == ["a", *("bytes:\\xe2", "bytes:\\x98", "bytes:\\x82"), "</s>", "bytes:\\xc3"]
    for name, value in body.items():
        assert joined(chunks, name) == value, name


def test_equal_names_keep_the_most_probable(llm):
    byte, letter = token_of(llm, 0x98), token_of(llm, ord("a"))
    other = token_of(llm, 0x99)
    reply = made_reply(llm)
    top = ((byte, -0.1), (other, -0.2), (letter, -0.3), (letter, -0.4), (2, -math.inf))
    reply.add(0, Piece("", (SampledToken(byte, -0.1, top),)))
    [named] = reply.body()["choices"][0]["logprobs"]["top_logprobs"]
    assert named == {"bytes:\\x98": -0.1, "bytes:\\x99": -0.2, "a": -0.3, "</s>": -9999.0}


def test_a_stream_has_the_log_probabilities_of_the_body(server, llm):
    signs = {token_of(llm, byte): 100 for byte in "é☂ a".encode()}
    fields = {"prompt": "The sea", "max_tokens": 40, "temperature": 2, "seed": 3, "logprobs": 5}
    for bias in (signs, {}):
        fields["logit_bias"] = {str(token): value for token, value in bias.items()}
        chunks = server.events(**fields)
        body = server.post(**fields).json()["choices"][0]
        for name, value in body["logprobs"].items():
            assert joined(chunks, name) == value, name
        assert {len(top) for top in body["logprobs"]["top_logprobs"]} == {5}
        assert max(body["logprobs"]["text_offset"]) <= len(body["text"])
        assert not bias or "é" in body["text"]
