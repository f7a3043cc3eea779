// Vector primitives for AVX2 with FMA: a vector of 16 is a pair of 8. EYAS_AVX_VNNI adds products of bytes that need no steps
// between (AVX-VNNI: Intel from Alder Lake on, AMD from Zen 5 on).

constexpr int kMaxTokens = 4;
constexpr int kF32Tokens = 6;   // 6 tokens x 2 halves of sums, 2 of weights, 1 of inputs: 15 of 16 registers
constexpr int kBf16Tokens = 5;  // with 4 halves of weights
constexpr int kInt8Tokens = 6;
constexpr int kBlockTokens = 4;
constexpr int kPerPass = 1;
constexpr int kValueTokens = 4;
constexpr int kValueVectors = 1;

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F abs(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline bool any_greater(F x, F y) {
  return _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)) | _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ));
}
inline I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline __m256 pow2_half(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
inline F pow2(I n) { return {pow2_half(n.a), pow2_half(n.b)}; }

inline I zero_int() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I set_int(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline void store_int8(std::int8_t* p, I x) {
  alignas(32) std::int32_t all[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(all), x.a);
  _mm256_store_si256(reinterpret_cast<__m256i*>(all + 8), x.b);
  for (int i = 0; i < 16; ++i) p[i] = std::int8_t(all[i]);
}

inline I iota(std::int32_t start) {
  const __m256i s = _mm256_set1_epi32(start);
  return {_mm256_add_epi32(s, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_add_epi32(s, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
inline I exclusive_or(I x, I y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
inline void wide_half(__m256i a, __m256i factor, __m256i& upper, __m256i& lower) {
  const __m256i even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
  upper = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  lower = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
// The 64-bit products of unsigned 32-bit lanes with m: upper and lower words.
inline void wide_product(I x, std::uint32_t m, I& upper, I& lower) {
  const __m256i factor = _mm256_set1_epi32(std::int32_t(m));
  wide_half(x.a, factor, upper.a, lower.a);
  wide_half(x.b, factor, upper.b, lower.b);
}
inline void store_int(std::int32_t* p, I x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}

inline __m128i load_8(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline I load_int8(const std::int8_t* p) { return {_mm256_cvtepi8_epi32(load_8(p)), _mm256_cvtepi8_epi32(load_8(p + 8))}; }
inline I load_int8(const std::uint8_t* p) { return {_mm256_cvtepu8_epi32(load_8(p)), _mm256_cvtepu8_epi32(load_8(p + 8))}; }
inline I lower_nibbles(const std::uint8_t* p) {
  const I x = load_int8(p), mask = set_int(15);
  return {_mm256_and_si256(x.a, mask.a), _mm256_and_si256(x.b, mask.b)};
}
inline I upper_nibbles(const std::uint8_t* p) {
  const I x = load_int8(p);
  return {_mm256_srli_epi32(x.a, 4), _mm256_srli_epi32(x.b, 4)};
}

inline __m256 widen(const std::uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
inline F load_bf16(const std::uint16_t* p) { return {widen(p), widen(p + 8)}; }
inline F load_f16(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline F set_f16(std::uint16_t x) {
  const __m256 wide = _mm256_cvtph_ps(_mm_set1_epi16(std::int16_t(x)));
  return {wide, wide};
}
inline __m256i rounded_half(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}
inline void store_bf16(std::uint16_t* p, F x) {
  const __m256i packed = _mm256_packus_epi32(rounded_half(x.a), rounded_half(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline F round_bf16(F x) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(rounded_half(x.a), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(rounded_half(x.b), 16))};
}

inline std::uint64_t read_line(const std::uint8_t* p) {
  const __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32));
  return std::uint64_t(_mm_cvtsi128_si64(_mm256_castsi256_si128(_mm256_xor_si256(lower, upper))));
}

constexpr int kBf16Item = 4;
struct FloatPairs {
  F first, second;
};
using Pairs = FloatPairs;
inline FloatPairs load_float_pairs(const std::uint8_t* p) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32));
  const __m256i upper = _mm256_set1_epi32(std::int32_t(0xffff0000));
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(a, upper)), _mm256_castsi256_ps(_mm256_and_si256(b, upper))}};
}
inline Pairs load_pairs(const std::uint8_t* p) { return load_float_pairs(p); }
inline F dot_pairs(F sum, const Pairs& w, const std::uint8_t* x) {
  const float* pair = reinterpret_cast<const float*>(x);
  return fma(w.second, set(pair[1]), fma(w.first, set(pair[0]), sum));
}

using Bytes = I;
// Weights are multiplied as unsigned bytes, and by one token at a time.
constexpr bool kSignedBytes = false;
using TokenPair = void;
inline Bytes load_bytes(const std::uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
// Each byte moved right by kShift bits, or left by -kShift, and cut to `mask`, which holds none of its neighbour's bits.
template <int kShift>
inline __m256i moved_half(__m256i a) {
  return kShift >= 0 ? _mm256_srli_epi16(a, kShift >= 0 ? kShift : 0) : _mm256_slli_epi16(a, kShift < 0 ? -kShift : 0);
}
template <int kShift>
inline Bytes bits(const Bytes& x, std::uint8_t mask) {
  const __m256i mask_all = _mm256_set1_epi8(char(mask));
  return {_mm256_and_si256(moved_half<kShift>(x.a), mask_all), _mm256_and_si256(moved_half<kShift>(x.b), mask_all)};
}
inline Bytes join_bits(const Bytes& x, const Bytes& y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
// table[i] for each byte i, which is below 16.
inline Bytes look_up(const Bytes& indices, const std::uint8_t* table) {
  const __m256i values = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(values, indices.a), _mm256_shuffle_epi8(values, indices.b)};
}
#if EYAS_AVX_VNNI
constexpr bool kPairSums = false;  // its products are summed in 32 bits at once
inline I dot_bytes(I sum, const I& w, const std::uint8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, 4);
  const __m256i xs = _mm256_set1_epi32(four);
  return {_mm256_dpbusd_avx_epi32(sum.a, w.a, xs), _mm256_dpbusd_avx_epi32(sum.b, w.b, xs)};
}
#else
// Even and odd bytes as 16-bit numbers: no saturation, unlike the 8-bit multiply-add.
inline __m256i dot_half(__m256i sum, __m256i w, __m256i even_x, __m256i odd_x) {
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi32(0x00ff00ff)), even_x);
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), odd_x);
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
// Sums of 16 bits of two neighbours' products each; exact for bytes of at most 129.
constexpr bool kPairSums = true;
inline I pair_products(const Bytes& w, const std::uint8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, 4);
  const __m256i xs = _mm256_set1_epi32(four);
  return {_mm256_maddubs_epi16(w.a, xs), _mm256_maddubs_epi16(w.b, xs)};
}
inline I add_pairs(const I& x, const I& y) { return {_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)}; }
inline I sum_pairs(const I& sum, const I& pairs) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(pairs.a, ones)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(pairs.b, ones))};
}
inline I dot_bytes(I sum, const I& w, const std::uint8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, 4);
  const __m256i xs = _mm256_set1_epi32(four);
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(xs, 8), 8);
  const __m256i odd = _mm256_srai_epi16(xs, 8);
  return {dot_half(sum.a, w.a, even, odd), dot_half(sum.b, w.b, even, odd)};
}
#endif
