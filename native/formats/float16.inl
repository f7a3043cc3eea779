// Weights in half precision, multiplied in float32. Pairs of inputs lie apart: 16 halves of one, then 16 of the other.

struct Float16 {
  static constexpr const char* kName = "float16";
  static constexpr ActivationFormat kActivations = ActivationFormat::Float32;
  static constexpr bool kHasScales = false, kIsBlocks = false;
  static constexpr int kGroup = 2;
  static constexpr int kTokens = kBf16Tokens;
  static constexpr int kActivationBytes = 8;
  static constexpr int kFileBytes = 2, kInputs = 1;

  static std::size_t block_bytes(int k) { return grouped_bytes(k, kGroup); }
  static std::size_t pack(const WeightRows& rows, int first, int n, int k, std::uint8_t* out, float*) {
    const std::uint8_t* file = static_cast<const std::uint8_t*>(rows.data);
    clear_blocks(out, block_bytes(k), first, first + n, 0);
    std::size_t bad = 0;
    for (int o = first; o < first + n; ++o) {
      std::uint8_t* block =
          out + std::size_t(o / kBlock) * block_bytes(k) + std::size_t(o % kBlock / kLanes * 64 + o % kLanes * 2);
      for (int i = 0; i < k; ++i, file += 2) {
        bad += (file[1] & 0x7c) == 0x7c;
        std::memcpy(block + std::size_t(i / 2) * kGroupBytes + std::size_t(i % 2 * 32), file, 2);
      }
    }
    return bad;
  }
  static void unpack_row(const std::uint8_t* file, int k, float* out) {
    for (int i = 0; i < k; ++i) out[i] = half_to_float(read_u16(file + 2 * i));
  }

  struct Weights {
    F first, second;
  };
  static Weights load_weights(const std::uint8_t* p) {
    const std::uint16_t* halves = reinterpret_cast<const std::uint16_t*>(p);
    return {load_f16(halves), load_f16(halves + kLanes)};
  }
  static F dot(F sum, const Weights& w, const std::uint8_t* x) {
    const float* pair = reinterpret_cast<const float*>(x);
    return fma(w.second, set(pair[1]), fma(w.first, set(pair[0]), sum));
  }

  template <int R, int V, int L>
  static void tile(const std::uint8_t* const* w, int groups, const Activations& x, int t, const Ahead<L>& ahead,
                   F (&sums)[R][V]) {
    float_tile<Float16>(w, groups, x, t, ahead, sums);
  }
};
