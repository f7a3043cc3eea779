// Weights in int8 with a scale per output, multiplied by int8 activations: sums of integers over 64 inputs each, which are
// exact. The bytes are stored plus 128, as unsigned, which the instructions need; `Activations::sum` undoes it.

struct Int8 {
  static constexpr const char* kName = "int8";
  static constexpr ActivationFormat kActivations = ActivationFormat::Int8;
  static constexpr bool kHasScales = true, kIsBlocks = false;
  static constexpr int kFileBytes = 0;  // made from numbers
  static constexpr int kGroup = 4;
  static constexpr int kTokens = kInt8Tokens;
  static constexpr std::uint8_t kPadding = 128;

  static std::size_t block_bytes(int k) { return grouped_bytes(k, kGroup); }
  // To nearest, ties to even, for |x| below 2^22; 0 where x is not a number. A call for each number would take most of the time.
  static int rounded(float x) {
    const float shifted = x + 12582912.0f;  // 1.5 x 2^23: the units are the last bit
    return std::isfinite(x) ? int(shifted - 12582912.0f) : 0;
  }
  static void pack_row(const float* row, int padded_k, int lane, std::uint8_t* block, float* scale) {
    float top = 0;
    for (int i = 0; i < padded_k; ++i) top = std::fabs(row[i]) > top ? std::fabs(row[i]) : top;
    *scale = top / 127.0f;
    const float inverse = top > kLeastScaled && std::isfinite(top) ? 127.0f / top : 0.0f;
    for (int i = 0; i < padded_k; i += kGroup) {
      std::uint8_t group[kGroup];
      for (int j = 0; j < kGroup; ++j) group[j] = std::uint8_t(rounded(row[i + j] * inverse) + 128);
      __builtin_memcpy(block + packed_offset<Int8>(i, lane), group, kGroup);
    }
  }

  template <int R, int V, int L>
  static void tile(const std::uint8_t* const* w, int groups, const Activations& x, int t, const Ahead<L>& ahead,
                   F (&sums)[R][V]) {
    integer_tile(w, groups, x, t, ahead, sums);
  }
};
