// Shapes and layouts that every part of the engine shares.
//
// Letters: T tokens of a call, H hidden size, n outputs and k inputs of a matrix, E head dimension.
#pragma once

#include <cstddef>
#include <cstdint>

namespace eyas {

constexpr int kBlock = 32;     // outputs of a packed block: two vectors of 16
constexpr int kLanes = 16;     // floats of a vector, on every instruction set
constexpr int kKeyBlock = 16;  // keys of a block in the cache: one vector
constexpr int kMaxHeadDim = 256;
constexpr int kMaxTopK = 64;            // entries that the top_k kernel can find in a row
constexpr int kScaled = 64;             // int8 activations that share a scale: an outlier costs its neighbours alone
constexpr int kCacheScaled = 32;        // numbers of a key or value in q8_0 that share a scale
constexpr int kRunInputs = 32;          // int8 activations that share a scale in products with block formats
constexpr float kLeastScaled = 1e-30f;  // int8 numbers none of which is larger are all zero: 127 over it stays finite

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// How the numbers of a token are stored when they multiply a matrix.
enum class ActivationFormat : int {
  Float32,
  Bfloat16,  // two bytes, or floats of such values where the instruction set has no product of bfloat16
  Int8,      // with a scale per 64 inputs
  Int8Runs,  // with a scale per 32 inputs, for block formats
};

constexpr int kNumActivationFormats = 4;

constexpr bool is_int8(ActivationFormat format) { return format >= ActivationFormat::Int8; }

// How keys and values are stored.
enum class CacheType : int {
  Float32,
  Bfloat16,
  Q8_0,           // int8 with a float16 scale per 32 numbers
  FusedBfloat16,  // as Bfloat16, multiplied in float32: the same bits on every instruction set
};

enum class ActivationFunction : int { Silu, Gelu, GeluTanh };

// Tokens as a product reads them. Padding behind each token's numbers is zero.
struct Activations {
  ActivationFormat format = ActivationFormat::Float32;
  std::uint8_t* data = nullptr;
  std::size_t stride = 0;       // bytes of a token
  int scales = 0;               // of a token, int8 only
  float* scale = nullptr;       // (T, scales)
  std::int32_t* sum = nullptr;  // Int8: (T, scales) -128 times the sum of the int8 values: it undoes the 128 in the weights;
                                // Int8Runs: (T, scales, 2) sums of 16 values each
  float* scaled_sum = nullptr;  // Int8Runs: (T, scales) scale times the sum of its values

  std::uint8_t* token(int t) const { return data + std::size_t(t) * stride; }
};

// What becomes of a product's results.
struct Epilogue {
  enum Kind : int {
    Store,             // y = Wx + b
    Add,               // y += Wx + b
    Gated,             // y = silu(gate) * up, for matrices whose blocks hold 16 gate and 16 up outputs
    GatedActivations,  // the same, rounded as the next product reads it (not for int8)
  };
  Kind kind = Store;
  float* y = nullptr;
  std::size_t stride = 0;   // floats of a token
  int step = kLanes;        // floats from one vector of 16 outputs to the next; not for the gated kinds
  Activations activations;  // GatedActivations only
};

// Keys and values of one layer of one sequence.
//
//     keys    [kv head][slots / 16][E / group][16 slots][group]     one vector of keys at a time
//     values  [kv head][slots][E padded to 16]
//
// where a group is 1 number in float32, 2 in bfloat16, 4 in q8_0: 4 bytes. In q8_0, keys are stored plus 128, as unsigned
// bytes, and behind the keys and the values of each head follow their scales:
//
//     keys    [slots / 16][E / 32][16 slots]
//     values  [slots][E / 32]
struct LayerStore {
  CacheType type = CacheType::Float32;
  std::uint8_t* keys = nullptr;
  std::uint8_t* values = nullptr;
  int capacity = 0;  // slots, a multiple of 16
  int kv_heads = 0;
  int head_dim = 0;

  int width() const { return round_up(head_dim, kLanes); }  // numbers of a value with its padding
  int item() const { return type == CacheType::Float32 ? 4 : type == CacheType::Q8_0 ? 1 : 2; }
  int groups() const { return (head_dim * item() + 3) / 4; }  // of a key, with its padding
  int scales() const { return type == CacheType::Q8_0 ? (head_dim + kCacheScaled - 1) / kCacheScaled : 0; }

  std::size_t key_block_bytes() const { return std::size_t(groups()) * kKeyBlock * 4; }
  std::size_t value_bytes() const { return std::size_t(width()) * std::size_t(item()); }
  std::size_t key_head_bytes() const { return std::size_t(capacity / kKeyBlock) * key_block_bytes() + scale_head_bytes(); }
  std::size_t value_head_bytes() const { return std::size_t(capacity) * value_bytes() + scale_head_bytes(); }

  std::uint8_t* head_keys(int head) const { return keys + std::size_t(head) * key_head_bytes(); }
  std::uint8_t* head_values(int head) const { return values + std::size_t(head) * value_head_bytes(); }
  // Of block 0, and of slot 0.
  std::uint16_t* key_scales(int head) const { return scales_behind(head_keys(head + 1)); }
  std::uint16_t* value_scales(int head) const { return scales_behind(head_values(head + 1)); }

 private:
  std::size_t scale_head_bytes() const { return (std::size_t(capacity) * std::size_t(scales()) * 2 + 63) / 64 * 64; }
  std::uint16_t* scales_behind(std::uint8_t* end) const { return reinterpret_cast<std::uint16_t*>(end - scale_head_bytes()); }
};

// The keys that a token sees, in position order: slots first..contiguous-1, then the slots of `rest`.
struct View {
  int first = 0;
  int contiguous = 0;
  const int* rest = nullptr;
  int num_rest = 0;
};

// Attention of a few queries over one kv head.
struct AttendItem {
  const LayerStore* store = nullptr;
  int kv_head = 0;
  int count = 0;                                 // queries, at most max_queries
  const std::uint8_t* const* queries = nullptr;  // (count) of E numbers each, as `put_query` writes them
  const View* const* views = nullptr;            // (count)
  int slots = 0;                                 // slots that any of them sees lie below
  float scale = 0;                               // of the scores
  float softcap = 0;                             // scores become softcap * tanh(scores / softcap); 0 is off
  float* scores = nullptr;                       // scratch: count * score_stride
  std::size_t score_stride = 0;
  float* const* outputs = nullptr;  // (count) of E floats, padded to 16
};

}  // namespace eyas
