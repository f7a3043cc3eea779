"""Every runtime on every family that it serves. A new runtime joins by a line in RUNTIMES."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES, Stock, save_model

from eyas.models.families import describe, families
from eyas.runtimes.native import is_built, load_native_runtime
from eyas.runtimes.native.support import missing
from eyas.runtimes.torch import load_torch_runtime

torch.set_num_threads(1)  # tiny models are slower on several, above all on a busy machine


def is_native(config) -> bool:
    """Whether the native engine serves models of a config."""
    family = families().get(config.model_type)
    return family is not None and missing(describe(family, config.to_dict())) is None


# Name -> its loader, its most precise dtype, the families it serves.
RUNTIMES = {"torch": (load_torch_runtime, "float64", list(FAMILIES))}
if is_built():
    own = [name for name, make in FAMILIES.items() if is_native(make())]
    RUNTIMES["native"] = (load_native_runtime, "float32", own)
SERVED = [(runtime, family) for runtime, (*_, families) in RUNTIMES.items() for family in families]


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory) -> Callable[[str], Path]:
    """The directory of a family's tiny model, made on first use."""
    root = tmp_path_factory.mktemp("families")

    def find(family: str) -> Path:
        directory = root / family
        return directory if directory.exists() else save_model(FAMILIES[family](), directory)

    return find


def load(runtime: str, directory: Path):
    loader, dtype, _ = RUNTIMES[runtime]
    precise = {"draft_dtype": dtype} if runtime == "native" else {}  # torch drafts in the target's own
    return loader(directory, dtype=dtype, **precise)


@pytest.fixture(scope="session", params=SERVED, ids="-".join)
def served(request, model_dirs):
    """(runtime in its most precise dtype, oracle in float64) of one family."""
    name, family = request.param
    runtime, stock = load(name, model_dirs(family)), Stock(model_dirs(family))
    if runtime.target.dtype == "float32":
        stock.atol = 1e-4  # logits of about 10, sums of 32 to 48 products, three layers
    return runtime, stock


@pytest.fixture(scope="session", params=list(RUNTIMES))
def llama(request, model_dirs):
    """One runtime in its most precise dtype."""
    return load(request.param, model_dirs("llama"))


@pytest.fixture
def coarse(llama, model_dirs):
    """The same runtime in bfloat16."""
    loader, *_ = RUNTIMES[llama.target.runtime]
    return loader(model_dirs("llama"), dtype="bfloat16")


@pytest.fixture(scope="session")
def torch_llama(model_dirs):
    """The torch runtime in float64, for what it has alone."""
    return load("torch", model_dirs("llama"))
