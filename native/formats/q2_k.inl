// GGUF's Q2_K: 2 bits, a scale and a minimum of 4 bits for 16 weights, and a factor of each for 256.

struct Q2_K : BlockFormat<Q2_K> {
  static constexpr const char* kName = "Q2_K";
  static constexpr int kFileBytes = 84, kInputs = 256, kRun = 16, kOffset = 0, kMost = 3;
  static constexpr bool kHasMin = true;
  struct Stored {
    Halves d, dmin;
    std::uint8_t scales[16][kBlock];  // 4 bits of the scale, 4 of the minimum
    Plane<2> planes[8];
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    block.set_d(file + 80);
    block.set_dmin(file + 82);
    for (int run = 0; run < 16; ++run) {
      block.scale[run] = file[run] & 15;
      block.min[run] = file[run] >> 4;
    }
    const std::uint8_t* bits = file + 16;
    for (int i = 0; i < kInputs; ++i) block.weights[i] = bits[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    s.dmin.put(output, block.dmin_bits);
    for (int run = 0; run < 16; ++run) s.scales[run][output] = std::uint8_t(block.scale[run] | block.min[run] << 4);
    for (int i = 0; i < kInputs; ++i) s.planes[i / 32].put(i % 32, output, block.weights[i]);
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int part) {
    return s.planes[part].template get<kVector>();
  }
  static F scale(const Stored& s, int run, int half) {
    return mul(s.d.get(half), to_float(lower_nibbles(s.scales[run] + half * kLanes)));
  }
  static F shift(const Stored& s, int run, int half) {
    return negated(mul(s.dmin.get(half), to_float(upper_nibbles(s.scales[run] + half * kLanes))));
  }
};
