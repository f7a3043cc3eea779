"""The torch cache: rows are written in place, buffers grow, interrupted forwards leave no trace."""

import numpy as np
import pytest

from eyas.engine.interfaces import TargetCall
from eyas.runtimes.torch import cache as cache_module
from eyas.runtimes.torch.pending import PathRows


def forward(runtime, cache, token_ids, parents=None):
    [rows] = runtime.forward([TargetCall(cache, np.asarray(token_ids), parents)])
    return rows


def test_buffers_grow_and_keep_their_rows(torch_llama, monkeypatch):
    wanted = forward(torch_llama, torch_llama.new_cache(), np.arange(40)).logits(39)
    monkeypatch.setattr(cache_module, "FIRST_CAPACITY", 3)
    cache = torch_llama.new_cache()
    for token in range(40):
        rows = forward(torch_llama, cache, [token])
        cache.commit([0])
    np.testing.assert_allclose(rows.logits(0), wanted, rtol=0, atol=1e-10)
    assert cache.buffers()[0].keys.shape[2] == 48  # 3, 6, 12, 24, 48


def test_the_prefix_is_not_copied_per_call(torch_llama):
    cache = torch_llama.new_cache()
    addresses = set()
    for token in range(5):
        forward(torch_llama, cache, [token, token], np.array([-1, -1]))
        cache.commit([1])
        addresses.add(tuple(buffer.keys.data_ptr() for buffer in cache.buffers()))
    assert len(addresses) == 1


def test_an_interrupted_forward_leaves_the_cache_as_it_was(torch_llama, monkeypatch):
    cache = torch_llama.new_cache()
    forward(torch_llama, cache, [1, 2, 3])
    cache.commit([0, 1, 2])
    wanted = forward(torch_llama, cache, [4, 5], np.array([-1, 0])).logits(1)
    cache.commit([])

    last_layer = torch_llama.model.model.layers[-1]
    with monkeypatch.context() as patch:
        patch.setattr(last_layer, "forward", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            forward(torch_llama, cache, [8, 9])
    assert (cache.length, cache.num_pending) == (3, 0)
    np.testing.assert_array_equal(forward(torch_llama, cache, [4, 5], np.array([-1, 0])).logits(1), wanted)


def _interrupt(*_args, **_kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("path", "moves"),
    [
        pytest.param([], (2, []), id="nothing"),
        pytest.param([0, 1, 3], (4, [5]), id="gap"),
        pytest.param([0, 2], (3, [4]), id="second child"),
        pytest.param([0, 1], (4, []), id="in place"),
    ],
)
def test_a_commit_moves_only_what_is_out_of_place(path, moves):
    rows = PathRows()
    rows.append(rows.place(2, None))
    rows.settle(2)
    rows.append(rows.place(4, np.array([-1, 0, 0, 1])))
    first, slots = rows.moves(path)
    assert (first, slots.tolist()) == moves


@pytest.mark.parametrize("path", [[1], [0, 3], [2, 0], [0, 4], [0, 0]])
def test_a_path_must_be_one(path):
    rows = PathRows()
    rows.append(rows.place(4, np.array([-1, 0, 0, 1])))
    with pytest.raises(AssertionError):
        rows.moves(path)


def test_parents_stand_before_their_children():
    with pytest.raises(AssertionError):
        PathRows().place(2, np.array([-1, 1]))
