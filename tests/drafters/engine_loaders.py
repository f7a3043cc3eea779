"""The head loaders of vLLM and SGLang on a machine that can run neither: their files, in front of stand-ins.

A loader is one file of its engine; what it imports is replaced by modules with parameters of the same names
and shapes. So what is tested is the engine's own handling of names and of config.json: no parameter may stay
unloaded, and no tensor may be left over.
"""

import contextlib
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig

# The target's embedding stands in for one of the head's own.
FROM_TARGET = {"model.embed_tokens.weight"}


class Loads(nn.Module):
    """A layer whose weight takes tensors, whole or in shards, and remembers what it took."""

    def __init__(self, rows, columns=None, shards=None):
        super().__init__()
        self.weight = nn.Parameter(torch.full((rows,) if columns is None else (rows, columns), torch.nan))
        self.shards = shards
        self.weight.weight_loader = self.take

    def take(self, parameter, loaded, shard=None):
        start, stop = (0, len(parameter)) if shard is None else self.shards[shard]
        assert loaded.shape == parameter[start:stop].shape, (loaded.shape, parameter.shape)
        parameter.data[start:stop] = loaded.float()
        TAKEN.append(loaded.data_ptr())


TAKEN = []  # tensors that layers took, by their memory


def load_whole(parameter, loaded):
    """`default_weight_loader` of both engines."""
    assert parameter.shape == loaded.shape, (parameter.shape, loaded.shape)
    parameter.data.copy_(loaded)
    TAKEN.append(loaded.data_ptr())


def qkv(hidden, head_dim, heads, kv_heads, bias=False, **_):
    assert not bias
    sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    ends = [sum(sizes[: n + 1]) for n in range(3)]
    shards = {name: (end - size, end) for name, size, end in zip("qkv", sizes, ends, strict=True)}
    return Loads(ends[-1], hidden, shards)


class MLP(nn.Module):
    def __init__(self, hidden, inter, *_, **__):
        super().__init__()
        self.gate_up_proj = Loads(2 * inter, hidden, {0: (0, inter), 1: (inter, 2 * inter)})
        self.down_proj = Loads(hidden, inter)


class Layer(nn.Module):
    """The engines' decoder layer for a Llama."""

    def __init__(self, config):
        super().__init__()
        self.hidden_size = config.hidden_size
        self.self_attn = nn.Module()
        self.self_attn.head_dim = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        self.self_attn.total_num_heads = config.num_attention_heads
        self.self_attn.total_num_kv_heads = config.num_key_value_heads
        self.self_attn.o_proj = Loads(
            config.hidden_size, config.num_attention_heads * self.self_attn.head_dim
        )
        self.self_attn.attn = types.SimpleNamespace()
        self.input_layernorm, self.post_attention_layernorm = (
            Loads(config.hidden_size),
            Loads(config.hidden_size),
        )
        self.mlp = MLP(config.hidden_size, config.intermediate_size)


class SGLangLayer(Layer):
    def __init__(self, config, layer_id=0, **_):
        super().__init__(config)


class VLLMLayer(Layer):
    def __init__(self, vllm_config, prefix="", config=None, **_):
        super().__init__(config)


class Anything:
    """What a loader names and does not need."""

    def __init__(self, *_, **__):
        pass

    def __class_getitem__(cls, _):
        return cls


class Stand(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return COMMON.get(name, Anything)


COMMON = {
    "RMSNorm": lambda size, eps: Loads(size),
    "QKVParallelLinear": qkv,
    "ReplicatedLinear": lambda input_size, output_size, **_: Loads(output_size, input_size),
    "ParallelLMHead": lambda rows, hidden, **_: Loads(rows, hidden),
    "VocabParallelEmbedding": lambda rows, hidden, **_: Loads(rows, hidden),
    "LlamaMLP": MLP,
    "LlamaForCausalLM": nn.Module,
    "default_weight_loader": load_whole,
    "add_prefix": lambda name, prefix: f"{prefix}.{name}" if prefix else name,
    "maybe_prefix": lambda prefix, name: f"{prefix}.{name}" if prefix else name,
    "layer_stack": contextlib.nullcontext,
    "get_parallel": lambda: types.SimpleNamespace(pp_group=None),
    "get_spec": lambda: types.SimpleNamespace(speculative_draft_window_size=None),
    "DraftTPExecution": types.SimpleNamespace(SINGLE_GROUP=None),
    "support_torch_compile": lambda **_: lambda kind: kind,
    "get_draft_quant_config": lambda _: None,
    "process_eagle_weight": lambda *_: None,
    "init_logger": lambda _: types.SimpleNamespace(warning=print),
}


class WeightsMapper:
    """vLLM's, as far as this loader uses it."""

    def __init__(self, orig_to_new_substr=(), orig_to_new_stacked=()):
        self.parts, self.stacked = dict(orig_to_new_substr), dict(orig_to_new_stacked)

    def name(self, name):
        """The new name, None for none, and the shard."""
        for old, new in self.parts.items():
            if old in name:
                if new is None:
                    return None, None
                name = name.replace(old, new)
        for old, (new, shard) in self.stacked.items():
            if old in name:
                return name.replace(old, new), shard
        return name, None


class AutoWeightsLoader:
    """vLLM's, as far as this loader uses it; an unknown name is an error."""

    def __init__(self, module):
        self.module = module

    def load_weights(self, weights, mapper):
        parameters, below = dict(self.module.named_parameters()), []
        for name, loaded in weights:
            name, shard = mapper.name(name)
            if name is None:
                continue
            child = name.split(".")[0]
            if hasattr(getattr(self.module, child, None), "load_weights"):
                below.append((name.removeprefix(child + "."), loaded))
                continue
            assert name in parameters, f"there is no module or parameter named {name}"
            parameter = parameters[name]
            loader = getattr(parameter, "weight_loader", load_whole)
            loader(parameter, loaded, *(() if shard is None else (shard,)))
        if below:
            self.module.model.load_weights(below)


def load_into(engine: str, source: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Load an exported head with an engine's file.

    Returns:
        Parameters that stayed unloaded, and tensors that nothing took.
    """
    config = LlamaConfig(**json.loads((folder / "config.json").read_text()))
    tensors = load_file(folder / "model.safetensors")
    TAKEN.clear()
    model = _make(engine, source, config)
    model.load_weights(tensors.items())
    missing = [name for name, p in model.named_parameters() if p.is_floating_point() and p.isnan().any()]
    kept = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    left = set(kept.values()) - {kept[place] for place in TAKEN if place in kept} - {"t2d"}
    if engine == "sglang":  # it keeps the ids themselves
        left -= {"d2t"} if model.hot_token_id is not None else set()
    return sorted(set(missing) - FROM_TARGET), sorted(left)


def _make(engine, source, config):
    names = {"LlamaDecoderLayer": SGLangLayer if engine == "sglang" else VLLMLayer}
    names |= {"AutoWeightsLoader": AutoWeightsLoader, "WeightsMapper": WeightsMapper}
    sizes = types.SimpleNamespace(
        get_total_num_hidden_layers=lambda: 2, get_vocab_size=lambda: config.vocab_size, dtype=torch.float32
    )
    whole = types.SimpleNamespace(
        speculative_config=types.SimpleNamespace(
            draft_model_config=types.SimpleNamespace(hf_config=config), parallel_drafting=False
        ),
        model_config=sizes,
    )
    names["get_current_vllm_config"] = lambda: whole
    with _stood_in(engine, names):
        package = f"{engine}.models"
        module = types.ModuleType(f"{package}.llama_eagle3")
        module.__package__ = package
        exec(compile(source.read_text(), str(source), "exec"), module.__dict__)  # the engine's own file
        if engine == "sglang":
            return module.LlamaForCausalLMEagle3(config)
        return module.Eagle3LlamaForCausalLM(vllm_config=whole)


@contextlib.contextmanager
def _stood_in(engine, names):
    """Imports of an engine's modules give stand-ins."""

    class Finder:
        @staticmethod
        def find_spec(name, *_):
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, Finder, is_package=True) if name.split(".")[0] == engine else None

        @staticmethod
        def create_module(spec):
            return Stand(spec.name)

        @staticmethod
        def exec_module(module):
            module.__dict__.update(names)

    sys.meta_path.insert(0, Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(Finder)
        for name in [name for name in sys.modules if name.split(".")[0] == engine]:
            del sys.modules[name]
