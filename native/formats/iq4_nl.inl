// GGUF's IQ4_NL: 4 bits that name one of 16 values, and a scale for 32 weights.

// The values, which are denser around 0 as weights are.
alignas(16) constexpr std::int8_t kUnevenValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct IQ4_NL : BlockFormat<IQ4_NL> {
  static constexpr const char* kName = "IQ4_NL";
  static constexpr int kFileBytes = 18, kInputs = 32, kRun = 32, kOffset = 128, kMost = 241;
  static constexpr bool kHasMin = false;
  struct Stored {
    Halves d;
    Plane<4> plane;
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    block.set_d(file);
    block.set_nibbles(file + 2, [](int nibble, int) { return kUnevenValues[nibble]; });
  }
  static void put(const Decoded& block, int output, Stored& s) {
    s.d.put(output, block.d_bits);
    for (int i = 0; i < kInputs; ++i) s.plane.put(i, output, index_of(kUnevenValues, block.weights[i]));
  }
  template <int kVector>
  static Bytes weights(const Stored& s, int) {
    return look_up(s.plane.template get<kVector>(), kUnevenValues, kOffset);
  }
  static F scale(const Stored& s, int, int half) { return s.d.get(half); }
};
