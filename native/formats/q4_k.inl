// GGUF's Q4_K: 4 bits, a scale and a minimum of 6 bits for 32 weights, and a factor of each for 256.

struct Q4_K : BlockFormat<Q4_K> {
  static constexpr const char* kName = "Q4_K";
  static constexpr int kFileBytes = 144, kInputs = 256, kRun = 32, kOffset = 0, kMost = 15;
  static constexpr bool kHasMin = true;
  struct Stored {
    Halves d, dmin;
    RunIntegers<std::uint8_t, 8> scale, min;
    Plane<4> planes[8];
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    block.set_d(file);
    block.set_dmin(file + 2);
    block.set_scales_of_6_bits(file + 4);
    const std::uint8_t* nibbles = file + 16;
    for (int i = 0; i < kInputs; ++i) block.weights[i] = nibbles[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    s.dmin.put(output, block.dmin_bits);
    for (int run = 0; run < 8; ++run) {
      s.scale.put(run, output, block.scale[run]);
      s.min.put(run, output, block.min[run]);
    }
    for (int i = 0; i < kInputs; ++i) s.planes[i / 32].put(i % 32, output, block.weights[i]);
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int part) {
    return s.planes[part].template get<kVector>();
  }
  static F scale(const Stored& s, int run, int half) { return mul(s.d.get(half), s.scale.get(run, half)); }
  static F shift(const Stored& s, int run, int half) { return negated(mul(s.dmin.get(half), s.min.get(run, half))); }
};
