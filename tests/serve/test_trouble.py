"""Clients that leave, queues that are full, answers that fail, a server that ends: nobody else notices."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serving import token_ids

from eyas.engine.cycle import Engine

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
LONG = {"prompt": "The sea", "max_tokens": 200, "temperature": 0}


@contextmanager
def held(server):
    """The engine's thread stands still meanwhile."""
    gate, reached = threading.Event(), threading.Event()
    server.service.scheduler.call(lambda: reached.set() or gate.wait(60))
    assert reached.wait(60)
    try:
        yield
    finally:
        gate.set()


@pytest.fixture
def slow(monkeypatch):
    """A cycle takes 5 ms longer, so that an answer can be met half done."""
    step = Engine.try_step
    monkeypatch.setattr(Engine, "try_step", lambda self, runs: time.sleep(0.005) or step(self, runs))


@pytest.fixture
def faulty(monkeypatch):
    """Answers with seed 666 fail in their third cycle."""
    finish = Engine._finish_cycle

    def failing(self, run, tree, rows):
        if run.request.sampler.seed == 666 and run.counter.cycles == 2:
            raise ZeroDivisionError("secret details")
        return finish(self, run, tree, rows)

    monkeypatch.setattr(Engine, "_finish_cycle", failing)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("streaming", [True, False])
def test_an_answer_ends_when_its_client_leaves(serve, slow, streaming):
    server = serve()
    if streaming:
        with server.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/completions", json=LONG, timeout=0.3)
    server.settle()
    counts = server.counts()
    assert counts["vllm:request_success_total", "abort"] == 1
    assert 0 < counts["vllm:generation_tokens_total",] < 200
    wait_until(lambda: server.counts()["vllm:num_requests_running",] == 0)
    assert server.post(**LONG).json()["usage"]["completion_tokens"] == 200


def test_a_client_may_leave_while_it_waits(serve):
    server = serve(max_concurrent=1)
    with held(server):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/completions", json={**LONG, "stream": True}, timeout=0.2)
        time.sleep(0.1)
    server.settle()
    assert ("vllm:generation_tokens_total",) in server.counts()
    assert server.counts()["vllm:generation_tokens_total",] == 0


@pytest.mark.slow
def test_random_leavers_do_not_disturb_the_others(serve, llm, slow):
    server = serve(max_concurrent=4)

    def ask(at):
        fields = {**LONG, "max_tokens": 20, "temperature": 1, "seed": at}
        if at % 3 == 1:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{server.url}/v1/completions", json={**fields, "max_tokens": 200}, timeout=0.02 * at
                )
            return None
        return server.post(**fields).json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(1, 19)))
    server.settle()
    for at, answer in enumerate(answers, start=1):
        if answer is not None:
            expected = llm.generate("The sea", raw=True, max_new_tokens=20, temperature=1.0, seed=at)
            assert token_ids(answer["choices"][0]) == list(expected.token_ids)
    counts = server.counts()
    assert counts["vllm:request_success_total", "abort"] == sum(answer is None for answer in answers)


def test_a_full_queue_says_when_to_come_again(serve):
    server = serve(max_concurrent=1, max_queue=1)
    with ThreadPoolExecutor(2) as pool:
        with held(server):
            taken = [pool.submit(server.post, **LONG) for _ in range(2)]
            wait_until(lambda: server.service.scheduler._taken == 2)
            for stream in (True, False):
                refused = server.post(**LONG, stream=stream)
                assert refused.status_code == 429
                assert 1 <= int(refused.headers["retry-after"]) <= 60
                assert refused.json()["error"]["code"] == "queue_full"
            assert server.post(**LONG, n=3).status_code == 429
        assert [answer.result().status_code for answer in taken] == [200, 200]


def test_a_deadline_is_a_status_or_an_event(serve, slow):
    server = serve(deadline=1)
    with ThreadPoolExecutor(1) as pool:
        with held(server):
            answer = pool.submit(server.post, **LONG, stream=True)
            wait_until(lambda: server.service.scheduler._taken == 1)
            time.sleep(1)
        assert answer.result().status_code == 504
        assert answer.result().json()["error"]["code"] == "deadline_exceeded"
    *chunks, last = server.events(**{**LONG, "max_tokens": 240, "eyas": {"method": "autoregressive"}})
    assert len(chunks) > 2
    assert last["error"]["code"] == "deadline_exceeded"


def test_an_answer_that_fails_fails_alone(serve, faulty, llm):
    server = serve()
    fields = {"prompt": "The sea", "max_tokens": 30, "temperature": 1}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda at: server.post(**fields, seed=666 if at % 3 == 1 else at), range(9)))
    for at, answer in enumerate(answers):
        if at % 3 == 1:
            assert answer.status_code == 500
            error = answer.json()["error"]
            assert error["type"] == "server_error"
            assert error["request_id"] in error["message"]
            assert "secret" not in answer.text
        else:
            expected = llm.generate("The sea", raw=True, max_new_tokens=30, temperature=1.0, seed=at)
            assert token_ids(answer.json()["choices"][0]) == list(expected.token_ids)
    *chunks, last = server.events(**fields, seed=666)
    assert chunks
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(last)
    assert server.http.get("/health").status_code == 200
    assert server.counts()["vllm:request_success_total", "error"] == 4


def test_a_dead_engine_is_not_healthy(serve):
    server = serve()
    server.service.scheduler.close()
    assert server.http.get("/health").status_code == 503
    assert server.post(**LONG).status_code == 503


@pytest.mark.parametrize("drain", [0, 1])
def test_what_outlasts_the_drain_ends_with_an_error(serve, slow, caplog, drain):
    server = serve(drain=drain)
    fields = {**LONG, "max_tokens": 240, "eyas": {"method": "autoregressive"}, "stream": True}
    with (
        ThreadPoolExecutor(1) as pool,
        server.http.stream("POST", "/v1/completions", json=fields) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        whole = pool.submit(httpx.post, f"{server.url}/v1/completions", json={**fields, "stream": False})
        wait_until(lambda: server.service.scheduler._taken == 2)
        server.end()
        *chunks, last, done = [line for line in lines if line]
        refused = whole.result()
    server.stop()
    assert chunks
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
    assert done == "data: [DONE]"
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_client_that_does_not_read_cannot_hold_the_server(serve, caplog, monkeypatch):
    """Its connection is closed, without a traceback; the engine has ended before."""
    monkeypatch.setattr("eyas.serve.run.CUT_OFF_SECONDS", 0.5)
    caplog.set_level(logging.INFO)
    server = serve(drain=0)
    body = json.dumps({**LONG, "n": 16, "logprobs": 20, "stream": True, "ignore_eos": True}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        head = "POST /v1/completions HTTP/1.1\r\nHost: eyas\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: server.service.scheduler._taken == 16)
        server.settle()  # all is made, and waits to be read
        began = time.monotonic()
        server.stop()
        assert 0.5 <= time.monotonic() - began < 5, "it was held, but not for long"
    assert not [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info]
    assert [record.getMessage() for record in caplog.records].count("request") == 1, "it is logged as ended"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_lets_answers_end(llm, tmp_path, number):
    """The real command: answers under way come whole, new connections are refused, the exit is orderly."""
    source = Path(__file__).parents[2] / "src"
    slow = "import time, eyas.engine.cycle as e; s = e.Engine.try_step\n" \
        "e.Engine.try_step = lambda self, runs: time.sleep(0.02) or s(self, runs)\n" \
        "from eyas.cli import main; raise SystemExit(main())"  # fmt: skip
    command = [
        *(sys.executable, "-c", slow, "serve", "--port", "0", "--threads", "1", "--method", "autoregressive"),
        *(
            "--model",
            str(llm.path),
            "--runtime",
            llm.runtime.target.runtime,
            "--dtype",
            llm.runtime.target.dtype,
        ),
    ]
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "EYAS_CACHE": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            line = process.stderr.readline()
            url = line.partition("serving on ")[2].partition(";")[0]
            with httpx.Client(base_url=url, timeout=60) as http:
                wait_until(lambda: http.get("/ready").status_code == 200)
                with http.stream(
                    "POST", "/v1/completions", json={**LONG, "max_tokens": 60, "stream": True}
                ) as response:
                    lines = response.iter_lines()
                    next(lines)
                    process.send_signal(number)
                    time.sleep(0.3)
                    with pytest.raises(httpx.ConnectError):
                        httpx.get(f"{url}/health")
                    rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            last = json.loads(rest[-2].removeprefix("data: "))
            assert last["choices"][0]["finish_reason"] == "length"
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "port is 70000, but it must be a whole number from 0 to 65535"),
        (["--max-concurrent", "0"], "at least 1"),
        (["--deadline", "nan"], "at least 1"),
        (["--api-key", " "], "api_key is empty"),
        (["--host", ""], "host is empty"),
        (["--cache-tokens", "2", "--port", "0"], "cache_tokens is 2, but"),
        (["--host", "203.0.113.7", "--port", "0"], "cannot listen"),
    ],
)
def test_bad_settings_are_one_line(llm, capsys, arguments, message):
    from eyas.cli import main

    code = main(["serve", "--model", str(llm.path), "--method", "autoregressive", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("eyas: error: ")
    assert message in line


def test_the_key_may_come_from_the_environment(monkeypatch, llm):
    from eyas.cli import main

    seen = []
    monkeypatch.setenv("EYAS_API_KEY", "from-outside")
    monkeypatch.setattr("eyas.serve.run.serve", lambda _llm, settings, _say: seen.append(settings.api_key))
    arguments = ["serve", "--model", str(llm.path), "--method", "autoregressive"]
    assert main(arguments) == main([*arguments, "--api-key", "typed"]) == 0
    assert seen == ["from-outside", "typed"]
