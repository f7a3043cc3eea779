// GGUF's Q5_1: 5 bits, and a scale and an offset for 32 weights.

struct Q5_1 : BlockFormat<Q5_1> {
  static constexpr const char* kName = "Q5_1";
  static constexpr int kFileBytes = 24, kInputs = 32, kRun = 32, kOffset = 0, kMost = 31;
  static constexpr bool kHasMin = true;
  struct Stored {
    Halves d, m;
    Plane<4> low;
    Plane<1> high;
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    const std::uint32_t high = std::uint32_t(read_u16(file + 4)) | std::uint32_t(read_u16(file + 6)) << 16;
    block.set_d(file);
    block.set_dmin(file + 2);
    block.min[0] = -1;  // the offset is added
    block.set_nibbles(file + 8, [&](int nibble, int i) { return nibble + int(high >> i & 1) * 16; });
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    s.m.put(output, block.dmin_bits);
    for (int i = 0; i < kInputs; ++i) {
      s.low.put(i, output, block.weights[i]);
      s.high.put(i, output, block.weights[i] >> 4);
    }
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int) {
    return join_bits(s.low.template get<kVector>(), s.high.template get<kVector, 4>());
  }
  static F scale(const Stored& s, int, int half) { return s.d.get(half); }
  static F shift(const Stored& s, int, int half) { return s.m.get(half); }
};
