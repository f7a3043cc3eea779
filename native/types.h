// Shapes and layouts that every part of the engine shares.
//
// Letters: T rows of a call, H hidden size, n outputs and k inputs of a matrix, E head dimension.
#pragma once

#include <cstddef>
#include <cstdint>

namespace eyas {

// How the numbers of a matrix are stored, and so how its products are computed.
enum class Kind : int { F32 = 0, BF16 = 1, I8 = 2 };

constexpr int kBlock = 32;     // outputs of a packed block: two vectors of 16
constexpr int kLanes = 16;     // floats of a vector, on every instruction set
constexpr int kKeyBlock = 16;  // keys of a block in the cache: one vector
constexpr int kMaxHeadDim = 256;
constexpr int kMostBest = 64;           // entries that a kernel finds in a row
constexpr int kScaled = 64;             // inputs of an int8 row that share a scale: an outlier costs its neighbours alone
constexpr float kLeastScaled = 1e-30f;  // int8 rows of nothing larger are rows of zeros: 127 over it stays finite

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// A matrix (n, k) in blocks of 32 outputs. Inside a block the inputs follow each other in groups of 1 (float32),
// 2 (bfloat16) or 4 (int8); a group holds the 32 outputs' values of its inputs:
//
//     bfloat16:  [block][k / 2][32 outputs][2 inputs]
//
// so that one pass over the matrix is one straight read of memory. int8 values are stored plus 128, as unsigned.
struct Packed {
  Kind kind = Kind::F32;
  int n = 0;
  int k = 0;
  const std::uint8_t* data = nullptr;
  const float* scale = nullptr;  // (blocks * 32,) per output, int8 only
  const float* bias = nullptr;   // (blocks * 32,), or none

  int blocks() const { return (n + kBlock - 1) / kBlock; }
  int group() const { return kind == Kind::F32 ? 1 : kind == Kind::BF16 ? 2 : 4; }
  int padded_k() const { return round_up(k, group()); }
  const std::uint8_t* block(int index) const { return data + std::size_t(index) * block_bytes(); }
  std::size_t bytes() const { return std::size_t(blocks()) * block_bytes(); }
  std::size_t block_bytes() const { return std::size_t(padded_k()) * kBlock * 4 / std::size_t(group()); }
};

// Rows as a product reads them: float32, bfloat16 (two bytes, or floats that hold such values where the instruction
// set has no product of bfloat16), or int8 with a scale per 64 inputs. Padding behind each row is zero.
struct Operand {
  Kind kind = Kind::F32;
  std::uint8_t* data = nullptr;
  std::size_t stride = 0;       // bytes of a row
  int scales = 0;               // of a row, int8 only
  float* scale = nullptr;       // (T, scales)
  std::int32_t* sum = nullptr;  // (T, scales) -128 times the sum of the int8 values: it undoes the 128 in the weights

  std::uint8_t* row(int t) const { return data + std::size_t(t) * stride; }
};

// What becomes of a product's results.
enum class Finish : int {
  Store,         // y = Wx + b
  Add,           // y += Wx + b
  Gated,         // y = silu(gate) * up, for matrices whose blocks hold 16 gate and 16 up outputs
  GatedOperand,  // the same, rounded as the next product reads it (not for int8)
};

struct Target {
  Finish finish = Finish::Store;
  float* y = nullptr;
  std::size_t stride = 0;  // floats of a row
  Operand operand;         // GatedOperand only
};

// Keys and values of one layer of one sequence.
//
//     keys    [kv head][slots / 16][E / group][16 slots][group]     one vector of keys at a time
//     values  [kv head][slots][E padded to 16]
struct LayerStore {
  Kind kind = Kind::F32;  // F32 or BF16
  std::uint8_t* keys = nullptr;
  std::uint8_t* values = nullptr;
  int capacity = 0;  // slots, a multiple of 16
  int kv_heads = 0;
  int head_dim = 0;

  int width() const { return round_up(head_dim, kLanes); }  // of a value row
  int item() const { return kind == Kind::F32 ? 4 : 2; }
  std::size_t key_head_bytes() const { return std::size_t(capacity) * std::size_t(head_dim) * std::size_t(item()); }
  std::size_t value_head_bytes() const { return std::size_t(capacity) * std::size_t(width()) * std::size_t(item()); }
};

// The keys that a row sees, in position order: slots first..contiguous-1, then the slots of `rest`.
struct View {
  int first = 0;
  int contiguous = 0;
  const int* rest = nullptr;
  int num_rest = 0;
};

// Attention of a few query rows of one kv head.
struct AttendItem {
  const LayerStore* store = nullptr;
  int kv_head = 0;
  int count = 0;                                 // query rows, at most max_query_rows
  const std::uint8_t* const* queries = nullptr;  // (count) rows of E, as the store's kind is multiplied
  const View* const* views = nullptr;            // (count)
  int slots = 0;                                 // slots that any of them sees lie below
  float scale = 0;
  float* scores = nullptr;  // scratch: count * score_stride
  std::size_t score_stride = 0;
  float* const* outputs = nullptr;  // (count) rows of E floats, padded to 16
};

}  // namespace eyas
