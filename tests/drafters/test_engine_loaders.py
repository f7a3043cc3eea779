"""vLLM and SGLang take the folders that `eyas export-head` writes: nothing missing, nothing left over."""

import io
import re
import tarfile
import urllib.request
import zipfile
from urllib.error import URLError
from urllib.parse import urljoin

import pytest

pytest.importorskip("transformers")

from engine_loaders import load_into

from eyas.drafters.head_export import export_head
from tiny import write_eagle3

pytestmark = [pytest.mark.slow, pytest.mark.network]

INDEX = "https://pypi.org/simple/"
# The releases that were looked at, and the file of each that loads EAGLE-3 heads.
ENGINES = {
    "sglang": (r"sglang-0\.5\.23-cp311-[^\"]*x86_64\.whl", "sglang/srt/models/llama_eagle3.py"),
    "vllm": (r"vllm-0\.33\.0\.tar\.gz", "vllm-0.33.0/vllm/model_executor/models/llama_eagle3.py"),
}
VARIANTS = {
    "authors": {},
    "normed before fc": {"norm_before_fc": True},
    "3.1": {"fc_norm": True, "norm_output": True},
    "whole vocabulary": {"draft_ids": None},
}


def fetched(url):
    with urllib.request.urlopen(url, timeout=120) as answer:
        return answer.read()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, tmp_path_factory):
    """An engine's name, and its file."""
    pattern, member = ENGINES[request.param]
    page = f"{INDEX}{request.param}/"
    try:
        link = re.search(rf'href="([^"#]*{pattern})', fetched(page).decode())
        assert link, f"no release of {request.param} that matches {pattern}"
        package = io.BytesIO(fetched(urljoin(page, link[1])))
    except URLError as error:
        pytest.skip(f"{INDEX} cannot be reached: {error}")
    if link[1].endswith(".whl"):
        content = zipfile.ZipFile(package).read(member)
    else:
        with tarfile.open(fileobj=package) as archive:
            content = archive.extractfile(member).read()
    place = tmp_path_factory.mktemp("engines") / f"{request.param}.py"
    place.write_bytes(content)
    return request.param, place


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_missing_or_left_over(engine, tmp_path, variant):
    name, source = engine
    export_head(write_eagle3(tmp_path / "head", **VARIANTS[variant]), tmp_path / "out", "eagle3")
    assert load_into(name, source, tmp_path / "out") == ([], [])


def test_what_is_missing_and_what_is_left_over_is_seen(engine, tmp_path):
    name, source = engine
    export_head(write_eagle3(tmp_path / "head"), tmp_path / "out", "eagle3")
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "out" / "model.safetensors")
    tensors["midlayer.mlp.gate_proj.weights"] = tensors.pop("midlayer.mlp.gate_proj.weight")
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    if name == "vllm":  # it refuses unknown names
        with pytest.raises(AssertionError, match=r"no module or parameter named layers\.0.*weights"):
            load_into(name, source, tmp_path / "out")
        return
    missing, left = load_into(name, source, tmp_path / "out")
    assert missing == ["model.layers.0.mlp.gate_up_proj.weight"]
    assert left == ["midlayer.mlp.gate_proj.weights"]
