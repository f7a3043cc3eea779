// GGUF's Q4_1: 4 bits, and a scale and an offset for 32 weights.

struct Q4_1 : BlockFormat<Q4_1> {
  static constexpr const char* kName = "Q4_1";
  static constexpr int kFileBytes = 20, kInputs = 32, kRun = 32, kOffset = 0, kMost = 15;
  static constexpr bool kHasMin = true;
  struct Stored {
    Halves d, m;
    Plane<4> plane;
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    block.set_d(file);
    block.set_dmin(file + 2);
    block.min[0] = -1;  // the offset is added
    block.set_nibbles(file + 4, [](int nibble, int) { return nibble; });
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    s.m.put(output, block.dmin_bits);
    for (int i = 0; i < kInputs; ++i) s.plane.put(i, output, block.weights[i]);
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int) {
    return s.plane.template get<kVector>();
  }
  static F scale(const Stored& s, int, int half) { return s.d.get(half); }
  static F shift(const Stored& s, int, int half) { return s.m.get(half); }
};
