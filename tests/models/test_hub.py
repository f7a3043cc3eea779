"""Hub ids, against a hub of our own on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

import eyas
from eyas.models import check_model_dir
from eyas.models.gguf_convert import convert_gguf
from tiny_gguf import write_gguf

SHA = "0123456789abcdef0123456789abcdef01234567"
SOURCE = str(Path(eyas.__file__).parents[1])
CODE = """
import sys
from eyas.errors import EyasError
from eyas.models import resolve_model
for name in sys.argv[1:]:
    try:
        print(resolve_model(name))
    except EyasError as error:
        print(type(error).__name__, error)
"""


def _etag(body):
    return hashlib.sha1(body).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """The endpoints that a download needs: the list of files, and each file."""

    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def _answer(self, with_body):
        path = self.path.split("?")[0]
        self.server.seen.append(path)
        if path.startswith("/api/models/org/tiny/revision/"):
            names = [name for name, _ in self._files()]
            document = {"id": "org/tiny", "sha": SHA, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(document).encode(), with_body)
        elif path.startswith(f"/api/models/org/tiny/tree/{SHA}"):
            document = [
                {
                    "type": "file",
                    "path": name,
                    "size": file.stat().st_size,
                    "oid": _etag(file.read_bytes()),
                }
                for name, file in self._files()
            ]
            self._send(200, json.dumps(document).encode(), with_body)
        elif path.startswith(f"/org/tiny/resolve/{SHA}/"):
            file = self.server.folder / unquote(path.split(SHA, 1)[1]).lstrip("/")
            if file.is_file():
                self._send(200, file.read_bytes(), with_body)
            else:
                self._send(404, b"", with_body, {"X-Error-Code": "EntryNotFound"})
        elif "gated" in path:
            self._send(403, b"", with_body, {"X-Error-Code": "GatedRepo"})
        elif "broken" in path:
            self._send(500, b"", with_body)
        else:
            self._send(404, b"", with_body, {"X-Error-Code": "RepoNotFound"})

    def _files(self):
        folder = self.server.folder
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return [(file.relative_to(folder).as_posix(), file) for file in files]

    def _send(self, code, body, with_body, headers=()):
        self.send_response(code)
        headers = {"Content-Length": str(len(body)), "X-Repo-Commit": SHA} | dict(headers)
        headers["ETag"] = f'"{_etag(body)}"'
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        """Keep the tests' output clean."""


@pytest.fixture
def hub(tmp_path):
    """A running hub with one model, which also has a pickle."""
    folder = tmp_path / "repository"
    folder.mkdir()
    convert_gguf(write_gguf(tmp_path / "tiny.gguf"), folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "README.md").write_text("hello")
    yield from serving(folder)


@pytest.fixture
def gguf_hub(tmp_path):
    """A running hub whose model is GGUF files of several kinds, one of them in parts."""
    folder = tmp_path / "repository"
    for place in (folder / "large", folder / "BF16"):
        place.mkdir(parents=True)
    write_gguf(folder / "tiny-q8_0.gguf", seed=1)
    write_gguf(folder / "tiny.Q4_K_M.gguf", seed=2)
    write_gguf(folder / "large" / "tiny-F16.gguf", seed=3, split=6)
    write_gguf(folder / "BF16" / "tiny.gguf", seed=4)
    for name in ("a", "b"):
        write_gguf(folder / f"{name}-IQ4_XS.gguf", seed=5)
    (folder / "README.md").write_text("hello")
    yield from serving(folder)


def serving(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.seen = folder, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def resolve(tmp_path):
    """`resolve_model` in a process of its own: the hub's address is read at import. A line for each name."""

    def run(*names, endpoint, **settings):
        environment = os.environ | {
            "PYTHONPATH": SOURCE,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf"),
        }
        for name_of_token in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            environment.pop(name_of_token, None)
        result = subprocess.run(
            [sys.executable, "-c", CODE, *names],
            env=environment | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert result.stderr == ""
        lines = result.stdout.splitlines()
        assert len(lines) == len(names)
        return lines

    return run


NOBODY = "http://127.0.0.1:1"  # nobody listens there


def address(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.slow
def test_a_model_is_fetched_without_its_pickle_and_kept(hub, resolve):
    [found] = resolve("org/tiny", endpoint=address(hub))
    directory = Path(found)
    check_model_dir(directory)
    for file in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        assert (directory / file).read_bytes() == (hub.folder / file).read_bytes()
    assert not [path for path in hub.seen if path.endswith((".bin", ".md"))]
    assert resolve("org/tiny", endpoint=NOBODY) == [found]
    assert resolve("org/tiny", endpoint=address(hub), HF_HUB_OFFLINE="1") == [found]


REFUSED = {
    "org/absent": "FetchError the hub has no model 'org/absent'",
    "org/gated": "FetchError org/gated is gated; accept its terms",
    "org/broken": "FetchError the hub gives no usable answer and org/broken is not",
    "org/ba--d": "FetchError the hub has no model 'org/ba--d'",
}


def test_refusals_are_one_line(hub, resolve):
    for line, message in zip(resolve(*REFUSED, endpoint=address(hub)), REFUSED.values(), strict=True):
        assert line.startswith(message)


NAMES = ("org/tiny", "org/tiny:Q8_0", "org/tiny/a.gguf")


def test_fetched_models_are_listed(hub, gguf_hub, resolve, tmp_path):
    resolve("org/tiny", endpoint=address(hub))
    resolve("org/tiny:Q8_0", "org/tiny:F16", endpoint=address(gguf_hub))
    other = tmp_path / "hf" / "hub" / "models--org--tiny" / "snapshots" / SHA / "broken-Q8_0.gguf"
    other.write_bytes(b"GGUF")
    listed = subprocess.run(
        [sys.executable, "-m", "eyas", "models", "--json"],
        env=os.environ | {"PYTHONPATH": SOURCE, "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    sizes = {row["name"]: row["size_bytes"] for row in json.loads(listed.stdout)["models"]}
    parts = sorted((gguf_hub.folder / "large").iterdir())
    assert sizes[f"org/tiny/large/{parts[0].name}"] == sum(part.stat().st_size for part in parts)
    assert sizes["org/tiny/tiny-q8_0.gguf"] == (gguf_hub.folder / "tiny-q8_0.gguf").stat().st_size
    assert {"org/tiny"} < set(sizes)
    assert not any("broken" in name for name in sizes)


def test_out_of_reach(resolve):
    for settings in ({}, {"HF_HUB_OFFLINE": "1"}):
        for line in resolve(*NAMES, endpoint=NOBODY, **settings):
            assert line.startswith("FetchError ")
            assert "check the network" in line


def test_a_repository_without_safetensors(hub, resolve):
    (hub.folder / "model.safetensors").unlink()
    [line] = resolve("org/tiny", endpoint=address(hub))
    assert line.startswith("ModelError ")


IN_PARTS = [f"large/tiny-F16-{number:05}-of-00004.gguf" for number in (1, 2, 3, 4)]
GGUF_FILES = {
    "org/tiny:Q8_0": ["tiny-q8_0.gguf"],
    "org/tiny:q4_k_m": ["tiny.Q4_K_M.gguf"],
    "org/tiny:bf16": ["BF16/tiny.gguf"],
    "org/tiny:F16": IN_PARTS,
    f"org/tiny/{IN_PARTS[0]}": IN_PARTS,
    "org/tiny/a-IQ4_XS.gguf": ["a-IQ4_XS.gguf"],
}


@pytest.mark.slow
def test_gguf_files_are_fetched_alone_and_kept(gguf_hub, resolve):
    places = resolve(*GGUF_FILES, endpoint=address(gguf_hub))
    for place, files in zip(places, GGUF_FILES.values(), strict=True):
        assert place.endswith(files[0])
        assert Path(place).read_bytes() == (gguf_hub.folder / files[0]).read_bytes()
    fetched = {path.split(SHA, 1)[1].lstrip("/") for path in gguf_hub.seen if "/resolve/" in path}
    assert fetched == {file for files in GGUF_FILES.values() for file in files}
    assert resolve(*GGUF_FILES, endpoint=NOBODY) == places
    assert resolve(*GGUF_FILES, endpoint=address(gguf_hub), HF_HUB_OFFLINE="1") == places


LACKING = {
    "org/tiny": "ModelError org/tiny holds GGUF files; name one of them: org/tiny:BF16, org/tiny:F16, ",
    "org/tiny:Q5_K": "ModelError org/tiny has no GGUF file of kind Q5_K; it has BF16, F16, IQ4_XS, Q4_K_M, ",
    "org/tiny:IQ4_XS": "ModelError org/tiny has several files of kind IQ4_XS; name one of them: org/tiny/a-",
    "org/tiny:K_M": "ModelError org/tiny has no GGUF file of kind K_M",
    "org/tiny/absent.gguf": "FetchError org/tiny has no file absent.gguf; it has BF16/tiny.gguf, a-IQ4_XS",
    "org/absent:Q8_0": "FetchError the hub has no model 'org/absent'",
    "org/gated/a.gguf": "FetchError org/gated is gated",
    "org/tiny:": "ModelError 'org/tiny:' is not a directory, a GGUF file",
    "folder/model.gguf": "ModelError 'folder/model.gguf' is not a directory, a GGUF file",
}


def test_what_a_repository_of_gguf_files_lacks(gguf_hub, resolve):
    for line, message in zip(resolve(*LACKING, endpoint=address(gguf_hub)), LACKING.values(), strict=True):
        assert line.startswith(message)
