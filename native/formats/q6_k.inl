// GGUF's Q6_K: 6 bits, a scale of 8 bits for 16 weights, and a factor for 256.

struct Q6_K : BlockFormat<Q6_K> {
  static constexpr const char* kName = "Q6_K";
  static constexpr int kFileBytes = 210, kInputs = 256, kRun = 16, kOffset = 32, kMost = 63;
  static constexpr bool kHasMin = false;
  struct Stored {
    Halves d;
    RunIntegers<std::int8_t, 16> scale;
    struct {
      Plane<4> low;
      Plane<2> high;
    } planes[8];
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    const std::uint8_t *low = file, *high = file + 128, *scales = file + 192;
    block.set_d(file + 208);
    for (int run = 0; run < 16; ++run) block.scale[run] = std::int8_t(scales[run]);
    for (int i = 0; i < kInputs; ++i) {  // in halves of 128, four times 32
      const int half = i / 128, part = i % 128 / 32;
      const int lower = low[half * 64 + part % 2 * 32 + i % 32] >> (part / 2 * 4) & 15;
      block.weights[i] = std::int16_t(lower + (high[half * 32 + i % 32] >> (part * 2) & 3) * 16 - kOffset);
    }
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    for (int run = 0; run < 16; ++run) s.scale.put(run, output, block.scale[run]);
    for (int i = 0; i < kInputs; ++i) {
      s.planes[i / 32].low.put(i % 32, output, block.weights[i] + kOffset);
      s.planes[i / 32].high.put(i % 32, output, (block.weights[i] + kOffset) >> 4);
    }
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int part) {
    return join_bits(s.planes[part].low.template get<kVector>(), s.planes[part].high.template get<kVector, 4>());
  }
  static F scale(const Stored& s, int run, int half) { return mul(s.d.get(half), s.scale.get(run, half)); }
};
