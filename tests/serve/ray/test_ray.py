"""Two replicas on one machine: the same ids, streams kept, and a killed replica loses no request.

Not part of the default run: `make test-ray`.
"""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # a busy machine starts it slowly
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tests tell nobody

import ray
from ray import serve

import eyas
from eyas.serve.ray import RayOptions, app
from tiny_chat import write_chat_model

FIELDS = {"prompt": "The sea", "temperature": 1.0}
REPLICA = "ray::ServeReplica:eyas:Replica"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_chat_model(tmp_path_factory.mktemp("models") / "tiny", head=True))


@pytest.fixture(scope="module")
def url(model):
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": 8765})
    options = RayOptions(
        model=model, threads=1, replicas=2, method="autoregressive", settings={"max_concurrent": 4}
    )
    serve.run(app(options), name="eyas", route_prefix="/")
    scale(2)
    yield "http://127.0.0.1:8765"
    serve.shutdown()
    ray.shutdown()


def scale(count):
    deadline = time.monotonic() + 240
    while len(replicas()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def replicas():
    """Processes of replicas, by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(REPLICA.encode()):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def ask(url, seed, **fields):
    response = httpx.post(f"{url}/v1/completions", json={**FIELDS, "seed": seed, **fields}, timeout=120)
    assert response.status_code == 200, response.text
    return [token["id"] for token in response.json()["choices"][0]["eyas"]["tokens"]]


def alone(model, seeds, tokens):
    llm = eyas.load(model, threads=1, method="autoregressive")
    return {
        seed: list(
            llm.generate("The sea", raw=True, temperature=1.0, seed=seed, max_new_tokens=tokens).token_ids
        )
        for seed in seeds
    }


def test_answers_streams_and_errors_pass_through(url, model):
    expected = alone(model, range(12), 24)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda seed: ask(url, seed, max_tokens=24), range(12)))
    assert answers == list(expected.values())
    with httpx.stream(
        "POST",
        f"{url}/v1/completions",
        json={**FIELDS, "seed": 3, "max_tokens": 24, "stream": True},
        timeout=60,
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert len(chunks) > 2
    ids = [token["id"] for chunk in chunks for token in chunk["choices"][0]["eyas"]["tokens"]]
    assert ids == expected[3]
    refused = httpx.post(f"{url}/v1/completions", json={**FIELDS, "tools": [1]}, timeout=60)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "tools"
    assert httpx.get(f"{url}/ready", timeout=60).json() == {"ready": True}


def test_a_killed_replica_loses_no_request_that_had_not_begun(url, model):
    seeds = range(100, 172)
    expected = alone(model, seeds, 200)
    before, done = replicas(), []

    def ask_and_kill(seed):
        answer = ask(url, seed, max_tokens=200)
        done.append(seed)
        if len(done) == 12:  # twelve clients: the others are under way on both replicas
            os.kill(before[0], signal.SIGKILL)
        return answer

    with ThreadPoolExecutor(12) as pool:
        answers = dict(zip(seeds, pool.map(ask_and_kill, seeds), strict=True))
    assert before[0] not in replicas()
    assert answers == expected
    scale(2)
