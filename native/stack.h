// Decoder layers: a whole target, or the layers of a draft network.
//
// A layer is attention and a gated MLP, each added to the residual stream:
//
//     x += m * attention_post_norm(output(attention(attention_norm(x))))
//     x += m * mlp_post_norm(down(f(gate(y)) * up(y)))   with   y = mlp_norm(x)
//
// or a mixture of experts (experts.h) instead of the MLP. The first layer may read embeddings e beside x, as EAGLE-3's does:
// the products of its attention are those of [attention_norm(e); hidden_norm(x)].
// Every part but the matrices is absent unless the layer asks for it, and costs nothing then.
#pragma once

#include <memory>
#include <vector>

#include "buffers.h"
#include "cache.h"
#include "experts.h"
#include "kernels.h"
#include "thread_pool.h"

namespace eyas {

// A rotary embedding of the first numbers of each head.
struct Rope {
  std::vector<float> inverse_frequencies;  // (rotated numbers / 2,)
  float factor = 1.0f;                     // of the cosines and sines (YaRN)
};

struct StackShape {
  int hidden = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  CacheType cache_type = CacheType::Float32;
  std::vector<Rope> ropes;  // that layers refer to

  int query_width() const { return heads * head_dim; }
  int key_width() const { return kv_heads * head_dim; }
};

// Weights and options of one layer. Norms are padded to 32 floats; a null norm is left out.
struct Layer {
  const float* attention_norm = nullptr;       // (H,)
  const float* hidden_norm = nullptr;          // (H,) of x beside an embedding, whose norm is attention_norm
  const float* attention_post_norm = nullptr;  // (H,) of the output, before it is added: Gemma 2, OLMo 2
  const float* mlp_norm = nullptr;             // (H,)
  const float* mlp_post_norm = nullptr;        // (H,)
  const float* query_norm = nullptr;           // (head_dim,), or (query_width,) if wide_norms
  const float* key_norm = nullptr;             // (head_dim,), or (key_width,)
  bool residual_is_normed = false;             // x goes on as hidden_norm(x)
  bool wide_norms = false;                     // query and key norms go over all heads together (OLMo 2)
  float eps = 1e-6f;                           // of all its norms
  // Query, key and value heads one below the other, or three matrices where formats differ.
  std::vector<PackedMatrix> qkv;
  PackedMatrix output;
  std::vector<PackedMatrix> gate_up;  // blocks of 16 gate and 16 up outputs; or a matrix of gates and one of ups
  PackedMatrix down;
  Mixture mixture;  // of experts, in place of gate_up and down
  ActivationFunction activation = ActivationFunction::Silu;
  int window = 0;                    // positions that a token sees; 0 is all
  int rope = 0;                      // of the stack's; -1 is none
  float attention_scale = 0;         // of the scores
  float attention_softcap = 0;       // 0 is off
  float residual_multiplier = 1.0f;  // of what is added (Granite)
};

// Tokens of one sequence in a forward.
struct Call {
  Cache* cache = nullptr;
  int count = 0;
  const int* parents = nullptr;  // null: a chain
};

// Hidden states that a forward keeps: those that enter layer `layer`; the number of layers stands for what leaves the last
// one, before the final norm.
struct Tap {
  int layer = 0;
  float* states = nullptr;  // (T, H)
};

class Stack {
 public:
  // `final_norm` (H,) may be null.
  Stack(const Kernels& kernels, ThreadPool& pool, const StackShape& shape, std::vector<Layer> layers, const float* final_norm,
        float final_eps);

  const StackShape& shape() const { return shape_; }
  int num_layers() const { return int(layers_.size()); }
  CacheShape cache_shape(int limit) const;

  // Runs tokens x (T, stride floats, the first `hidden` of each in use, zeros behind) through all layers in place and
  // appends them to their caches. All caches must have admitted their tokens. `embeddings`, like x, are for a stack that reads
  // them.
  void forward(const std::vector<Call>& calls, float* x, const std::vector<Tap>& taps = {}, const float* embeddings = nullptr);
  bool reads_embeddings() const { return layers_.front().hidden_norm != nullptr; }
  int stride() const { return round_up(shape_.hidden, kBlock); }

 private:
  struct Token {  // where it stands
    Cache* cache;
    int slot;
    int position;
  };
  struct Item {  // queries begin..end of one kv head; token t has those from t * (heads / kv_heads) on
    int kv_head;
    int begin;
    int end;
  };
  struct Branch {  // what a block adds to the residual stream, unless its last product adds it itself
    const float* norm = nullptr;
    float factor = 1.0f;
    float eps = 0;
    bool is_plain() const { return !norm && factor == 1.0f; }
  };

  void reserve(int tokens, int slots);
  void place(const std::vector<Call>& calls);
  int queries_together(const std::vector<Call>& calls) const;
  void grow_angles(int positions);
  void run_layer(Phase& phase, int index, const Branch& before, float* x, int tokens);
  void prepare(Phase& phase, const Branch& before, float* x, const float* norm, float eps, const ActivationBuffer& out,
               const MatrixGroup& matrices, int tokens);
  void prepare_with_embeddings(Phase& phase, const Layer& layer, float* x, int tokens);
  void run_mlp(Phase& phase, const Layer& layer, const Branch& before, float* x, int tokens, const Layer& next);
  void run_mixture(Phase& phase, const Layer& layer, const Branch& before, float* x, int tokens);
  bool tap(Phase& phase, int layer, const Branch& before, float* x, int tokens, const std::vector<Tap>& taps);
  Epilogue residual(const Branch& branch, float* x) const;
  void add_branch(const Branch& branch, int t, float* x);
  void attend(Phase& phase, int index, int tokens);
  // Where a token's queries (0), keys (1) and values (2) begin among the products of qkv.
  int start_of(const Layer& layer, int kind) const;
  void norm_all_heads(const Layer& layer, int t);
  void rotate_and_put(const Layer& layer, int index, int head, int begin, int end);
  void attend_item(const Layer& layer, int index, const Item& item, float* scores);

  static Branch attention_branch(const Layer& layer) { return {layer.attention_post_norm, layer.residual_multiplier, layer.eps}; }
  static Branch mlp_branch(const Layer& layer) { return {layer.mlp_post_norm, layer.residual_multiplier, layer.eps}; }

  struct Angles {
    std::vector<float> cos, sin;  // (positions, rotated numbers / 2)
  };

  const Kernels& kernels_;
  ThreadPool& pool_;
  StackShape shape_;
  std::vector<Layer> layers_;
  const float* final_norm_;
  float final_eps_;
  std::vector<int> windows_;       // the sizes that layers have
  std::vector<int> window_index_;  // of each layer
  std::vector<Angles> angles_;     // of each rope
  std::vector<Token> tokens_;
  std::vector<View> views_;  // (T, windows): what a token sees
  std::vector<int> rest_;
  std::vector<Item> items_;
  const float* embeddings_ = nullptr;  // of the forward under way
  Buffer qkv_, queries_, attended_, normed_, joined_, gated_, branch_, scores_, router_;
  ActivationBuffer input_, output_input_, down_input_;
  Mixtures mixtures_;
  std::size_t query_bytes_ = 0;
  std::size_t score_stride_ = 0;
};

}  // namespace eyas
