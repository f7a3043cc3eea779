// Block formats: 32 or 256 consecutive weights of a row share scales and are small integers themselves.
//
// A block of 32 outputs holds, for each 32 or 256 inputs, one `Stored` of the format: the scales of all 32 outputs side by side,
// and the integers in planes. So vector lanes are outputs, an integer is unpacked once for all tokens of a tile, and no lane is
// ever added to another one.
//
// The product is defined to the bit, the same on every instruction set (docs/laws.md, L8). Inputs are int8 with a scale a for
// each 32 (`prepare`). For each run of 16 or 32 inputs that share a scale s of the weights, from the first to the last,
//
//     y = fma(s a, sum(q x), y)     s = d scale
//     y = fma(m, a sum(x), y)       m = -(dmin min), in formats whose weights are s q + m
//
// where sums are exact in integers, and each product is rounded to float32 before the fma.

inline std::uint16_t read_u16(const std::uint8_t* p) { return std::uint16_t(p[0] | p[1] << 8); }

// A block of a row as a file's format means it: weight i is d scale[r] weights[i] - dmin min[r], r the run that i lies in.
struct Decoded {
  float d = 0, dmin = 0;
  std::uint16_t d_bits = 0, dmin_bits = 0;  // as they are stored
  std::int16_t scale[16] = {}, min[16] = {};
  std::int16_t weights[256] = {};

  Decoded() {
    for (std::int16_t& x : scale) x = 1;  // formats without integer scales
  }
  bool is_finite() const { return std::isfinite(d) && std::isfinite(dmin); }
  void set_d(const std::uint8_t* half) { d = half_to_float(d_bits = read_u16(half)); }
  void set_dmin(const std::uint8_t* half) { dmin = half_to_float(dmin_bits = read_u16(half)); }
  // Eight scales and eight minima in 12 bytes: the first four of each in six bits of a byte, the others in four bits of one and
  // the two that the first ones leave.
  void set_scales_of_6_bits(const std::uint8_t* s) {
    for (int i = 0; i < 4; ++i) {
      scale[i] = s[i] & 63;
      min[i] = s[i + 4] & 63;
      scale[i + 4] = std::int16_t((s[i + 8] & 15) | s[i] >> 6 << 4);
      min[i + 4] = std::int16_t(s[i + 8] >> 4 | s[i + 4] >> 6 << 4);
    }
  }
  // The order of nibbles in blocks of 32: all lower ones, then all upper ones.
  template <class Function>
  void set_nibbles(const std::uint8_t* bytes, const Function& weight) {
    for (int i = 0; i < 16; ++i) {
      weights[i] = std::int16_t(weight(bytes[i] & 15, i));
      weights[i + 16] = std::int16_t(weight(bytes[i] >> 4, i + 16));
    }
  }
};

// A half for each of 32 outputs.
struct Halves {
  std::uint16_t values[kBlock];

  void put(int output, std::uint16_t bits) { values[output] = bits; }
  F get(int half) const { return load_f16(values + half * kLanes); }
};

// An integer of 8 bits for each of 32 outputs and each run of inputs.
template <class Integer, int kRuns>
struct RunIntegers {
  Integer values[kRuns][kBlock];

  void put(int run, int output, int value) { values[run][output] = Integer(value); }
  F get(int run, int half) const { return to_float(load_int8(values[run] + half * kLanes)); }
};

// `kBits` bits of each weight of 32 outputs and 32 inputs: 16 vectors (2 for each 4 inputs) of 16 outputs x 4 inputs, 8 / kBits
// of them in a line.
template <int kBits>
struct Plane {
  static constexpr int kShared = 8 / kBits, kMask = (1 << kBits) - 1;
  std::uint8_t lines[2 * kBits][64];

  void put(int input, int output, int value) {
    const int vector = input / 4 * 2 + output / kLanes, shift = vector % kShared * kBits;
    lines[vector / kShared][output % kLanes * 4 + input % 4] |= std::uint8_t((value & kMask) << shift);
  }
  // A vector's bits, moved up to bit `kTo` of each byte.
  template <int kVector, int kTo = 0>
  Bytes get() const {
    const Bytes line = load_bytes(lines[kVector / kShared]);
    if constexpr (kBits == 8) return line;
    return bits<kVector % kShared * kBits - kTo>(line, std::uint8_t(kMask << kTo));
  }
};

inline F negated(F x) { return sub(zero(), x); }

// Bytes that name one of 16 values -> the values plus `offset`.
inline Bytes look_up(const Bytes& names, const std::int8_t* values, int offset) {
  alignas(16) std::uint8_t table[16];
  for (int i = 0; i < 16; ++i) table[i] = std::uint8_t(values[i] + offset);
  return look_up(names, table);
}

// The first name of a value.
inline int index_of(const std::int8_t* values, int value) {
  int i = 0;
  while (values[i] != value) ++i;
  return i;
}

// The integers 0..n-1 for a function whose body needs them when compiling.
template <int kIndex>
struct Index {
  static constexpr int value = kIndex;
};
template <class Function, int... kIndices>
EYAS_INLINE void unrolled(const Function& function, std::integer_sequence<int, kIndices...>) {
  (function(Index<kIndices>{}), ...);
}
template <int n, class Function>
EYAS_INLINE void unrolled(const Function& function) {
  unrolled(function, std::make_integer_sequence<int, n>{});
}
#define EYAS_INLINE_LAMBDA __attribute__((always_inline))

// What all block formats share. A format has
//
//     kName, kFileBytes         of a block in a file
//     kInputs, kRun             inputs of a block, and those that share a scale
//     kOffset                   stored integers are the weights' plus this,
//     kMost                     and the largest of them
//     kHasMin
//     decode(file, decoded)     reads a file's block
//     Stored, put(decoded, output, stored)
//     weights<vector>(stored, part)   a vector (see Plane) of the part-th 32 inputs, as unsigned bytes
//     scale(stored, run, half)  s of 16 outputs
//     shift(stored, run, half)  m of 16 outputs, if kHasMin
template <class Format>
struct BlockFormat {
  static constexpr ActivationFormat kActivations = ActivationFormat::Int8Runs;
  static constexpr bool kHasScales = false, kIsBlocks = true;
  static constexpr int kTokens = kBlockTokens;

  static std::size_t block_bytes(int k) { return std::size_t(k / Format::kInputs) * sizeof(typename Format::Stored); }

  static std::size_t pack(const WeightRows& rows, int first, int n, int k, std::uint8_t* out, float*) {
    using Stored = typename Format::Stored;
    const int blocks = k / Format::kInputs;
    clear_blocks(out, block_bytes(k), first, first + n, 0);
    std::size_t bad = 0;
    const std::uint8_t* file = static_cast<const std::uint8_t*>(rows.data);
    for (int o = first; o < first + n; ++o) {
      Stored* stored = reinterpret_cast<Stored*>(out) + std::size_t(o / kBlock) * std::size_t(blocks);
      for (int b = 0; b < blocks; ++b, file += Format::kFileBytes) {
        Decoded decoded;
        Format::decode(file, decoded);
        bad += !decoded.is_finite();
        Format::put(decoded, o % kBlock, stored[b]);
      }
    }
    return bad;
  }

  // The k weights of a row in float32.
  static void unpack_row(const std::uint8_t* file, int k, float* out) {
    for (int b = 0; b < k / Format::kInputs; ++b, file += Format::kFileBytes) {
      Decoded decoded;
      Format::decode(file, decoded);
      for (int i = 0; i < Format::kInputs; ++i) {
        const int run = i / Format::kRun;
        const float scaled = decoded.d * float(decoded.scale[run]) * float(decoded.weights[i]);
        *out++ = Format::kHasMin ? scaled - decoded.dmin * float(decoded.min[run]) : scaled;
      }
    }
  }
};

// Whether integers fill their bytes: then they are stored plus 128, which bytes lose where dot_bytes multiplies signed ones.
template <class Format>
constexpr bool kFillsBytes = Format::kMost > 127;
// What the integers that dot_bytes multiplies are the weights' plus.
template <class Format>
constexpr int kOffsetOf = kFillsBytes<Format> && kSignedBytes ? Format::kOffset - 128 : Format::kOffset;

template <class Format, int kVector>
EYAS_INLINE Bytes weights_of(const typename Format::Stored& s, int part) {
  const Bytes stored = Format::template weights<kVector>(s, part);
  if constexpr (kFillsBytes<Format>)
    return of_8_bits(stored);
  else
    return stored;
}

// Integer sums as `run_integers` makes them, of two tokens and 8 inputs at a time (see simd_neon.h). An odd token goes with
// itself.
template <class Pair, class Format, int kGroup, int kFirst, int R, int V, class Start, class Fetch>
EYAS_INLINE void run_integers_of_pairs(const typename Format::Stored& s, int part, const std::uint8_t* const (&tokens)[R], int at,
                                       const Start& start, const Fetch& fetch, I (&whole)[R][V]) {
  constexpr int kPairs = (R + 1) / 2;
  const auto second = [](int p) { return 2 * p + 1 < R ? 2 * p + 1 : 2 * p; };
  Pair sums[kPairs][V];
#pragma GCC unroll 8
  for (int p = 0; p < kPairs; ++p)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[p][v] = Pair::start(start(2 * p), start(second(p)));
  unrolled<Format::kRun / 8>([&](auto piece) EYAS_INLINE_LAMBDA {
    constexpr int kOwn = 2 * decltype(piece)::value, kVector = 2 * (kGroup + kOwn) + kFirst;
    typename Pair::Weights weights[V];
    fetch(Index<kOwn>{});
    fetch(Index<kOwn + 1>{});
    unrolled<V>([&](auto v) EYAS_INLINE_LAMBDA {
      constexpr int kOf = kVector + decltype(v)::value;
      weights[decltype(v)::value] = Pair::weights(weights_of<Format, kOf>(s, part), weights_of<Format, kOf + 2>(s, part));
    });
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) {
      const int from = at + (kGroup + kOwn) * 4;
      const auto inputs = Pair::inputs(tokens[2 * p] + from, tokens[second(p)] + from);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[p][v].add(weights[v], inputs);
    }
  });
#pragma GCC unroll 8
  for (int p = 0; p < kPairs; ++p)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[p][v].split(whole[2 * p][v], whole[second(p)][v]);
}

// Integer sums of one run, whose groups of 4 inputs begin with number `kGroup`: start(r) plus weights times the bytes of each
// token at `at`. Where the instruction set multiplies bytes into sums of 16 bits, as many groups are added up there as fit.
template <class Format, int kGroup, int kFirst, int R, int V, class Start, class Fetch>
EYAS_INLINE void run_integers(const typename Format::Stored& s, int part, const std::uint8_t* const (&tokens)[R], int at,
                              const Start& start, const Fetch& fetch, I (&whole)[R][V]) {
  if constexpr (R > 1 && !std::is_void_v<TokenPair>)
    return run_integers_of_pairs<TokenPair, Format, kGroup, kFirst>(s, part, tokens, at, start, fetch, whole);
  constexpr int kGroups = Format::kRun / 4, kFit = 32767 / (2 * 127 * Format::kMost);
  constexpr bool kInPairs = kPairSums && kFit > 0;
  constexpr int kTogether = !kInPairs ? 1 : kFit < kGroups ? kFit : kGroups;
  static_assert(kGroups % kTogether == 0, "groups in equal parts");
  unrolled<kGroups / kTogether>([&](auto piece) EYAS_INLINE_LAMBDA {
    I pairs[R][V];
    unrolled<kTogether>([&](auto group) EYAS_INLINE_LAMBDA {
      constexpr int kOwn = decltype(piece)::value * kTogether + decltype(group)::value;
      Bytes weights[V];
      fetch(Index<kOwn>{});
      unrolled<V>([&](auto v) EYAS_INLINE_LAMBDA {
        weights[decltype(v)::value] = weights_of<Format, 2 * (kGroup + kOwn) + kFirst + decltype(v)::value>(s, part);
      });
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const std::uint8_t* four = tokens[r] + at + (kGroup + kOwn) * 4;
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          if constexpr (kInPairs) {
            const I product = pair_products(weights[v], four);
            pairs[r][v] = decltype(group)::value == 0 ? product : add_pairs(pairs[r][v], product);
          } else {
            whole[r][v] = dot_bytes(kOwn == 0 ? start(r) : whole[r][v], weights[v], four);
          }
        }
      }
    });
    if constexpr (kInPairs) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) whole[r][v] = sum_pairs(decltype(piece)::value == 0 ? start(r) : whole[r][v], pairs[r][v]);
    }
  });
}

// Sums in floats of R tokens from `t` on times V vectors of outputs of a block, from vector `kFirst` on. The integers take the
// registers, so the sums in floats stay in memory.
template <class Format, int kFirst, int R, int V, int L>
EYAS_INLINE void block_tile(const std::uint8_t* block, int k, const Activations& x, int t, const Ahead<L>& ahead,
                            F (&sums)[R][V]) {
  static_assert(!kFillsBytes<Format> || Format::kOffset == 128, "8 bits are stored plus 128");
  constexpr int kParts = Format::kInputs / kRunInputs, kRuns = kRunInputs / Format::kRun, kGroups = Format::kRun / 4;
  constexpr int kLines = int((sizeof(typename Format::Stored) / kParts + 63) / 64);
  const auto* stored = reinterpret_cast<const typename Format::Stored*>(block);
  const std::uint8_t* tokens[R];
  for (int r = 0; r < R; ++r) {
    tokens[r] = x.token(t + r);
    for (int v = 0; v < V; ++v) sums[r][v] = zero();
  }
  for (int part = 0, line = 0; part < k / kRunInputs; ++part, line += kLines) {
    const typename Format::Stored& s = stored[part / kParts];
    const int own = part % kParts;
    for (int extra = kRuns * kGroups; extra < kLines; ++extra) ahead.fetch(line + extra);
    unrolled<kRuns>([&](auto run) EYAS_INLINE_LAMBDA {
      constexpr int kRunOf = decltype(run)::value;
      const std::int32_t* run_sums[R];
      for (int r = 0; r < R; ++r) run_sums[r] = x.sum + std::size_t(2 * ((t + r) * x.scales + part));
      const auto start = [&](int r) EYAS_INLINE_LAMBDA {
        if (kOffsetOf<Format> == 0) return zero_int();
        return set_int(-kOffsetOf<Format> * (kRuns == 2 ? run_sums[r][kRunOf] : run_sums[r][0] + run_sums[r][1]));
      };
      const auto fetch = [&](auto group) EYAS_INLINE_LAMBDA {
        if (kRunOf * kGroups + decltype(group)::value < kLines) ahead.fetch(line + kRunOf * kGroups + decltype(group)::value);
      };
      I whole[R][V];
      run_integers<Format, kRunOf * kGroups, kFirst>(s, own, tokens, part * kRunInputs, start, fetch, whole);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const F scale = Format::scale(s, own * kRuns + kRunOf, kFirst + v);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
          sums[r][v] = fma(mul(scale, set(x.scale[(t + r) * x.scales + part])), to_float(whole[r][v]), sums[r][v]);
      }
      if constexpr (Format::kHasMin) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const F shift = Format::shift(s, own * kRuns + kRunOf, kFirst + v);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            const float sum = kRuns == 1 ? x.scaled_sum[(t + r) * x.scales + part]
                                         : x.scale[(t + r) * x.scales + part] * float(run_sums[r][kRunOf]);
            sums[r][v] = fma(shift, set(sum), sums[r][v]);
          }
        }
      }
    });
    asm volatile("" : "+m"(sums));
  }
}
