// Mixtures of experts: of many gated MLPs a token takes the few that a router ranks highest (arXiv 2101.03961).
//
//     y = sum of weight[e] * down[e](f(gate[e](x)) * up[e](x))   over the chosen experts e
//
// where the weights are the softmax of router(x). A token's choice and its result are functions of that token alone: of
// equal experts the one with the lower number comes first, and the sum runs from the best expert to the last, whichever
// tokens share a call. An expert's matrices are read once for all tokens that chose it.
#pragma once

#include <vector>

#include "buffers.h"
#include "kernels.h"
#include "thread_pool.h"

namespace eyas {

struct Expert {
  std::vector<PackedMatrix> gate_up;  // blocks of 16 gate and 16 up outputs; or a matrix of gates and one of ups
  PackedMatrix down;
};

// Weights of one layer. Experts have equal shapes and formats.
struct Mixture {
  PackedMatrix router;          // (experts, H)
  std::vector<Expert> experts;  // none: the layer has an MLP
  int top_k = 0;                // experts that a token takes
  bool is_normalised = true;    // their weights sum to 1

  explicit operator bool() const { return !experts.empty(); }
};

// Memory and work of the mixtures of a stack.
class Mixtures {
 public:
  void reserve(const Kernels& kernels, const Mixture& mixture, int tokens, int stride);
  // Runs tokens x (T, stride floats), whose products with the router are `logits` (T, blocks of the router * 32), through
  // their experts.
  void run(Phase& phase, const Kernels& kernels, const Mixture& mixture, ActivationFunction function, const float* logits,
           const float* x, int stride, int tokens);
  // y += the result of token t
  void add(const Kernels& kernels, int t, int stride, float* y) const;

 private:
  struct Run {  // of an expert: rows begin..begin + count are tokens that chose it
    int expert;
    int begin;
    int count;
  };

  void choose(const Mixture& mixture, const float* logits, int t);
  void group(const Mixture& mixture, int tokens);
  template <class Blocks, class Multiply>
  void multiply_runs(Phase& phase, int blocks, const Blocks& matrices, const Multiply& multiply);

  int top_k_ = 0;
  std::vector<int> chosen_;     // (T, top_k) experts, best first
  std::vector<float> weights_;  // (T, top_k)
  std::vector<int> row_;        // (T, top_k) where a chosen expert's result lies
  std::vector<int> token_;      // of each row
  std::vector<int> next_;       // scratch of `group`
  std::vector<Run> runs_;
  ActivationBuffer input_, down_input_;
  Buffer gated_, results_;
};

}  // namespace eyas
