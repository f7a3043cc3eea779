// Weights in bfloat16, multiplied by bfloat16 activations and summed in float32.

struct Bfloat16 {
  static constexpr const char* kName = "bfloat16";
  static constexpr ActivationFormat kActivations = ActivationFormat::Bfloat16;
  static constexpr bool kHasScales = false, kIsBlocks = false;
  static constexpr int kFileBytes = 0;  // made from numbers
  static constexpr int kGroup = 2;
  static constexpr int kTokens = kBf16Tokens;
  static constexpr int kActivationBytes = 2 * kBf16Item;
  static constexpr std::uint8_t kPadding = 0;

  static std::size_t block_bytes(int k) { return grouped_bytes(k, kGroup); }
  // Rounded to nearest, ties to even.
  static void pack_row(const float* row, int padded_k, int lane, std::uint8_t* block, float*) {
    for (int i = 0; i < padded_k; ++i) {
      std::uint32_t bits;
      __builtin_memcpy(&bits, row + i, 4);
      const std::uint16_t rounded = std::uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
      __builtin_memcpy(block + packed_offset<Bfloat16>(i, lane) * 2, &rounded, 2);
    }
  }

  using Weights = Pairs;
  static Weights load_weights(const std::uint8_t* p) { return load_pairs(p); }
  static F dot(F sum, const Weights& w, const std::uint8_t* x) { return dot_pairs(sum, w, x); }

  template <int R, int V, int L>
  static void tile(const std::uint8_t* const* w, int groups, const Activations& x, int t, const Ahead<L>& ahead,
                   F (&sums)[R][V]) {
    float_tile<Bfloat16>(w, groups, x, t, ahead, sums);
  }
};
