// MXFP4 (OCP Microscaling Formats 1.0): floats of 4 bits (E2M1), and a power of two for 32 weights.

// Twice the values, so that they are integers; -0 is 0.
alignas(16) constexpr std::int8_t kTwiceE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct MXFP4 : BlockFormat<MXFP4> {
  static constexpr const char* kName = "MXFP4";
  static constexpr int kFileBytes = 17, kInputs = 32, kRun = 32, kOffset = 16, kMost = 28;
  static constexpr bool kHasMin = false;
  struct Stored {
    std::uint8_t exponent[kBlock];  // of half the scale, plus 128
    Plane<4> plane;
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    block.d = std::ldexp(1.0f, int(file[0]) - 128);
    block.d_bits = file[0];
    block.set_nibbles(file + 1, [](int nibble, int) { return kTwiceE2M1[nibble]; });
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.exponent[output] = std::uint8_t(block.d_bits);
    for (int i = 0; i < kInputs; ++i) s.plane.put(i, output, index_of(kTwiceE2M1, block.weights[i]));
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int) {
    return look_up(s.plane.template get<kVector>(), kTwiceE2M1, kOffset);
  }
  // In two steps, since the smallest powers are denormal and the largest exponents too large for one.
  static F scale(const Stored& s, int, int half) {
    const F exponent = sub(to_float(load_int8(s.exponent + half * kLanes)), set(128));
    const I first = to_int(mul(exponent, set(0.5f)));
    return mul(pow2(first), pow2(to_int(sub(exponent, to_float(first)))));
  }
};
