// GGUF's Q8_0: 8 bits, and a scale for 32 weights.

struct Q8_0 : BlockFormat<Q8_0> {
  static constexpr const char* kName = "Q8_0";
  static constexpr int kFileBytes = 34, kInputs = 32, kRun = 32, kOffset = 128, kMost = 255;
  static constexpr bool kHasMin = false;
  struct Stored {
    Halves d;
    Plane<8> plane;
  };

  static void decode(const std::uint8_t* file, Decoded& block) {
    block.set_d(file);
    for (int i = 0; i < kInputs; ++i) block.weights[i] = std::int8_t(file[2 + i]);
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
