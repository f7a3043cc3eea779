"""Tiny random models on disk: a Llama target in a Hugging Face directory, and draft networks for it."""

import json
from dataclasses import replace
from functools import partial

import numpy as np

from eyas.models.families.common import DRAFT
from eyas.models.spec import llama_stack
from eyas.models.tensors import stack_shapes

HIDDEN, INTER, HEADS, KV_HEADS, LAYERS = 32, 48, 4, 2, 2
VOCAB = 64


def write_llama(directory, *, vocab_size=VOCAB, max_positions=128, seed=0, **changes):
    """A random Llama with peaked logits (so that sampling has something to choose from)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": LAYERS,
        "vocab_size": vocab_size,
        "max_position_embeddings": max_positions,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "initializer_range": 0.3,
    }
    config = LlamaConfig(**(sizes | changes))
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def write_head(directory, *, layers=1, draft_ids=None, seed=0, bias=True, scale=0.3, **config):
    """A random head in the EAGLE-1/2 layout for the Llama above."""
    matrix = matrices(seed, scale)
    weights = {"fc.weight": matrix(HIDDEN, 2 * HIDDEN)}
    if bias:
        weights["fc.bias"] = matrix(HIDDEN)
    weights |= layer_weights(matrix, layers, first_norm=False)
    document = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **layer_sizes(layers),
        "max_position_embeddings": 128,
        "vocab_size": VOCAB,
        "bias": bias,
        **config,
    }
    return write_arrays(directory, weights, document, draft_ids)


def write_eagle3(
    directory,
    *,
    layers=1,
    taps=(0, 1, 1),
    draft_ids=tuple(range(0, VOCAB, 2)),
    own_head=True,
    bias=False,
    seed=4,
    **config,
):
    """A random EAGLE-3 head for the Llama above; `config` names its variant. `taps` None are not named."""
    matrix = matrices(seed)
    num_taps = 3 if taps is None else len(taps)
    weights = {"fc.weight": matrix(HIDDEN, num_taps * HIDDEN), "norm.weight": 1 + matrix(HIDDEN)}
    weights |= layer_weights(matrix, layers, reads_embedding=True)
    for name, array in weights.items():
        if name.endswith("norm.weight"):
            weights[name] = array + matrix(HIDDEN)
    if own_head:
        weights["lm_head.weight"] = matrix(VOCAB if draft_ids is None else len(draft_ids), HIDDEN)
    if bias:
        weights["fc.bias"] = matrix(HIDDEN)
        for part, rows in {"q": HIDDEN, "k": HIDDEN // 2, "v": HIDDEN // 2}.items():
            names = (f"layers.{layer}.self_attn.{part}_proj.bias" for layer in range(layers))
            weights |= {name: matrix(rows) for name in names}
    if config.get("norm_before_fc"):
        weights["input_norm.weight"] = 1 + matrix(num_taps * HIDDEN)
    if config.get("fc_norm"):
        weights |= {f"fc_norm.{tap}.weight": 1 + matrix(HIDDEN) for tap in range(num_taps)}
    document = {"head_kind": "eagle3", "model_type": "llama", **layer_sizes(layers), "vocab_size": VOCAB}
    document |= {"max_position_embeddings": 128, **config}
    if taps is not None:
        document["eagle_aux_hidden_state_layer_ids"] = list(taps)
    return write_arrays(directory, weights, document, draft_ids)


def matrices(seed, scale=0.3):
    """What makes random arrays of a shape."""
    rng = np.random.default_rng(seed)
    return lambda *shape: (scale * rng.standard_normal(shape)).astype(np.float32)


def stack(layers, *, first_norm=True, final_norm=False):
    """The description of decoder layers of the Llama's sizes."""
    return llama_stack(
        hidden_size=HIDDEN,
        intermediate_size=INTER,
        num_layers=layers,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HIDDEN // HEADS,
        first_input_norm=first_norm,
        final_norm=final_norm,
    )


def layer_weights(matrix, layers, *, first_norm=True, reads_embedding=False, prefix=""):
    """Random decoder layers of the Llama's sizes, their norms 1."""
    spec = stack(layers, first_norm=first_norm)
    if reads_embedding:
        first = replace(spec.layers[0], reads_embedding=True)
        spec = replace(spec, layers=(first, *spec.layers[1:]))
    shapes = DRAFT.shapes(stack_shapes(spec))
    return {
        prefix + name: matrix(*shape) if len(shape) > 1 else np.ones(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }


def layer_sizes(layers):
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
    }


def write_medusa(
    directory, *, heads=4, layers=1, draft_ids=None, own_heads=False, outputs=False, seed=1, **config
):
    """Random Medusa heads for the Llama above; `own_heads` in the published layout, as a pickle."""
    matrix, weights = matrices(seed), {}
    for head in range(heads):
        for layer in range(layers):
            weights[f"{head}.{layer}.linear.weight"] = matrix(HIDDEN, HIDDEN)
            weights[f"{head}.{layer}.linear.bias"] = matrix(HIDDEN)
        if own_heads:
            weights[f"{head}.{layers}.weight"] = matrix(VOCAB, HIDDEN)
        if outputs:
            weights[f"{head}.output.weight"] = matrix(HIDDEN, HIDDEN)
            weights[f"{head}.output.bias"] = matrix(HIDDEN)
    document = {"medusa_num_heads": heads, "medusa_num_layers": layers, **config}
    if own_heads:
        return write_pickle(directory, "medusa_lm_head.pt", weights, document)
    return write_arrays(directory, weights, {"hidden_size": HIDDEN, **document}, draft_ids)


def write_hydra(
    directory, *, arch="prefix-mlp", heads=4, layers=3, draft_ids=None, own_heads=False, seed=2, **config
):
    """Random Hydra heads for the Llama above; `own_heads` in the published layout, as a pickle."""
    matrix, weights = matrices(seed), {}
    places = [2 * j + 1 if arch == "prefix-mlp" else j for j in range(layers)]
    if arch == "prefix-mlp":
        weights |= layer_weights(matrix, 1, prefix="prefix_embeding_layer.")
        weights["prefix_embeding_layer.norm.weight"] = 1 + matrix(HIDDEN)
    for head in range(heads):
        shared = matrix(HIDDEN, HIDDEN), matrix(HIDDEN)
        for place in places if own_heads else places[:2]:
            name, inputs = f"hydra_mlp.{head}.{place}.", (head + 2) * HIDDEN
            if place == places[0]:
                weights |= {
                    name + "linear.weight": matrix(HIDDEN, inputs),
                    name + "linear.bias": matrix(HIDDEN),
                }
                weights[name + "res_connection.weight"] = matrix(HIDDEN, inputs)
                weights[name + "res_connection.bias"] = matrix(HIDDEN)
            else:
                weights |= {name + "linear.weight": shared[0], name + "linear.bias": shared[1]}
        if own_heads:
            name = f"hydra_lm_head.{head}{'.1' if arch == 'prefix-mlp' else ''}"
            weights |= {name + ".weight": matrix(VOCAB, HIDDEN), name + ".bias": matrix(VOCAB)}
    document = {"hydra_num_heads": heads, "hydra_num_layers": layers, "hydra_head_arch": arch}
    document |= {"grounded_heads": True, **layer_sizes(1), **config}
    if own_heads:
        unused = ["input_embed_fn.weight"]
        unused += ["prefix_embeding_layer.embed_tokens.weight"] if arch == "prefix-mlp" else []
        weights |= {name: matrix(VOCAB, HIDDEN) for name in unused}
        return write_pickle(directory, "hydra_lm_head.pt", weights, document)
    return write_arrays(directory, weights, document, draft_ids)


def write_draft_lm(directory, *, layers=2, draft_ids=None, seed=3, **config):
    """Random layers between the Llama's embedding and LM head."""
    matrix = matrices(seed)
    weights = layer_weights(matrix, layers) | {"norm.weight": 3 + matrix(HIDDEN)}
    document = {"model_type": "eyas-draft-lm", **layer_sizes(layers), **config}
    return write_arrays(directory, weights, document, draft_ids)


def write_arrays(directory, weights, document, draft_ids=None):
    """A network's two files, with a draft vocabulary if there is one."""
    from safetensors.numpy import save_file

    if draft_ids is not None:
        ids = np.asarray(draft_ids, dtype=np.int64)
        weights["d2t"] = ids - np.arange(len(ids))
        document["draft_vocab_size"] = len(ids)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(document))
    return directory


def write_pickle(directory, name, weights, document):
    """A network as its authors published it."""
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    torch.save({key: torch.from_numpy(array) for key, array in weights.items()}, directory / name)
    (directory / "config.json").write_text(json.dumps(document))
    return directory


# Draft networks by kind, as methods ask for them (`Method.head`), then by a name of the tests' own. A writer
# fills a directory.
NETWORKS = {
    "eagle": {
        "one-layer": write_head,
        "two-layers-draft-vocabulary": partial(
            write_head, layers=2, draft_ids=range(0, VOCAB, 2), bias=False
        ),
    },
    "eagle3": {
        "draft-vocabulary": write_eagle3,
        "normed-residual-two-layers-biases-one-tap": partial(
            write_eagle3, layers=2, taps=(1,), bias=True, norm_before_residual=True, norm_before_fc=True
        ),
        "normed-output-whole-vocabulary": partial(
            write_eagle3, draft_ids=None, fc_norm=True, norm_output=True
        ),
        "the-targets-lm-head": partial(write_eagle3, own_head=False, taps=(0, 1)),
    },
    "medusa": {
        "draft-vocabulary": partial(write_medusa, draft_ids=range(0, VOCAB, 2)),
        "output-maps": partial(write_medusa, draft_ids=range(0, VOCAB, 2), outputs=True),
    },
    "hydra": {"draft-vocabulary": partial(write_hydra, draft_ids=range(0, VOCAB, 2))},
    "draft-lm": {
        "draft-vocabulary": partial(write_draft_lm, draft_ids=range(0, VOCAB, 2)),
        "whole-model-of-few-positions": partial(write_llama, num_hidden_layers=1, max_positions=48),
    },
}
