// GGUF's Q3_K: 3 bits, a scale of 6 bits for 16 weights, and a factor for 256.

struct Q3_K : BlockFormat<Q3_K> {
  static constexpr const char* kName = "Q3_K";
  static constexpr int kFileBytes = 110, kInputs = 256, kRun = 16, kOffset = 4, kMost = 7;
  static constexpr bool kHasMin = false;
  struct Stored {
    Halves d;
    RunIntegers<std::int8_t, 16> scale;
    struct {
      Plane<2> low;
      Plane<1> high;
    } planes[8];
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    const std::uint8_t *high = file, *low = file + 32, *scales = file + 96;
    block.set_d(file + 108);
    for (int run = 0; run < 16; ++run) {
      const int lower = run < 8 ? scales[run] & 15 : scales[run - 8] >> 4;
      block.scale[run] = std::int16_t((lower | (scales[8 + run % 4] >> (2 * (run / 4)) & 3) << 4) - 32);
    }
    for (int i = 0; i < kInputs; ++i) {
      const int lower = low[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
      block.weights[i] = std::int16_t(lower + (high[i % 32] >> (i / 32) & 1) * 4 - kOffset);
    }
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    for (int run = 0; run < 16; ++run) s.scale.put(run, output, block.scale[run]);
    for (int i = 0; i < kInputs; ++i) {
      s.planes[i / 32].low.put(i % 32, output, block.weights[i] + kOffset);
      s.planes[i / 32].high.put(i % 32, output, (block.weights[i] + kOffset) >> 2);
    }
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int part) {
    return join_bits(s.planes[part].low.template get<kVector>(), s.planes[part].high.template get<kVector, 2>());
  }
  static F scale(const Stored& s, int run, int half) { return mul(s.d.get(half), s.scale.get(run, half)); }
};
