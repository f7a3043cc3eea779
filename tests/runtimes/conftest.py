"""Every runtime on every family. A new runtime joins by a line in RUNTIMES."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES, Stock, save_model

from eyas.runtimes.torch import load_torch_runtime

torch.set_num_threads(1)  # tiny models are slower on several, above all on a busy machine

RUNTIMES = {"torch": load_torch_runtime}
SERVED = [(runtime, family) for runtime in RUNTIMES for family in FAMILIES]


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory) -> Callable[[str], Path]:
    """The directory of a family's tiny model, made on first use."""
    root = tmp_path_factory.mktemp("families")

    def find(family: str) -> Path:
        directory = root / family
        return directory if directory.exists() else save_model(FAMILIES[family](), directory)

    return find


@pytest.fixture(scope="session", params=SERVED, ids="-".join)
def served(request, model_dirs):
    """(runtime in float64, oracle) of one family."""
    runtime, family = request.param
    directory = model_dirs(family)
    return RUNTIMES[runtime](directory, dtype="float64"), Stock(directory)


@pytest.fixture(scope="session", params=list(RUNTIMES))
def llama(request, model_dirs):
    """One runtime in float64."""
    return RUNTIMES[request.param](model_dirs("llama"), dtype="float64")
