// Decoder layers: a whole target, or the layers of a draft network.
#pragma once

#include <memory>
#include <vector>

#include "cache.h"
#include "kernels.h"
#include "team.h"

namespace eyas {

struct StackShape {
  int hidden = 0;
  int intermediate = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  float eps = 1e-6f;
  float rope_factor = 1.0f;                // of the cosines and sines (yarn)
  std::vector<float> inverse_frequencies;  // (head_dim / 2,)
};

// Weights of one layer. Norms are padded to 32 floats; a null norm is left out.
struct Layer {
  const float* input_norm = nullptr;
  const float* post_norm = nullptr;
  const float* query_norm = nullptr;  // (head_dim,), Qwen3
  const float* key_norm = nullptr;
  Packed qkv;  // query, key and value heads one below the other
  Packed output;
  Packed gate_up;  // blocks of 16 gate and 16 up outputs
  Packed down;
  int window = 0;  // positions that a row sees; 0 is all
};

// Rows of one sequence in a forward.
struct Call {
  Cache* cache = nullptr;
  int count = 0;
  const int* parents = nullptr;  // null: a chain
};

// Memory that grows and is kept; aligned to 64 bytes.
class Buffer {
 public:
  Buffer() : memory_(nullptr, std::free) {}
  void reserve(std::size_t bytes);
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  std::unique_ptr<std::uint8_t, void (*)(void*)> memory_;
  std::size_t bytes_ = 0;
};

// Rows prepared for products of one kind, in a buffer of their own.
class OperandBuffer {
 public:
  const Operand& reserve(const Kernels& kernels, Kind kind, int rows, int k);
  const Operand& operand() const { return operand_; }

 private:
  Buffer data_, scale_, sum_;
  Operand operand_;
};

// All rows of x times w, by all threads: each its share of the blocks. At its end a thread fetches the share of `after`
// that it begins with next, so that memory works while the rows are mixed, normed or waited for.
void multiply_together(Phase& phase, const Kernels& kernels, const Packed& w, const Operand& x, int rows, const Target& target,
                       const Packed& after);

class Stack {
 public:
  Stack(const Kernels& kernels, Team& team, const StackShape& shape, std::vector<Layer> layers, const float* final_norm);

  const StackShape& shape() const { return shape_; }
  int num_layers() const { return int(layers_.size()); }
  CacheShape cache_shape(int limit) const;

  // Runs rows x (T, stride floats, the first `hidden` of each in use, zeros behind) through all layers in place and
  // appends them to their caches. All caches must have admitted their rows.
  void forward(const std::vector<Call>& calls, float* x);
  int stride() const { return round_up(shape_.hidden, kBlock); }

 private:
  struct Row {  // where a row stands, and what it sees without and with the window
    Cache* cache;
    int slot;
    int position;
    View view;
    View windowed;
  };
  struct Item {  // query rows begin..end of one kv head; row t has those from t * (heads / kv_heads) on
    int kv_head;
    int begin;
    int end;
  };

  void place(const std::vector<Call>& calls, int total);
  void run_layer(Phase& phase, int index, float* x, int rows);
  void rotate_and_put(const Layer& layer, int index, int head, int begin, int end);
  void attend(const Layer& layer, int index, const Item& item, float* scores);
  Kind cache_kind() const;
  void prepare_rows(Phase& phase, const float* x, const float* norm, const Operand& out, int rows);
  void grow_angles(int positions);

  const Kernels& kernels_;
  Team& team_;
  StackShape shape_;
  std::vector<Layer> layers_;
  const float* final_norm_;
  int window_ = 0;
  std::vector<float> cos_, sin_;  // (positions, head_dim / 2)
  std::vector<Row> rows_;
  std::vector<int> rest_;
  std::vector<Item> items_;
  Buffer qkv_, queries_, mixed_, normed_, gated_, scores_;
  OperandBuffer input_, attended_, middle_;
  std::size_t query_bytes_ = 0;
  std::size_t score_stride_ = 0;
};

}  // namespace eyas
