// GGUF's Q4_0: 4 bits, and a scale for 32 weights.

struct Q4_0 : BlockFormat<Q4_0> {
  static constexpr const char* kName = "Q4_0";
  static constexpr int kFileBytes = 18, kInputs = 32, kRun = 32, kOffset = 8, kMost = 15;
  static constexpr bool kHasMin = false;
  struct Stored {
    Halves d;
    Plane<4> plane;
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    block.set_d(file);
    block.set_nibbles(file + 2, [](int nibble, int) { return nibble - kOffset; });
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    for (int i = 0; i < kInputs; ++i) s.plane.put(i, output, block.weights[i] + kOffset);
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int) {
    return s.plane.template get<kVector>();
  }
  static F scale(const Stored& s, int, int half) { return s.d.get(half); }
};
