"""transformers beside us, on the tiny model: the same prompt, as many tokens, and in float32 the same ids."""

import pytest

from eyas.api.llm import load
from eyas.bench.peers import PEERS, Absent, PeerSettings, gguf_file, load_peers
from eyas.errors import ConfigError

NAMES = ("transformers", "transformers-pld", "transformers-assisted")


@pytest.fixture(scope="module")
def settings(model):
    return PeerSettings(model=model, dtype="float32", threads=1, assistant=model)


def test_transformers_writes_what_plain_decoding_writes(model, settings):
    llm = load(model, dtype="float32", threads=1, method="autoregressive")
    answer = llm.generate("tides", max_new_tokens=12, ignore_eos=True)
    peers, left_out = load_peers(NAMES, settings)
    assert not left_out
    for name, peer in peers.items():
        token_ids, prefill, decode = peer(answer.prompt_token_ids, 12)
        assert token_ids == list(answer.token_ids), name
        assert prefill > 0
        assert decode >= 0


def test_what_cannot_be_measured_says_why(model):
    alone = PeerSettings(model=model, dtype="float32", threads=1)
    with pytest.raises(Absent, match="--peer-assistant"):
        PEERS["transformers-assisted"](alone)
    with pytest.raises(Absent, match="default model only"):
        PEERS["llama.cpp"](alone)


def test_a_gguf_file_is_run_as_it_is_by_the_one_peer_that_can(tmp_path):
    (tmp_path / "model.gguf").touch()
    settings = PeerSettings(model=tmp_path / "model.gguf", dtype="float32", threads=1)
    reasons = {"transformers": "would convert to floats", "llama.cpp-Q8_0": "runs as it is"}
    for name, reason in reasons.items():
        with pytest.raises(Absent, match=reason):
            PEERS[name](settings)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot make the folder .*file/below: Not a directory"):
        gguf_file(tmp_path / "file" / "below", "BF16")
