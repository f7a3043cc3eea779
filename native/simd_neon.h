// Vector primitives for NEON (ARMv8): a vector of 16 is four of 4. EYAS_NEON says what multiplies bytes: 0 multiplications
// into 16 bits, 1 dot products of four (dotprod), 2 also matrices of 2 x 8 (i8mm).

constexpr int kMaxTokens = 5;   // 5 tokens x 4 quarters of sums, 8 of weights in bfloat16, 1 of inputs: 29 of 32 registers
constexpr int kF32Tokens = 6;   // with 4 quarters of weights
constexpr int kBf16Tokens = 5;  // with 8
constexpr int kInt8Tokens = EYAS_NEON ? 6 : 4;
constexpr int kBlockTokens = EYAS_NEON == 1 ? 6 : 4;
constexpr int kPerPass = 1;
constexpr int kValueTokens = 2;
constexpr int kValueVectors = 2;

struct F {
  float32x4_t v[4];
};
struct I {
  int32x4_t v[4];
};
struct Bytes {
  uint8x16_t v[4];
};

template <class Out, class Function>
inline Out each(Function function) {
  return {{function(0), function(1), function(2), function(3)}};
}

// clang-format off: a primitive is a line
inline F zero() { return each<F>([](int) { return vdupq_n_f32(0); }); }
inline F set(float x) { return each<F>([=](int) { return vdupq_n_f32(x); }); }
inline F load(const float* p) { return each<F>([=](int i) { return vld1q_f32(p + 4 * i); }); }
inline void store(float* p, const F& x) { for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]); }
inline F add(const F& x, const F& y) { return each<F>([&](int i) { return vaddq_f32(x.v[i], y.v[i]); }); }
inline F sub(const F& x, const F& y) { return each<F>([&](int i) { return vsubq_f32(x.v[i], y.v[i]); }); }
inline F mul(const F& x, const F& y) { return each<F>([&](int i) { return vmulq_f32(x.v[i], y.v[i]); }); }
inline F div(const F& x, const F& y) { return each<F>([&](int i) { return vdivq_f32(x.v[i], y.v[i]); }); }
// By comparing: where a number is none, or a zero negative, the instructions for it choose otherwise than other sets.
inline F max(const F& x, const F& y) { return each<F>([&](int i) { return vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); }); }
inline F min(const F& x, const F& y) { return each<F>([&](int i) { return vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); }); }
inline F fma(const F& x, const F& y, const F& z) { return each<F>([&](int i) { return vfmaq_f32(z.v[i], x.v[i], y.v[i]); }); }
inline F abs(const F& x) { return each<F>([&](int i) { return vabsq_f32(x.v[i]); }); }
inline bool any_greater(const F& x, const F& y) {
  uint32x4_t found = vcgtq_f32(x.v[0], y.v[0]);
  for (int i = 1; i < 4; ++i) found = vorrq_u32(found, vcgtq_f32(x.v[i], y.v[i]));
  return vmaxvq_u32(found) != 0;
}
inline I to_int(const F& x) { return each<I>([&](int i) { return vcvtnq_s32_f32(x.v[i]); }); }
inline F to_float(const I& x) { return each<F>([&](int i) { return vcvtq_f32_s32(x.v[i]); }); }
inline F pow2(const I& n) {
  return each<F>([&](int i) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v[i], vdupq_n_s32(127)), 23)); });
}

inline I zero_int() { return each<I>([](int) { return vdupq_n_s32(0); }); }
inline I set_int(std::int32_t x) { return each<I>([=](int) { return vdupq_n_s32(x); }); }
inline void store_int8(std::int8_t* p, const I& x) {
  const int16x8_t low = vcombine_s16(vmovn_s32(x.v[0]), vmovn_s32(x.v[1]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(vcombine_s16(vmovn_s32(x.v[2]), vmovn_s32(x.v[3])))));
}

inline I iota(std::int32_t start) {
  alignas(16) static constexpr std::int32_t kFirst[4] = {0, 1, 2, 3};
  return each<I>([=](int i) { return vaddq_s32(vdupq_n_s32(start + 4 * i), vld1q_s32(kFirst)); });
}
inline I exclusive_or(const I& x, const I& y) { return each<I>([&](int i) { return veorq_s32(x.v[i], y.v[i]); }); }
// The 64-bit products of unsigned 32-bit lanes with m: upper and lower words.
inline void wide_product(const I& x, std::uint32_t m, I& upper, I& lower) {
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t words = vreinterpretq_u32_s32(x.v[i]), factor = vdupq_n_u32(m);
    const uint32x4_t first = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(words), vget_low_u32(factor)));
    const uint32x4_t second = vreinterpretq_u32_u64(vmull_high_u32(words, factor));
    upper.v[i] = vreinterpretq_s32_u32(vuzp2q_u32(first, second));
    lower.v[i] = vreinterpretq_s32_u32(vuzp1q_u32(first, second));
  }
}
inline void store_int(std::int32_t* p, const I& x) { for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, x.v[i]); }

inline I widened(uint8x16_t x) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(x)), high = vmovl_high_u8(x);
  return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_high_u16(low)),
           vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_high_u16(high))}};
}
inline I load_int8(const std::int8_t* p) {
  const int8x16_t x = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
  return {{vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)}};
}
inline I load_int8(const std::uint8_t* p) { return widened(vld1q_u8(p)); }
inline I lower_nibbles(const std::uint8_t* p) { return widened(vandq_u8(vld1q_u8(p), vdupq_n_u8(15))); }
inline I upper_nibbles(const std::uint8_t* p) { return widened(vshrq_n_u8(vld1q_u8(p), 4)); }

inline F load_bf16(const std::uint16_t* p) {
  return each<F>([=](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}
inline F load_f16(const std::uint16_t* p) {
  return each<F>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline F set_f16(std::uint16_t x) {
  const float32x4_t wide = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(x)));
  return each<F>([=](int) { return wide; });
}
// To nearest, ties to even, in the upper halves.
inline uint32x4_t rounded_quarter(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  return vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
}
inline void store_bf16(std::uint16_t* p, const F& x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vshrn_n_u32(rounded_quarter(x.v[i]), 16));
}
inline float32x4_t upper_half(uint32x4_t x) { return vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000))); }
inline F round_bf16(const F& x) { return each<F>([&](int i) { return upper_half(rounded_quarter(x.v[i])); }); }

inline std::uint64_t read_line(const std::uint8_t* p) {
  const uint8x16_t first = veorq_u8(vld1q_u8(p), vld1q_u8(p + 16)), second = veorq_u8(vld1q_u8(p + 32), vld1q_u8(p + 48));
  return vgetq_lane_u64(vreinterpretq_u64_u8(veorq_u8(first, second)), 0);
}

constexpr int kBf16Item = 4;
struct FloatPairs {
  F first, second;
};
using Pairs = FloatPairs;
inline FloatPairs load_float_pairs(const std::uint8_t* p) {
  const auto both = [=](int i) { return vreinterpretq_u32_u8(vld1q_u8(p + 16 * i)); };
  return {each<F>([=](int i) { return vreinterpretq_f32_u32(vshlq_n_u32(both(i), 16)); }),
          each<F>([=](int i) { return upper_half(both(i)); })};
}
inline Pairs load_pairs(const std::uint8_t* p) { return load_float_pairs(p); }
inline F dot_pairs(const F& sum, const Pairs& w, const std::uint8_t* x) {
  const float* pair = reinterpret_cast<const float*>(x);
  return fma(w.second, set(pair[1]), fma(w.first, set(pair[0]), sum));
}

inline Bytes load_bytes(const std::uint8_t* p) { return each<Bytes>([=](int i) { return vld1q_u8(p + 16 * i); }); }
// Each byte moved right by kShift bits, or left by -kShift, and cut to `mask`.
template <int kShift>
inline Bytes bits(const Bytes& x, std::uint8_t mask) {
  return each<Bytes>([&](int i) {
    uint8x16_t moved = x.v[i];
    if constexpr (kShift > 0) moved = vshrq_n_u8(moved, kShift);
    if constexpr (kShift < 0) moved = vshlq_n_u8(moved, -kShift);
    return kShift > 0 && mask == 0xff >> (kShift & 7) ? moved : vandq_u8(moved, vdupq_n_u8(mask));
  });
}
inline Bytes join_bits(const Bytes& x, const Bytes& y) { return each<Bytes>([&](int i) { return vorrq_u8(x.v[i], y.v[i]); }); }
// table[i] for each byte i, which is below 16.
inline Bytes look_up(const Bytes& indices, const std::uint8_t* table) {
  const uint8x16_t values = vld1q_u8(table);
  return each<Bytes>([&](int i) { return vqtbl1q_u8(values, indices.v[i]); });
}

// Bytes are multiplied as signed ones, so those of 8 bits lose the 128 that is stored with them.
constexpr bool kSignedBytes = true;
inline Bytes less_128(const Bytes& x) { return each<Bytes>([&](int i) { return veorq_u8(x.v[i], vdupq_n_u8(128)); }); }
constexpr bool kPairSums = false;  // see simd_avx2.h

#if EYAS_NEON
inline int32x4_t dot_quarter(int32x4_t sum, int8x16_t w, int8x16_t x) { return vdotq_s32(sum, w, x); }
#else
// Two products fit 16 bits: none is larger than 128 * 127.
inline int32x4_t dot_quarter(int32x4_t sum, int8x16_t w, int8x16_t x) {
  return vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x)));
}
#endif
inline I dot_bytes(const I& sum, const Bytes& w, const std::uint8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, 4);
  const int8x16_t xs = vreinterpretq_s8_s32(vdupq_n_s32(four));
  return each<I>([&](int i) { return dot_quarter(sum.v[i], vreinterpretq_s8_u8(w.v[i]), xs); });
}

#if EYAS_NEON < 2
using TokenPair = void;
#else
// Sums of two tokens times 16 outputs: in v[i] outputs 2 i and 2 i + 1, of the first token and then of the second.
struct TokenPair {
  int32x4_t v[8];

  // Bytes of 8 inputs: of outputs 2 i and 2 i + 1 in v[i], and of both tokens.
  struct Weights {
    int8x16_t v[8];
  };
  using Inputs = int8x16_t;

  static TokenPair start(const I& first, const I& second) {
    TokenPair sums;
    for (int i = 0; i < 8; ++i) sums.v[i] = vcombine_s32(vget_low_s32(first.v[0]), vget_low_s32(second.v[0]));
    return sums;
  }
  static Weights weights(const Bytes& first, const Bytes& second) {
    Weights both;
    for (int i = 0; i < 4; ++i) {
      const int32x4_t a = vreinterpretq_s32_u8(first.v[i]), b = vreinterpretq_s32_u8(second.v[i]);
      both.v[2 * i] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
      both.v[2 * i + 1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
    }
    return both;
  }
  static Inputs inputs(const std::uint8_t* first, const std::uint8_t* second) {
    return vreinterpretq_s8_u8(vcombine_u8(vld1_u8(first), vld1_u8(second)));
  }
  void add(const Weights& w, Inputs x) { for (int i = 0; i < 8; ++i) v[i] = vmmlaq_s32(v[i], x, w.v[i]); }
  void split(I& first, I& second) const {
    for (int i = 0; i < 4; ++i) {
      const int64x2_t a = vreinterpretq_s64_s32(v[2 * i]), b = vreinterpretq_s64_s32(v[2 * i + 1]);
      first.v[i] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
      second.v[i] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
    }
  }
};
#endif
// clang-format on
