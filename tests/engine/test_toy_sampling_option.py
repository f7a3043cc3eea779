"""A sampling option from this file alone: it appears in Python, on the command line, over HTTP and in bench,
works on every runtime, and keeps the law: drafted ids are plain decoding's (docs/laws.md, L1)."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pytest
from starlette.testclient import TestClient

import eyas
from eyas.api.options import GenerationOptions, option_names
from eyas.cli.app import build_parser
from eyas.cli.parser import given
from eyas.config import Option
from eyas.drafters.eagle2 import Eagle2Options
from eyas.drafters.registry import find_method
from eyas.engine import processors
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftFiles
from eyas.engine.processors import register_sampling_option
from eyas.engine.sampling import Sampler, SamplingConfig, log_softmax
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree import Floats
from eyas.errors import ConfigError
from eyas.runtimes import load_runtime
from eyas.runtimes.native import is_built
from eyas.serve.app import create_app
from fake import answer, make_request
from tiny import NETWORKS, VOCAB, write_llama
from tiny_chat import write_chat_model


def top_a(
    logits: Floats,
    generated: Sequence[int],
    *,
    top_a: Annotated[
        float,
        Option(
            "drop tokens less probable than this times the square of the best one's probability",
            "A",
            at_least=0,
            at_most=1,
            off=0,
        ),
    ] = 0.0,
    no_echo: Annotated[int, Option("never repeat any of the last N tokens", at_least=0, off=0)] = 0,
) -> Floats:
    """Top-a, which has no compiled function, and an option that reads the answer so far."""
    logits[list(generated[-no_echo:]) if no_echo else []] = -np.inf
    probs = np.exp(log_softmax(logits))
    logits[probs < top_a * probs.max() ** 2] = -np.inf
    return logits


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(processors, "_PROCESSORS", dict(processors._PROCESSORS))
    register_sampling_option(top_a)


RUNTIMES = [("torch", "float64"), *((("native", "float32"), ("native", "int8")) if is_built() else ())]


@pytest.fixture(scope="module", params=RUNTIMES, ids="-".join)
def runtime(request, tmp_path_factory):
    name, dtype = request.param
    directory = write_llama(tmp_path_factory.mktemp("target"), max_positions=96)
    return load_runtime(name, directory, name="tiny", dtype=dtype, threads=1)


def ids(engine, extra, temperature, seed, options=None):
    sampling = SamplingConfig(temperature=temperature, seed=seed, extra=extra)
    stopping = StoppingConfig(max_new_tokens=30, ignore_eos=True)
    request = make_request([5, 6, 7, 5], sampling, stopping, vocab_size=VOCAB, options=options)
    return answer(engine, request)[0].generated


def load(runtime, method, head=None):
    return Engine(runtime, find_method(method).drafter.load(runtime, DraftFiles(head=lambda: head)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("head", NETWORKS["eagle"])
def test_ids_are_plain_decodings_on_every_runtime(runtime, temperature, head, tmp_path):
    plain = load(runtime, "autoregressive")
    eagle = load(runtime, "eagle2", NETWORKS["eagle"][head](tmp_path / "head"))
    changed = 0
    for seed in range(2):
        for extra in ({"top_a": 0.9}, {"no_echo": 3}, {"top_a": 0.5, "no_echo": 2}):
            wanted = ids(plain, extra, temperature, seed)
            assert ids(eagle, extra, temperature, seed, Eagle2Options()) == wanted
            echo = extra.get("no_echo", 0)
            assert all(token not in wanted[max(0, at - echo) : at] for at, token in enumerate(wanted))
            changed += wanted != ids(plain, {}, temperature, seed)
    assert changed, "the option does something"


def test_the_law_of_what_is_drawn():
    """Gumbel-max draws from the softmax of the processed logits."""
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    config = SamplingConfig(temperature=1.0, extra={"top_a": 0.8})  # drops what lies below 0.8 * 0.5 ** 2
    samplers = [Sampler(config, prompt_ids=[0], vocab_size=4, seed=seed) for seed in range(4000)]
    counts = np.bincount([sampler.choose(logits, []) for sampler in samplers], minlength=4) / 4000
    assert np.allclose(counts, [0.625, 0.375, 0, 0], atol=0.03)
    assert np.allclose(np.exp(samplers[0].log_probs(logits, [])), [0.625, 0.375, 0, 0])


def test_python_takes_it_by_name_checks_it_and_reports_it():
    options = GenerationOptions.from_names({"top_a": 0.3, "temperature": 1})
    assert options.sampling.extra == {"top_a": 0.3}
    assert options.to_dict()["top_a"] == 0.3
    assert {"top_a", "no_echo"} <= set(option_names())
    with pytest.raises(ConfigError, match="top_a is -1, but it must be a number from 0 to 1; 0 is off"):
        GenerationOptions.from_names({"top_a": -1})
    with pytest.raises(ConfigError, match="unknown option 'top_aa'; did you mean 'top_a'"):
        GenerationOptions.from_names({"top_aa": 1})


@pytest.mark.parametrize("command", [["generate"], ["chat"], ["eval"], ["bench", "run"]], ids=" ".join)
def test_the_command_line_has_it(command):
    args = build_parser(command[0]).parse_args([*command, "--top-a", "0.3", "--no-echo", "2"])
    assert given(args, option_names()) | {"temperature": 0} == {"top_a": 0.3, "no_echo": 2, "temperature": 0}


def test_http_has_it(tmp_path):
    llm = eyas.load(
        write_chat_model(tmp_path / "m"), method="pld", threads=1, runtime="torch", dtype="float64"
    )
    with TestClient(create_app(llm)) as client:
        assert "no_echo" in client.get("/openapi.json").text
        body = {"prompt": "the sea the sea", "temperature": 0, "max_tokens": 12, "ignore_eos": True}
        answer = client.post("/v1/completions", json={**body, "no_echo": 4}).json()
        wanted = llm.generate("the sea the sea", raw=True, max_new_tokens=12, ignore_eos=True, no_echo=4)
        assert answer["choices"][0]["text"] == wanted.text
        refused = client.post("/v1/completions", json={**body, "no_echo": -1})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "no_echo"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits, generated, *, toy: logits[:2], "returned no logits; it must return 4 numbers"),
        (lambda logits, generated, *, toy: logits * np.nan, "none of them NaN"),
        (lambda logits, generated, *, toy: logits - np.inf, "no token is left to sample after toy"),
    ],
    ids=["short", "nan", "nothing left"],
)
def test_an_option_that_breaks_its_promise_is_named(function, message):
    function.__name__ = "toy"
    function.__kwdefaults__ = {"toy": False}
    function.__annotations__ = {"toy": Annotated[bool, Option("a toy")]}
    register_sampling_option(function)
    sampler = Sampler(SamplingConfig(extra={"toy": True}), prompt_ids=[0], vocab_size=4)
    with pytest.raises(ConfigError, match=message):
        sampler.choose(np.zeros(4), [])


def test_two_options_of_one_name_are_refused():
    def depth(logits, generated, *, depth: Annotated[int, Option("not the tree's")] = 0):
        return logits

    register_sampling_option(depth)
    with pytest.raises(ConfigError, match="two options are called 'depth'; rename"):
        option_names()
