"""A tiny target on torch, and answers of its own to learn from."""

import shutil
import subprocess

import numpy as np
import pytest

from eyas.training.data import Sample
from eyas.training.distil import DistilJob, answer_all
from tiny import VOCAB, write_llama


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    from eyas.runtimes import load_runtime

    directory = write_llama(tmp_path_factory.mktemp("trained-on"), seed=3)
    return load_runtime("torch", directory, name="tiny", dtype="float32", threads=1)


@pytest.fixture(scope="session")
def samples(runtime):
    rng = np.random.default_rng(0)
    jobs = [
        DistilJob(
            Sample(str(number), tuple(rng.integers(3, VOCAB, rng.integers(2, 9)).tolist()), (), temperature),
            number,
        )
        for number, temperature in enumerate([0.0] * 24 + [1.0] * 24)
    ]
    made = [sample for sample, _ in answer_all(runtime, jobs, [2], 24, 24)]
    return sorted(made, key=lambda sample: int(sample.id))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 96 kB, so that a full disk is a real one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # tracebacks may hold files open
