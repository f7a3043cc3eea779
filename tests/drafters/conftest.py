"""A tiny target on every runtime, in its most precise dtype."""

import pytest
from safetensors.numpy import load_file

from eyas.runtimes import load_runtime
from eyas.runtimes.native import is_built
from tiny import write_llama

RUNTIMES = {"torch": "float64"} | ({"native": "float32"} if is_built() else {})


@pytest.fixture(scope="session")
def target_dir(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("target"), max_positions=96)


@pytest.fixture(scope="session")
def target_weights(target_dir):
    return load_file(target_dir / "model.safetensors")


@pytest.fixture(scope="session", params=list(RUNTIMES))
def runtime(request, target_dir):
    precise = {"draft_dtype": "float32"} if request.param == "native" else {}
    dtype = RUNTIMES[request.param]
    return load_runtime(request.param, target_dir, name="tiny", dtype=dtype, threads=1, **precise)
