// GGUF's Q5_0: 5 bits, and a scale for 32 weights.

struct Q5_0 : BlockFormat<Q5_0> {
  static constexpr const char* kName = "Q5_0";
  static constexpr int kFileBytes = 22, kInputs = 32, kRun = 32, kOffset = 16, kMost = 31;
  static constexpr bool kHasMin = false;
  struct Stored {
    Halves d;
    Plane<4> low;
    Plane<1> high;
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    const std::uint32_t high = std::uint32_t(read_u16(file + 2)) | std::uint32_t(read_u16(file + 4)) << 16;
    block.set_d(file);
    block.set_nibbles(file + 6, [&](int nibble, int i) { return nibble + int(high >> i & 1) * 16 - kOffset; });
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    for (int i = 0; i < kInputs; ++i) {
      s.low.put(i, output, block.weights[i] + kOffset);
      s.high.put(i, output, (block.weights[i] + kOffset) >> 4);
    }
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int) {
    return join_bits(s.low.template get<kVector>(), s.high.template get<kVector, 4>());
  }
  static F scale(const Stored& s, int, int half) { return s.d.get(half); }
};
