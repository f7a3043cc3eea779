// Memory that networks keep between forwards, and products by all threads over activations in it.
#pragma once

#include <cstdlib>
#include <memory>

#include "kernels.h"
#include "thread_pool.h"

namespace eyas {

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

// Memory for the activations that the matrices of a group read, in the formats that they multiply.
class ActivationBuffer {
 public:
  void reserve(const Kernels& kernels, const MatrixGroup& matrices, int tokens);
  // Activations in that memory, as one of the matrices reads them.
  Activations view(const Kernels& kernels, const PackedMatrix& w) const;
  // Token t, whose floats x are readable up to `padded`, in every format that the matrices multiply.
  void prepare(const Kernels& kernels, const MatrixGroup& matrices, const float* x, int padded, int t) const;

 private:
  struct Memory {
    Buffer data, scale, sum, scaled_sum;
  };
  Memory of_format_[kNumActivationFormats];
};

// Activations from token t on.
Activations from_token(Activations x, int t);

// Whether the product of gates and ups applies the activation: SiLU, where a block holds gates and what they let through.
inline bool is_fused(ActivationFunction function, const MatrixGroup& gate_up) {
  return function == ActivationFunction::Silu && gate_up.count == 1;
}

// All tokens in `inputs` times the matrices, by all threads: each its share of the blocks. At its end a thread fetches the
// share of `after` that it begins with next, so that memory works during attention, norms and waiting. With `interleave`
// the results of two matrices take turns, 16 each.
void multiply_together(Phase& phase, const Kernels& kernels, const MatrixGroup& matrices, const ActivationBuffer& inputs,
                       int tokens, const Epilogue& epilogue, const MatrixGroup& after, bool interleave = false);

}  // namespace eyas
