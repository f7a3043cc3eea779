"""A GGUF file of random weights with the shape of Llama 3.1 8B, mixed as Q4_K_M: how large a model is, not what it says.

    python benchmarks/random_gguf.py big.gguf                # 4.9 GB
    python benchmarks/random_gguf.py small.gguf --layers 4

It has no tokenizer: `benchmarks/gguf_passes.py` measures it by token ids.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_SIZE, VOCABULARY = 4096, 14336, 32, 8, 128, 128_256
Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
# Where a block's float16 scales lie, and a value that makes weights of about 0.02.
SCALES = {Q4_K: {0: 4e-5, 2: 3e-4}, Q6_K: {208: 2e-5}}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    writer = gguf.GGUFWriter(args.out, "llama", use_temp_file=True)
    describe(writer, args.layers)
    generator = np.random.default_rng(0)
    for name, shape, kind in tensors(args.layers):
        if kind is None:
            writer.add_tensor(name, np.ones(shape, dtype=np.float32))
        else:
            writer.add_tensor(name, random_blocks(generator, shape, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, layers: int) -> None:
    """Sizes, as Llama 3.1 8B's."""
    writer.add_block_count(layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500_000.0)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_vocab_size(VOCABULARY)


def tensors(layers: int):
    """Name, shape (outputs, inputs), kind; Q4_K_M has more bits for half of the values and down projections."""
    yield "token_embd.weight", (VOCABULARY, HIDDEN), Q4_K
    yield "output.weight", (VOCABULARY, HIDDEN), Q6_K
    yield "output_norm.weight", (HIDDEN,), None
    kv = KV_HEADS * HEAD_SIZE
    for layer in range(layers):
        better = Q6_K if layer < layers // 8 or layer >= 7 * layers // 8 or layer % 3 == 2 else Q4_K
        for name, shape, kind in (
            ("attn_norm", (HIDDEN,), None),
            ("attn_q", (HIDDEN, HIDDEN), Q4_K),
            ("attn_k", (kv, HIDDEN), Q4_K),
            ("attn_v", (kv, HIDDEN), better),
            ("attn_output", (HIDDEN, HIDDEN), Q4_K),
            ("ffn_norm", (HIDDEN,), None),
            ("ffn_gate", (INTERMEDIATE, HIDDEN), Q4_K),
            ("ffn_up", (INTERMEDIATE, HIDDEN), Q4_K),
            ("ffn_down", (HIDDEN, INTERMEDIATE), better),
        ):
            yield f"blk.{layer}.{name}.weight", shape, kind


def random_blocks(generator: np.random.Generator, shape: tuple[int, int], kind) -> np.ndarray:
    """(outputs, bytes of a row) random bytes with scales that are small numbers."""
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.frombuffer(generator.bytes(shape[0] * shape[1] // numbers * size), dtype=np.uint8).copy()
    blocks = blocks.reshape(-1, size)
    for place, scale in SCALES[kind].items():
        blocks[:, place : place + 2] = np.array([scale], dtype="<f2").view(np.uint8)
    return blocks.reshape(shape[0], -1)


if __name__ == "__main__":
    main()
