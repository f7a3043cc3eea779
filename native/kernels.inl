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

// x / 2 (1 + tanh(u)) = x / (1 + exp(-2 u)) with u = sqrt(2 / pi) (x + 0.044715 x^3)
inline F gelu_tanh(F x) {
  const F cubic = fma(mul(x, x), set(0.044715f), set(1.0f));
  return div(x, add(set(1.0f), exponential(mul(mul(x, cubic), set(-1.5957691216f)))));
}

// x Phi(x) = max(x, 0) - |x| / 2 erfc(|x| / sqrt(2)), erfc by Abramowitz and Stegun, 7.1.26: absolute error below 2e-7 |x|.
inline F gelu(F x) {
  const F z = mul(abs(x), set(0.70710678f));
  const F t = div(set(1.0f), fma(z, set(0.3275911f), set(1.0f)));
  F p = set(1.061405429f);
  p = fma(p, t, set(-1.453152027f));
  p = fma(p, t, set(1.421413741f));
  p = fma(p, t, set(-0.284496736f));
  p = fma(p, t, set(0.254829592f));
  const F erfc = mul(mul(p, t), exponential(sub(zero(), mul(z, z))));
  return sub(max(x, zero()), mul(mul(abs(x), set(0.5f)), erfc));
}

// cap * tanh(x / cap) with tanh(u) = 1 - 2 / (exp(2 u) + 1); NaN where x is not finite.
inline F softcap(F x, float cap) {
  const F power = exponential(mul(x, set(2.0f / cap)));
  const F tanh = sub(set(1.0f), div(set(2.0f), add(power, set(1.0f))));
  return fma(x, zero(), mul(tanh, set(cap)));
}

#include "tiles.inl"
#include "blocks.inl"
#include "formats/table.inl"
#include "activations.inl"
#include "products.inl"
#include "tokens.inl"
#include "logits.inl"
#include "sampling.inl"
#include "attention.inl"

std::uint64_t read(const std::uint8_t* data, std::size_t bytes) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i + 64 <= bytes; i += 64) sum += read_line(data + i);
  return sum;
}

constexpr Kernels make(const char* name) {
  return {name,      kMaxTokens,       activation_bytes, norm,    add_scaled,  gate,
          prepare,   multiply,         rotate,           put,     query_bytes, put_query,
          attend,    transform_logits, log_sum_exp,      argmax,  top_k,       gumbel,
          add_noise, noisy_scores,     next_at_least,    sum_exp, read};
}
