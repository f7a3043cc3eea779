// GGUF's IQ4_XS: 4 bits that name one of 16 values, a scale of 6 bits for 32 weights, and a factor for 256.

struct IQ4_XS : BlockFormat<IQ4_XS> {
  static constexpr const char* kName = "IQ4_XS";
  static constexpr int kFileBytes = 136, kInputs = 256, kRun = 32, kOffset = 128, kMost = 241;
  static constexpr bool kHasMin = false;
  struct Stored {
    Halves d;
    RunIntegers<std::int8_t, 8> scale;
    Plane<4> planes[8];
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    const int high = read_u16(file + 2);
    const std::uint8_t *low = file + 4, *nibbles = file + 8;
    block.set_d(file);
    for (int run = 0; run < 8; ++run) {
      const int lower = low[run / 2] >> (run % 2 * 4) & 15;
      block.scale[run] = std::int16_t((lower | (high >> (2 * run) & 3) << 4) - 32);
    }
    for (int i = 0; i < kInputs; ++i) block.weights[i] = kUnevenValues[nibbles[i / 32 * 16 + i % 16] >> (i % 32 / 16 * 4) & 15];
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    for (int run = 0; run < 8; ++run) s.scale.put(run, output, block.scale[run]);
    for (int i = 0; i < kInputs; ++i) s.planes[i / 32].put(i % 32, output, index_of(kUnevenValues, block.weights[i]));
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int part) {
    return look_up(s.planes[part].template get<kVector>(), kUnevenValues, kOffset);
  }
  static F scale(const Stored& s, int run, int half) { return mul(s.d.get(half), s.scale.get(run, half)); }
};
