"""In block formats a whole pass gives the same bits on every instruction set."""

import numpy as np
import pytest
from native_nets import ISAS, same_bits

from eyas.engine.interfaces import TargetCall
from eyas.runtimes.native import load_native_runtime
from tiny import write_llama

PARENTS = np.array([-1, 0, 0, 1, 1, 2, 5, 5, 6, -1, 9, 10])
PREFIX = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "pad_token_id": 0}
    return write_llama(tmp_path_factory.mktemp("isas") / "model", max_position_embeddings=512, **sizes)


def results(folder, **options):
    """Features of a prefill; features and logits of a tree behind it, and of a token behind one path."""
    runtime = load_native_runtime(folder, threads=1, **options)
    ids = np.random.default_rng(0).integers(0, 60, PREFIX + len(PARENTS) + 1)
    cache = runtime.new_cache()
    [prefix] = runtime.forward([TargetCall(cache, ids[:PREFIX])])
    found = [prefix.features.copy()]
    cache.commit(list(range(PREFIX)))
    [tree] = runtime.forward([TargetCall(cache, ids[PREFIX:-1], PARENTS)])
    found += [tree.features.copy(), *(tree.logits(node).copy() for node in range(len(PARENTS)))]
    cache.commit([0, 2, 5, 7])
    [last] = runtime.forward([TargetCall(cache, ids[-1:])])
    return [*found, last.features.copy(), last.logits(0).copy()]


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "q8_0"])
@pytest.mark.parametrize("dtype", ["q8_0", "q4_k_m", "q2_k"])
def test_every_instruction_set_gives_the_same_bits(folder, dtype, kv_dtype, monkeypatch):
    wanted = None
    for isa in ISAS:
        monkeypatch.setenv("EYAS_ISA", isa)
        found = results(folder, dtype=dtype, kv_dtype=kv_dtype)
        wanted = wanted or found
        for one, other in zip(found, wanted, strict=True):
            assert same_bits(one, other), isa
