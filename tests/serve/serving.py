"""A server on a thread of the test's process, and what reads its answers."""

import json
import socket
import threading
import time

import httpx
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

import eyas
from eyas.runtimes.native import is_built
from eyas.serve.run import make_server
from eyas.serve.settings import ServeSettings
from fake import FAST
from tiny_chat import write_chat_model

RUNTIME = (
    {"runtime": "native", "dtype": "float32"} if is_built() else {"runtime": "torch", "dtype": "float64"}
)
OWN_LABELS = {"model_name", "engine"}  # every metric has these


def tiny_model(directory, **settings):
    """A random model with a random head; costs are given, so that nothing is measured."""
    loaded = eyas.load(write_chat_model(directory, head=True, **settings), threads=1, **RUNTIME)
    loaded.loaded("eagle2")._costs = FAST
    return loaded


class Server:
    """A server on a thread of this process."""

    def __init__(self, llm, **settings):
        self.settings = ServeSettings(**settings)
        self._server = make_server(llm, self.settings)
        self.app = self._server.config.loaded_app if self._server.config.loaded else self._server.config.app
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < deadline
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.http = httpx.Client(base_url=self.url, timeout=60)

    @property
    def service(self):
        return self.app.state.service

    @property
    def openai(self):
        return OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=60)

    def post(self, path="/v1/completions", **body):
        return self.http.post(path, json=body)

    def events(self, path="/v1/completions", **body):
        """The documents of a stream; it must end as OpenAI's do."""
        with self.http.stream("POST", path, json={"stream": True, **body}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    def counts(self):
        """Metrics by name and labels, read by the library's own parser."""
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        return {
            (sample.name, *(sample.labels[key] for key in sample.labels.keys() - OWN_LABELS)): sample.value
            for family in families
            for sample in family.samples
        }

    def settle(self):
        """Wait until nothing is under way."""
        deadline = time.monotonic() + 30
        while self.service.scheduler._taken:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self):
        """What a signal does."""
        self._server.should_exit = True

    def stop(self):
        self.http.close()
        self.end()
        self._thread.join(60)
        self._socket.close()
        assert not self._thread.is_alive()


def token_ids(choice):
    """Ids that a choice or chunk reports under "eyas"."""
    return [token["id"] for token in choice["eyas"]["tokens"]]
