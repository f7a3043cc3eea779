// Kernels over the vector primitives of one instruction set; included into its namespace.

// ---- elementary functions: vector body only, so that no element meets other code at a row's end ----

// Relative error below 2e-7 on [-87, 88]; beyond, the argument is cut.
inline F exponential(F x) {
  x = min(max(x, set(-87.0f)), set(88.0f));
  const I n = to_int(mul(x, set(1.44269504f)));
  const F k = to_float(n);
  F r = fma(k, set(-0.693359375f), x);
  r = fma(k, set(2.12194440e-4f), r);
  F p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  return mul(add(fma(p, mul(r, r), r), set(1.0f)), pow2(n));
}

inline F silu(F x) { return div(x, add(set(1.0f), exponential(sub(zero(), x)))); }

#include "products.inl"
#include "rows.inl"
#include "sampling.inl"
#include "attention.inl"

std::uint64_t read(const std::uint8_t* data, std::size_t bytes) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i + 64 <= bytes; i += 64) sum += read_line(data + i);
  return sum;
}

constexpr Kernels make(const char* name) {
  return {name,        kMaxRows, operand_bytes, norm,   prepare,   multiply,     rotate,        put,     put_query, attend,
          log_sum_exp, argmax,   top_k,         gumbel, add_noise, noisy_scores, next_at_least, sum_exp, read};
}
