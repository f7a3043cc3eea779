"""A GGUF file is a model wherever a model is named: it answers as a directory with the same numbers does."""

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

import eyas
from eyas.errors import EyasError, ModelError
from eyas.models import Tokenizer
from eyas.models.facts import model_facts
from eyas.models.gguf_convert import convert_gguf
from eyas.runtimes.native import is_built
from tiny import write_head
from tiny_gguf import weights, write_gguf

torch = pytest.importorskip("torch")

RUNTIMES = ["torch", pytest.param("native", marks=pytest.mark.skipif(not is_built(), reason="not built"))]
OPTIONS = {"max_new_tokens": 20, "ignore_eos": True}


@pytest.fixture
def file(tmp_path):
    """A file of float32 weights."""
    return write_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def folder(file, tmp_path):
    """A Hugging Face directory with the same numbers."""
    directory = tmp_path / "folder"
    directory.mkdir()
    convert_gguf(file, directory)
    save_file(weights(), directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_its_answers_are_those_of_the_directory(runtime, file, folder):
    answers = []
    for model in (file, folder):
        llm = eyas.load(model, runtime=runtime, dtype="float32", threads=1, method="pld")
        assert llm.runtime.target.runtime == runtime
        assert llm.names()["model"] == str(model)
        answers += [
            llm.generate("hello", **OPTIONS),
            llm.generate("hello", temperature=1.0, seed=1, **OPTIONS),
        ]
    assert [list(answer.token_ids) for answer in answers[:2]] == [list(a.token_ids) for a in answers[2:]]
    assert answers[0].token_ids != answers[1].token_ids


def test_parts_are_one_model(file, tmp_path):
    parts = write_gguf(tmp_path / "parts.gguf", split=6)
    options = {"runtime": "torch", "dtype": "float32", "threads": 1, "method": "autoregressive"}
    whole, split = (eyas.load(model, **options) for model in (file, parts))
    assert whole.runtime.target.fingerprint == split.runtime.target.fingerprint
    wanted = whole.generate("hello", **OPTIONS).token_ids
    assert split.generate("hello", **OPTIONS).token_ids == wanted


def test_torch_computes_with_the_dequantised_numbers(tmp_path):
    from eyas.runtimes.torch import load_torch_runtime

    kind, calls = gguf.GGMLQuantizationType.Q5_0, []
    path = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    runtime = load_torch_runtime(path, dtype="float32", progress=lambda *call: calls.append(call))
    state = runtime.model.state_dict()
    for name, array in weights().items():
        if array.ndim == 2:
            array = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        np.testing.assert_array_equal(state[name].numpy(), array, err_msg=name)
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    assert calls[0] == ("reading weights", 0, len(weights()))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_drafts_for_another_target(runtime, file, folder):
    """With `sps` by the same model everything is accepted."""
    llm = eyas.load(folder, head=file, method="sps", runtime=runtime, dtype="float32", threads=1)
    answer = llm.generate("hello", sps_length=4, **OPTIONS)
    assert answer.stats.acceptance_length > 2
    assert llm.names()["head"] == str(file)
    plain = llm.generate("hello", method="autoregressive", **OPTIONS)
    assert answer.token_ids == plain.token_ids


def test_a_head_lies_beside_it(file):
    llm = eyas.load(file, runtime="torch", dtype="float32", threads=1)
    assert llm.method == "pld"
    place = write_head(file.with_name("tiny.head"), hidden_size=64)
    assert llm.heads.find("eagle").path == place


@pytest.mark.skipif(not is_built(), reason="not built")
def test_weights_larger_than_memory_are_mapped_and_said_so(file, monkeypatch, caplog):
    from eyas.runtimes.native import load

    monkeypatch.setattr(load, "memory_bytes", lambda: 100_000)
    llm = eyas.load(file, runtime="native", threads=1, method="pld")
    assert "tiny.gguf has 0.0 GB of weights and there are 0.0 GB of memory" in caplog.text
    assert llm.generate("hello", **OPTIONS).text


def refused(model, **options):
    with pytest.raises(EyasError) as caught:
        eyas.load(model, threads=1, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(model) in message
    return message


@pytest.mark.parametrize("runtime", ["auto", *RUNTIMES])
def test_what_no_runtime_can_read_is_named(runtime, tmp_path):
    message = refused(write_gguf(tmp_path / "a.gguf", arch="mystery"), runtime=runtime)
    assert "unknown GGUF architecture 'mystery'" in message
    assert "use the original model's folder" in message


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["token_embd", "blk.1.attn_q", "blk.0.ffn_down", "output_norm"])
def test_weights_that_are_no_numbers(name, runtime, tmp_path):
    """In a block the scale, in a norm a number."""
    path = write_gguf(tmp_path / "a.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    [place] = [each for each in gguf.GGUFReader(path).tensors if each.name == f"{name}.weight"]
    broken = np.float32("inf") if name == "output_norm" else np.float16("nan")
    content = bytearray(path.read_bytes())
    content[place.data_offset : place.data_offset + broken.nbytes] = broken.tobytes()
    path.write_bytes(content)
    assert "not finite" in refused(path, runtime=runtime)


def test_a_file_without_a_tokenizer(tmp_path):
    path = write_gguf(tmp_path / "a.gguf")
    for key in (b"tokenizer.ggml.tokens", b"tokenizer.ggml.merges"):
        content = path.read_bytes()
        other = path.with_name("b.gguf")
        other.write_bytes(content.replace(key, key[:-2] + b"xx"))
        with pytest.raises(ModelError) as caught:
            Tokenizer.load(other)
        assert str(other) in str(caught.value)
        assert "\n" not in str(caught.value)
        other.unlink()


def test_facts(file, folder, tmp_path):
    count = sum(array.size for array in weights().values())
    for model in (file, folder):
        facts = model_facts(model)
        assert (facts.family, facts.parameters, facts.bits) == ("llama", count, 32.0)
    quantised = model_facts(write_gguf(tmp_path / "q.gguf", kind=gguf.GGMLQuantizationType.Q4_0))
    assert quantised.parameters == count
    assert 4.5 < quantised.bits < 6
