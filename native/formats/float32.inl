// Weights in float32, multiplied in float32: exact but for the order of the sums.

struct Float32 {
  static constexpr const char* kName = "float32";
  static constexpr ActivationFormat kActivations = ActivationFormat::Float32;
  static constexpr bool kHasScales = false, kIsBlocks = false;
  static constexpr int kFileBytes = 0;        // made from numbers
  static constexpr int kGroup = 1;            // inputs of an output that lie together
  static constexpr int kTokens = kF32Tokens;  // that share a read of the weights
  static constexpr int kActivationBytes = 4;  // of a token's group
  static constexpr std::uint8_t kPadding = 0;

  static std::size_t block_bytes(int k) { return grouped_bytes(k, kGroup); }
  static void pack_row(const float* row, int padded_k, int lane, std::uint8_t* block, float*) {
    for (int i = 0; i < padded_k; ++i) __builtin_memcpy(block + packed_offset<Float32>(i, lane) * 4, row + i, 4);
  }

  using Weights = F;
  static Weights load_weights(const std::uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
  static F dot(F sum, const Weights& w, const std::uint8_t* x) { return fma(w, set(*reinterpret_cast<const float*>(x)), sum); }

  template <int R, int V, int L>
  static void tile(const std::uint8_t* const* w, int groups, const Activations& x, int t, const Ahead<L>& ahead,
                   F (&sums)[R][V]) {
    float_tile<Float32>(w, groups, x, t, ahead, sums);
  }
};
