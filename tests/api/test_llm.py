"""One model, many callers: threads take turns, methods load once, answers to one prompt share its prefill."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import eyas
from eyas.api.turns import TurnLock
from eyas.drafters.pld import PromptLookup
from eyas.engine.cycle import Engine
from eyas.errors import CheckpointError
from tiny_chat import write_chat_model

LONG = {"max_new_tokens": 40, "ignore_eos": True, "raw": True}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def llm(directory):
    return eyas.load(directory, dtype="float32", threads=1, method="autoregressive")


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestTurnLock:
    def test_who_asks_first_gets_it_first(self):
        lock, order, threads = TurnLock(), [], []

        def take(name):
            with lock:
                order.append(name)

        with lock:
            for name in range(5):
                threads.append(threading.Thread(target=take, args=(name,)))
                threads[-1].start()
                wait_until(lambda name=name: lock.num_waiting == name + 1)
            assert not order
        with lock:  # the others were first, however soon this one asks again
            order.append("again")
        for thread in threads:
            thread.join()
        assert order == [0, 1, 2, 3, 4, "again"]

    def test_it_is_free_after_an_error(self):
        lock = TurnLock()
        with pytest.raises(ZeroDivisionError), lock:
            _ = 1 / 0
        with lock:
            pass

    @pytest.mark.parametrize("is_open", [False, True], ids=["waiting", "handed over"])
    def test_a_thread_that_is_interrupted_gives_its_turn_away(self, monkeypatch, is_open):
        lock, real = TurnLock(), threading.Lock

        class Gate:
            """A lock whose second acquisition is interrupted."""

            def __init__(self):
                self.asked = 0

            def acquire(self):
                self.asked += 1
                if self.asked == 2:
                    if is_open:
                        lock.__exit__()
                    raise KeyboardInterrupt

            def release(self):
                pass

        lock.__enter__()
        monkeypatch.setattr("eyas.api.turns.Lock", Gate)
        with pytest.raises(KeyboardInterrupt):
            lock.__enter__()
        monkeypatch.setattr("eyas.api.turns.Lock", real)
        assert not lock.num_waiting
        if not is_open:
            lock.__exit__()
        with lock:
            pass


def test_the_default_model_has_its_own_name(directory, monkeypatch):
    monkeypatch.setattr("eyas.api.llm.resolve_model", lambda model, progress: directory)
    assert eyas.load(dtype="float32", threads=1).runtime.target.name == "tiny"


def test_a_method_loads_once_whichever_thread_asks_first(llm, monkeypatch):
    loaded, load = [], PromptLookup.load.__func__

    def slow(cls, runtime, files):
        loaded.append(threading.current_thread())
        time.sleep(0.05)
        return load(cls, runtime, files)

    monkeypatch.setattr(PromptLookup, "load", classmethod(slow))
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(llm.engine, ["pld"] * 8))
    assert len(loaded) == 1
    assert all(engine is engines[0] for engine in engines)


def test_a_method_that_cannot_be_loaded_does_not_block_the_others(llm):
    for _ in range(2):
        with pytest.raises(CheckpointError):
            llm.engine("medusa")
    assert llm.generate("hello", **LONG).token_ids


def test_a_batch_lets_other_threads_have_a_turn(llm, monkeypatch):
    """Another answer is made while the batch goes on; no thread waits for the whole of it."""
    llm.generate("warm", **LONG)
    sizes, step = [], Engine.try_step

    def watched(engine, runs):
        sizes.append(len(runs))
        return step(engine, runs)

    monkeypatch.setattr(Engine, "try_step", watched)
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(llm.generate_many, ["The sea", "A ship", "An owl"] * 8, batch_size=3, **LONG)
        wait_until(lambda: 3 in sizes)
        alone = llm.generate("hello", **LONG)
        assert not batch.done(), "the batch is not even half done"
        answers = batch.result()
    assert len(alone.token_ids) == 40
    assert 1 in sizes[: len(sizes) // 2]
    assert [answer.token_ids for answer in answers[:3]] == [answer.token_ids for answer in answers[3:6]]


def test_answers_to_one_prompt_are_read_once_and_differ(llm, monkeypatch):
    read, forward = [], type(llm.runtime).forward

    def watched(runtime, calls):
        read.extend(len(call.token_ids) for call in calls if call.last_only)
        return forward(runtime, calls)

    monkeypatch.setattr(type(llm.runtime), "forward", watched)
    settings = LONG | {"temperature": 1.0, "seed": 3}
    several = llm.generate("The sea is deep", n=11, **settings)
    prompt = len(several.prompt_token_ids)
    assert read[0] == prompt
    assert sum(read) < 2 * prompt, "eight at once; the others find the prompt in the prefix cache"
    assert len({choice.token_ids for choice in several.choices}) == 11
    assert (
        several.token_ids
        == several.choices[0].token_ids
        == llm.generate("The sea is deep", **settings).token_ids
    )
    options = llm.options(settings).with_seed()
    for at, choice in enumerate(several.choices):
        request = llm.request("The sea is deep", options, at)
        [*pieces] = llm.engine().stream(request)
        assert pieces[-1][0].generated == list(choice.token_ids)


@pytest.mark.parametrize("prompt", ["</s>", [{"role": "user", "content": "</s>"}]])
@pytest.mark.parametrize("raw", [False, True])
def test_names_of_control_tokens_are_text_unless_asked_for(llm, prompt, raw):
    end = llm.tokenizer.control_names["</s>"]
    for parse in (False, True):
        answer = llm.generate(prompt, raw=raw, parse_special=parse, max_new_tokens=1)
        assert (end in answer.prompt_token_ids) == parse
