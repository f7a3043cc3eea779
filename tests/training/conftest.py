"""A tiny target on torch, and answers of its own to learn from."""

import numpy as np
import pytest

from eyas.training.data import Sample
from eyas.training.distil import answer_batch
from tiny import VOCAB, write_llama


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    from eyas.runtimes import load_runtime

    directory = write_llama(tmp_path_factory.mktemp("trained-on"), seed=3)
    return load_runtime("torch", directory, name="tiny", dtype="float32", threads=1)


@pytest.fixture(scope="session")
def samples(runtime):
    import torch

    rng = np.random.default_rng(0)
    made = []
    for temperature in (0.0, 1.0):
        prompts = [rng.integers(3, VOCAB, int(rng.integers(2, 9))).tolist() for _ in range(24)]
        generator = torch.Generator().manual_seed(1)
        for prompt, answer in zip(
            prompts, answer_batch(runtime, prompts, [2], temperature, 24, generator), strict=True
        ):
            name = f"{len(made)}"
            made.append(Sample(name, tuple(prompt), tuple(answer), temperature))
    return made
