// The kernels of one instruction set. Every set is the same source (kernels.inl) over its own vector primitives.
//
// Batch invariance (docs/laws.md, L8): a token's result is a function of that token alone. Sums over k run in one fixed
// order from the first input to the last, whichever tokens share a call; softmax sums run over positions in fixed
// lanes. Nothing here depends on the number of tokens or threads.
#pragma once

#include <vector>

#include "formats.h"
#include "types.h"

namespace eyas {

// Whose noise: the arguments of g besides the id.
struct Draw {
  std::uint32_t seed, choice, position;
};

constexpr float kNever = -3.0e38f;  // a score that does not win

// Of a score with float noise, generously.
constexpr float noise_error(float score) { return 1e-3f * (1 + (score < 0 ? -score : score) * 1e-3f); }

struct Kernels {
  const char* name;
  int max_queries;  // of an AttendItem

  // Bytes of one number of a token in `format`.
  int (*activation_bytes)(ActivationFormat format);
  // y (padded to 32, zeros behind n) = x / rms(x) * weight
  void (*norm)(const float* x, const float* weight, float eps, int n, float* y);
  // x += factor * y
  void (*add_scaled)(const float* y, float factor, int padded, float* x);
  // Blocks of 16 gate and 16 up values become f(gate) * up, in place at the front.
  void (*gate)(ActivationFunction function, float* x, int blocks);
  // Token t of `out` from floats x, of which `padded` are readable.
  void (*prepare)(const float* x, int padded, const Activations& out, int t);
  // A block of W times tokens 0..tokens of x. Meanwhile as many bytes are fetched at `next`.
  void (*multiply)(const PackedMatrix& w, int block, const Activations& x, int tokens, const Epilogue& epilogue,
                   const std::uint8_t* next);
  // Rotate the halves of a head's first `dim` numbers in place: (x1 cos - x2 sin, x2 cos + x1 sin); cos and sin hold dim / 2
  // each.
  void (*rotate)(float* head, int dim, const float* cos, const float* sin);
  // Round a key and a value to the store's type and put them into a slot.
  void (*put)(const LayerStore& store, int kv_head, int slot, const float* key, const float* value);
  // Bytes of a query as `attend` reads it; writes one.
  std::size_t (*query_bytes)(CacheType type, int dim);
  void (*put_query)(CacheType type, const float* query, int dim, std::uint8_t* out);
  void (*attend)(const AttendItem& item);
  // x = scale * x, then softcap * tanh(x / softcap) unless softcap is 0
  void (*transform_logits)(float* x, int padded, float scale, float softcap);
  // log(sum(exp(x))); NaN if an entry is not finite
  float (*log_sum_exp)(const float* x, int n);
  // Lowest index of the largest entry; -1 if any is NaN.
  int (*argmax)(const float* x, int n);
  // Indices of the k largest entries, best first, ties to the lower index; k <= n and at most kMaxTopK.
  void (*top_k)(const float* x, int n, int k, int* indices);
  // About g(position, id) of docs/laws.md, L2, for ids first..first+n-1 (n a multiple of 16); absolute error below 1e-4.
  void (*gumbel)(const Draw& draw, int first, int n, float* out);
  // out = logits * factor + noise; returns its largest entry. No logit is NaN.
  float (*add_noise)(const float* logits, float factor, const float* noise, int n, float* out);
  // The same with the noise of `gumbel` for ids first..first+n-1 (first a multiple of 16), which is made only where a score
  // may come within noise_error of the largest; elsewhere out is kNever. Logit `likely` is a large one.
  float (*noisy_scores)(const float* logits, float factor, const Draw& draw, int first, int likely, int n, float* out);
  // First index >= begin whose entry is at least `edge`; n if there is none.
  int (*next_at_least)(const float* x, int begin, int n, float edge);
  // Sum of exp((x - top) * factor); n is a multiple of 16.
  float (*sum_exp)(const float* x, int n, float top, float factor);
  // Sum of 64-byte lines, for measuring what memory can deliver.
  std::uint64_t (*read)(const std::uint8_t* data, std::size_t bytes);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvxVnni, kAvx512, kAvx512Bf16;
#elif defined(__aarch64__)
extern const Kernels kNeon, kNeonDotprod, kNeonI8mm;
#endif

// As Kernels::top_k, for any k <= n.
void best_indices(const Kernels& kernels, const float* x, int n, int k, int* indices);

// The kernels that this machine can run, the best first.
std::vector<const Kernels*> present_kernels();

// The best of them, or those of the instruction set called `name`; null if the machine does not have it.
const Kernels* find_kernels(const char* name);

}  // namespace eyas
