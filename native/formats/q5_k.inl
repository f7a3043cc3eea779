// GGUF's Q5_K: 5 bits, a scale and a minimum of 6 bits for 32 weights, and a factor of each for 256.

struct Q5_K : BlockFormat<Q5_K> {
  static constexpr const char* kName = "Q5_K";
  static constexpr int kFileBytes = 176, kInputs = 256, kRun = 32, kOffset = 0, kMost = 31;
  static constexpr bool kHasMin = true;
  struct Stored {
    Halves d, dmin;
    RunIntegers<std::uint8_t, 8> scale, min;
    struct {
      Plane<4> low;
      Plane<1> high;
    } planes[8];
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    block.set_d(file);
    block.set_dmin(file + 2);
    block.set_scales_of_6_bits(file + 4);
    const std::uint8_t *high = file + 16, *low = file + 48;
    for (int i = 0; i < kInputs; ++i) {
      const int lower = low[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
      block.weights[i] = std::int16_t(lower + (high[i % 32] >> (i / 32) & 1) * 16);
    }
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    s.dmin.put(output, block.dmin_bits);
    for (int run = 0; run < 8; ++run) {
      s.scale.put(run, output, block.scale[run]);
      s.min.put(run, output, block.min[run]);
    }
    for (int i = 0; i < kInputs; ++i) {
      s.planes[i / 32].low.put(i % 32, output, block.weights[i]);
      s.planes[i / 32].high.put(i % 32, output, block.weights[i] >> 4);
    }
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int part) {
    return join_bits(s.planes[part].low.template get<kVector>(), s.planes[part].high.template get<kVector, 4>());
  }
  static F scale(const Stored& s, int run, int half) { return mul(s.d.get(half), s.scale.get(run, half)); }
  static F shift(const Stored& s, int run, int half) { return negated(mul(s.dmin.get(half), s.min.get(run, half))); }
};
