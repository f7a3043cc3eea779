// Vector primitives in plain C++; the compiler makes of them what the machine offers (SSE2, NEON, ...).

constexpr int kMaxTokens = 4;
constexpr int kF32Tokens = 4, kBf16Tokens = 4, kInt8Tokens = 4;
constexpr int kBlockTokens = 2;
constexpr int kPerPass = 1;
constexpr int kValueTokens = 2;
constexpr int kValueVectors = 2;

struct F {
  float v[16];
};
struct I {
  std::int32_t v[16];
};

template <class Out, class Function>
inline Out each(Function function) {
  Out out;
  for (int i = 0; i < 16; ++i) out.v[i] = function(i);
  return out;
}

// clang-format off: a primitive is a line
inline F zero() { return each<F>([](int) { return 0.0f; }); }
inline F set(float x) { return each<F>([=](int) { return x; }); }
inline F load(const float* p) { return each<F>([=](int i) { return p[i]; }); }
inline void store(float* p, const F& x) { __builtin_memcpy(p, x.v, 64); }
inline F add(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] + b.v[i]; }); }
inline F sub(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] - b.v[i]; }); }
inline F mul(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] * b.v[i]; }); }
inline F div(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] / b.v[i]; }); }
inline F max(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline F min(const F& a, const F& b) { return each<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
// Rounded once, as everywhere: results are the same bits as other instruction sets', whatever this machine has for it.
inline F fma(const F& a, const F& b, const F& c) { return each<F>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
inline F abs(const F& a) { return each<F>([&](int i) { return std::fabs(a.v[i]); }); }
inline bool any_greater(const F& a, const F& b) {
  int found = 0;
  for (int i = 0; i < 16; ++i) found |= a.v[i] > b.v[i];
  return found;
}
inline I to_int(const F& a) { return each<I>([&](int i) { return std::int32_t(std::nearbyint(a.v[i])); }); }
inline F to_float(const I& a) { return each<F>([&](int i) { return float(a.v[i]); }); }
inline float as_float(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
inline std::uint32_t as_bits(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
inline F pow2(const I& n) { return each<F>([&](int i) { return as_float(std::uint32_t(n.v[i] + 127) << 23); }); }

inline I zero_int() { return each<I>([](int) { return 0; }); }
inline I set_int(std::int32_t x) { return each<I>([=](int) { return x; }); }
inline void store_int8(std::int8_t* p, const I& a) {
  for (int i = 0; i < 16; ++i) p[i] = std::int8_t(a.v[i]);
}

inline I iota(std::int32_t start) { return each<I>([=](int i) { return start + i; }); }
inline I exclusive_or(const I& a, const I& b) { return each<I>([&](int i) { return a.v[i] ^ b.v[i]; }); }
// The 64-bit products of unsigned 32-bit lanes with m: upper and lower words.
inline void wide_product(const I& a, std::uint32_t m, I& upper, I& lower) {
  for (int i = 0; i < 16; ++i) {
    const std::uint64_t product = std::uint64_t(std::uint32_t(a.v[i])) * m;
    upper.v[i] = std::int32_t(std::uint32_t(product >> 32));
    lower.v[i] = std::int32_t(std::uint32_t(product));
  }
}
inline void store_int(std::int32_t* p, const I& a) { __builtin_memcpy(p, a.v, 64); }

inline F load_f16(const std::uint16_t* p) { return each<F>([=](int i) { return half_to_float(p[i]); }); }
inline F set_f16(std::uint16_t x) { return set(half_to_float(x)); }
inline I load_int8(const std::int8_t* p) { return each<I>([=](int i) { return std::int32_t(p[i]); }); }
inline I load_int8(const std::uint8_t* p) { return each<I>([=](int i) { return std::int32_t(p[i]); }); }
inline I lower_nibbles(const std::uint8_t* p) { return each<I>([=](int i) { return p[i] & 15; }); }
inline I upper_nibbles(const std::uint8_t* p) { return each<I>([=](int i) { return p[i] >> 4; }); }

inline std::uint32_t rounded_bits(float x) {
  const std::uint32_t bits = as_bits(x);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
inline F load_bf16(const std::uint16_t* p) { return each<F>([=](int i) { return as_float(std::uint32_t(p[i]) << 16); }); }
inline void store_bf16(std::uint16_t* p, const F& x) {
  for (int i = 0; i < 16; ++i) p[i] = std::uint16_t(rounded_bits(x.v[i]));
}
inline F round_bf16(const F& x) { return each<F>([&](int i) { return as_float(rounded_bits(x.v[i]) << 16); }); }

inline std::uint64_t read_line(const std::uint8_t* p) {
  std::uint64_t words[8];
  __builtin_memcpy(words, p, 64);
  return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

constexpr bool kPairSums = false;  // see simd_avx2.h
constexpr int kBf16Item = 4;
struct FloatPairs {
  F first, second;
};
using Pairs = FloatPairs;
inline FloatPairs load_float_pairs(const std::uint8_t* p) {
  std::uint32_t both[16];
  __builtin_memcpy(both, p, 64);
  return {each<F>([&](int i) { return as_float(both[i] << 16); }), each<F>([&](int i) { return as_float(both[i] & 0xffff0000u); })};
}
inline Pairs load_pairs(const std::uint8_t* p) { return load_float_pairs(p); }
inline F dot_pairs(const F& sum, const Pairs& w, const std::uint8_t* x) {
  const float* pair = reinterpret_cast<const float*>(x);
  return fma(w.second, set(pair[1]), fma(w.first, set(pair[0]), sum));
}

// clang-format on

struct Bytes {
  std::uint8_t v[64];
};
// Weights are multiplied as unsigned bytes, and by one token at a time.
constexpr bool kSignedBytes = false;
using TokenPair = void;
inline Bytes load_bytes(const std::uint8_t* p) {
  Bytes bytes;
  __builtin_memcpy(bytes.v, p, 64);
  return bytes;
}
// Each byte moved right by kShift bits, or left by -kShift, and cut to `mask`.
template <int kShift>
inline Bytes bits(const Bytes& a, std::uint8_t mask) {
  Bytes out;
  for (int i = 0; i < 64; ++i) out.v[i] = std::uint8_t((kShift >= 0 ? a.v[i] >> (kShift & 7) : a.v[i] << (-kShift & 7)) & mask);
  return out;
}
inline Bytes join_bits(const Bytes& a, const Bytes& b) {
  Bytes out;
  for (int i = 0; i < 64; ++i) out.v[i] = a.v[i] | b.v[i];
  return out;
}
// table[i] for each byte i, which is below 16.
inline Bytes look_up(const Bytes& indices, const std::uint8_t* table) {
  Bytes out;
  for (int i = 0; i < 64; ++i) out.v[i] = table[indices.v[i] & 15];
  return out;
}
inline I dot_bytes(const I& sum, const Bytes& w, const std::uint8_t* x) {
  const std::int8_t* four = reinterpret_cast<const std::int8_t*>(x);
  return each<I>([&](int i) {
    const std::uint8_t* group = w.v + 4 * i;
    return sum.v[i] + group[0] * four[0] + group[1] * four[1] + group[2] * four[2] + group[3] * four[3];
  });
}
