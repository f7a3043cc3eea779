"""Tiny models on every runtime, and every method on them."""

from pathlib import Path

import pytest

from eyas.engine.cycle import Engine
from eyas.runtimes import load_runtime
from eyas.runtimes.native import is_built
from tiny import write_llama

RUNTIMES = [
    ("torch", "float64"),
    *((("native", "float32"), ("native", "bfloat16"), ("native", "int8")) if is_built() else ()),
]


# What torch, where a tiny pass takes ten times as long, keeps in the suite; CI tests the others too.
ON_TORCH = (
    "test_the_answer_is_plain_decodings",
    "test_what_keeps_no_ids_says_so_and_keeps_them_where_greedy",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        is_ours = item.path.parent == Path(__file__).parent and item.originalname not in ON_TORCH
        if is_ours and parameters.get("runtime", ("",))[0] == "torch":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", params=RUNTIMES, ids="-".join)
def runtime(request, tmp_path_factory):
    name, dtype = request.param
    directory = write_llama(tmp_path_factory.mktemp("target"), max_positions=96)
    return load_runtime(name, directory, name="tiny", dtype=dtype, threads=1)


@pytest.fixture(scope="module")
def engines(runtime, tmp_path_factory):
    """One engine per method and networks, loaded at first use; and plain answers that tests share."""
    directory, loaded = tmp_path_factory.mktemp("networks"), {}

    def engine(case):
        key = (case.method, case.networks)
        if key not in loaded:
            loaded[key] = Engine(runtime, case.load(runtime, directory))
        return loaded[key]

    engine.plain = {}  # answers of plain decoding
    return engine
