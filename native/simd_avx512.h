// Vector primitives for AVX-512 (F, BW, DQ, VL). With EYAS_BF16, products of bfloat16 and int8 use their own
// instructions (AVX512_BF16 and VNNI).

constexpr int kMaxTokens = 12;  // 12 tokens x 2 vectors of sums, 2 of weights: 26 of 32 registers
constexpr int kF32Tokens = kMaxTokens, kBf16Tokens = kMaxTokens;
constexpr int kInt8Tokens = 8;  // more at a time were slower: sums move in and out oftener
constexpr int kBlockTokens = 8;
constexpr int kPerPass = 2;  // vectors of a block taken together
constexpr int kValueTokens = 6;
constexpr int kValueVectors = 4;

using F = __m512;
using I = __m512i;

inline F zero() { return _mm512_setzero_ps(); }
inline F set(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline bool any_greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
inline float sum_of(F a) { return _mm512_reduce_add_ps(a); }
inline float max_of(F a) { return _mm512_reduce_max_ps(a); }
inline I to_int(F a) { return _mm512_cvtps_epi32(a); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline F pow2(I n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23)); }

inline I zero_int() { return _mm512_setzero_si512(); }
inline I set_int(std::int32_t x) { return _mm512_set1_epi32(x); }
inline void store_int8(std::int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }

inline I iota(std::int32_t start) {
  return _mm512_add_epi32(set_int(start), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline I exclusive_or(I a, I b) { return _mm512_xor_si512(a, b); }
// The 64-bit products of unsigned 32-bit lanes with m: upper and lower words.
inline void wide_product(I a, std::uint32_t m, I& upper, I& lower) {
  const I factor = set_int(std::int32_t(m));
  const I even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
  upper = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
  lower = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}
inline void store_int(std::int32_t* p, I a) { _mm512_storeu_si512(p, a); }

inline __m128i load_16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline I load_int8(const std::int8_t* p) { return _mm512_cvtepi8_epi32(load_16(p)); }
inline I load_int8(const std::uint8_t* p) { return _mm512_cvtepu8_epi32(load_16(p)); }
inline I lower_nibbles(const std::uint8_t* p) { return _mm512_and_si512(load_int8(p), set_int(15)); }
inline I upper_nibbles(const std::uint8_t* p) { return _mm512_srli_epi32(load_int8(p), 4); }

inline F load_bf16(const std::uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline F load_f16(const std::uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F set_f16(std::uint16_t x) { return _mm512_cvtph_ps(_mm256_set1_epi16(std::int16_t(x))); }
// To nearest, ties to even, in integers: the instruction for it would flush denormals.
inline I rounded_bf16(F x) {
  const I bits = _mm512_castps_si512(x);
  const I odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), set_int(1));
  return _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, set_int(0x7fff))), 16);
}
inline void store_bf16(std::uint16_t* p, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded_bf16(x)));
}
inline F round_bf16(F x) { return _mm512_castsi512_ps(_mm512_slli_epi32(rounded_bf16(x), 16)); }

inline std::uint64_t read_line(const std::uint8_t* p) {
  return std::uint64_t(_mm_cvtsi128_si64(_mm512_castsi512_si128(_mm512_loadu_si512(p))));
}

struct FloatPairs {
  F first, second;
};
inline FloatPairs load_float_pairs(const std::uint8_t* p) {
  const I both = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(both, set_int(std::int32_t(0xffff0000))))};
}

#if EYAS_BF16

constexpr bool kPairSums = false;  // its products are summed in 32 bits at once
constexpr int kBf16Item = 2;
using Pairs = __m512bh;
inline Pairs load_pairs(const std::uint8_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
inline F dot_pairs(F sum, Pairs w, const std::uint8_t* x) {
  std::int32_t pair;
  __builtin_memcpy(&pair, x, 4);
  return _mm512_dpbf16_ps(sum, w, (__m512bh)_mm512_set1_epi32(pair));
}
inline I dot_bytes(I sum, I w, const std::uint8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, 4);
  // Not the intrinsic: GCC 12 copies its sum from register to register, and to memory when there are many.
  const I xs = set_int(four);
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(xs));
  return sum;
}

#else

constexpr int kBf16Item = 4;
using Pairs = FloatPairs;
inline Pairs load_pairs(const std::uint8_t* p) { return load_float_pairs(p); }
inline F dot_pairs(F sum, const Pairs& w, const std::uint8_t* x) {
  const float* pair = reinterpret_cast<const float*>(x);
  return fma(w.second, set(pair[1]), fma(w.first, set(pair[0]), sum));
}
// Sums of 16 bits of two neighbours' products each; exact for bytes of at most 129.
constexpr bool kPairSums = true;
inline I pair_products(I w, const std::uint8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_maddubs_epi16(w, set_int(four));
}
inline I add_pairs(I a, I b) { return _mm512_add_epi16(a, b); }
inline I sum_pairs(I sum, I pairs) { return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))); }
// Even and odd bytes as 16-bit numbers: no saturation, unlike the 8-bit multiply-add.
inline I dot_bytes(I sum, I w, const std::uint8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, 4);
  const I xs = set_int(four);
  const I even = _mm512_madd_epi16(_mm512_and_si512(w, set_int(0x00ff00ff)), _mm512_srai_epi16(_mm512_slli_epi16(xs, 8), 8));
  const I odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(xs, 8));
  return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
}

#endif

using Bytes = I;
// Weights are multiplied as unsigned bytes, and by one token at a time.
constexpr bool kSignedBytes = false;
using TokenPair = void;
inline Bytes load_bytes(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
// Each byte moved right by kShift bits, or left by -kShift, and cut to `mask`, which holds none of its neighbour's bits.
template <int kShift>
inline Bytes bits(Bytes a, std::uint8_t mask) {
  const I moved = kShift >= 0 ? _mm512_srli_epi16(a, kShift >= 0 ? kShift : 0) : _mm512_slli_epi16(a, kShift < 0 ? -kShift : 0);
  return _mm512_and_si512(moved, _mm512_set1_epi8(char(mask)));
}
inline Bytes join_bits(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
// table[i] for each byte i, which is below 16.
inline Bytes look_up(Bytes indices, const std::uint8_t* table) {
  const __m128i values = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), indices);
}
