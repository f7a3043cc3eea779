"""Draft layers with tree caches, on every runtime: a tree is its paths, and the layers are Llama's."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.models.families.common import DRAFT
from eyas.models.spec import llama_stack
from eyas.models.tensors import stack_shapes
from eyas.runtimes.torch.stack import TorchDraftStack

SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
STACKS = {
    "head": llama_stack(**SIZES, num_layers=1, first_input_norm=False, final_norm=False),
    "two-layer-head": llama_stack(**SIZES, num_layers=2, first_input_norm=False, final_norm=False),
    "biased": llama_stack(**SIZES, num_layers=2, qkv_bias=True, rope_theta=500.0),
}
# EAGLE-3's first layer reads the embeddings beside its inputs.
for name, normed in (("embeddings", False), ("embeddings-normed-residual", True)):
    plain = llama_stack(**SIZES, num_layers=2, final_norm=normed)
    first = replace(plain.layers[0], reads_embedding=True, residual_is_normed=normed)
    STACKS[name] = replace(plain, layers=(first, *plain.layers[1:]))


def random_weights(config, seed=0):
    """Arrays by checkpoint name, for exactly the tensors that the config has."""
    generator = np.random.default_rng(seed)
    shapes = DRAFT.shapes(stack_shapes(config))
    return {name: generator.normal(scale=0.3, size=shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module", params=list(STACKS))
def stack(request, llama):
    config = STACKS[request.param]
    made = llama.decoder_stack(config, random_weights(config))
    return Reading(made) if config.layers[0].reads_embedding else made


@dataclass
class Reading:
    """A stack that reads embeddings: made from its inputs, so that these are all that tests have to give."""

    stack: object

    def new_cache(self):
        return self.stack.new_cache()

    def forward(self, cache, rows, parents=None):
        beside = rows * 2
        beside[:, :16] += 1
        return self.stack.forward(cache, rows, parents, beside)


def inputs(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 32))


def run(stack, cache, rows, parents=None):
    """A forward of NumPy rows; the stack sees them in its runtime's own type."""
    is_torch = isinstance(getattr(stack, "stack", stack), TorchDraftStack)
    own = torch.from_numpy(rows) if is_torch else rows.astype(np.float32)
    return np.asarray(stack.forward(cache, own, parents))


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)  # on native no bit differs


def path_to(parents, node):
    path = [node]
    while parents[path[0]] >= 0:
        path.insert(0, int(parents[path[0]]))
    return path


@settings(max_examples=25)
@given(prefix=st.integers(0, 9), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_a_tree_is_its_paths_and_a_commit_is_a_causal_pass(stack, prefix, sizes, data):
    total = sum(sizes)
    parents = np.array([data.draw(st.integers(-1, row - 1), label=f"parent {row}") for row in range(total)])
    rows, before = inputs(total), inputs(prefix, seed=2)
    cache = stack.new_cache()
    if prefix:
        run(stack, cache, before)
        cache.commit(range(prefix))
    ends = np.cumsum(sizes)
    got = np.concatenate(
        [
            run(stack, cache, rows[end - size : end], parents[end - size : end])
            for end, size in zip(ends, sizes, strict=True)
        ]
    )
    for leaf in np.setdiff1d(np.arange(total), parents):
        path = path_to(parents, leaf)
        alone = run(stack, stack.new_cache(), np.concatenate((before, rows[path])))
        close(got[path], alone[prefix:])

    path = path_to(parents, data.draw(st.integers(0, total - 1), label="kept"))
    cache.commit(path)
    more = inputs(3, seed=3)
    kept = np.concatenate((before, rows[path]))
    alone = run(stack, stack.new_cache(), np.concatenate((kept, more)))
    close(run(stack, cache, more), alone[len(kept) :])
    length = data.draw(st.integers(0, len(kept)), label="cut to")
    cache.truncate(length)
    alone = run(stack, stack.new_cache(), np.concatenate((kept[:length], more)))
    close(run(stack, cache, more), alone[length:])


def test_native_layers_ask_for_the_embeddings_that_they_read(llama):
    if llama.target.runtime != "native":
        pytest.skip("torch trusts its callers")
    config = STACKS["embeddings"]
    stack, rows = llama.decoder_stack(config, random_weights(config)), inputs(3).astype(np.float32)
    for beside in (None, rows[:2], rows[:, :16].copy()):
        with pytest.raises(ValueError, match="embedding"):
            stack.forward(stack.new_cache(), rows, None, beside)
    second = replace(config, layers=config.layers[::-1])
    with pytest.raises(ValueError, match="only the first layer"):
        llama.decoder_stack(second, random_weights(second))


def test_the_layers_are_llamas(llama):
    config = llama_stack(**SIZES, num_layers=2, rms_norm_eps=1e-5)
    weights = random_weights(config)
    stock = transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=8, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
        )
    ).to(torch.float64)  # fmt: skip
    own = {name: torch.from_numpy(array) for name, array in weights.items()}
    stock.load_state_dict({**own, "embed_tokens.weight": torch.zeros(8, 32, dtype=torch.float64)})
    rows = inputs(9)
    with torch.inference_mode():
        states = torch.from_numpy(rows)[None]
        wanted = stock(inputs_embeds=states, use_cache=False).last_hidden_state[0]
    drafted = llama.decoder_stack(config, weights)
    # The stock norms compute in float32, whatever the dtype.
    atol = 1e-5 if llama.target.dtype == "float64" else 5e-5
    np.testing.assert_allclose(run(drafted, drafted.new_cache(), rows), wanted, rtol=0, atol=atol)
