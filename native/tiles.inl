// Tiles of a product: sums of a few tokens times a few vectors of outputs. The weight formats choose among these.

constexpr int kGroupBytes = kBlock * 4;  // of a block's group of inputs

constexpr std::size_t grouped_bytes(int k, int group) { return std::size_t(round_up(k, group) / group) * kGroupBytes; }

// Fills the blocks, of `bytes` each, that begin with one of the outputs first..end-1.
inline void clear_blocks(std::uint8_t* out, std::size_t bytes, int first, int end, std::uint8_t padding) {
  const int begin = (first + kBlock - 1) / kBlock, count = (end + kBlock - 1) / kBlock - begin;
  std::memset(out + std::size_t(begin) * bytes, padding, std::size_t(count) * bytes);
}

// Where output `lane` of a block has its value of input i, in values.
template <class Format>
constexpr std::size_t packed_offset(int i, int lane) {
  constexpr int group = Format::kGroup;
  return (std::size_t(i / group) * kBlock + std::size_t(lane)) * std::size_t(group) + std::size_t(i % group);
}

// Inlined early: GCC keeps fewer of the sums in registers otherwise, and drops prefetches.
#define EYAS_INLINE __attribute__((always_inline)) inline

// Prefetches into the second cache: with each group the line at each of L places, which move on by `step` bytes.
template <int L>
struct Ahead {
  const std::uint8_t* places[L > 0 ? L : 1];
  int step;

  EYAS_INLINE void fetch(int g) const {
    for (int l = 0; l < L; ++l) __builtin_prefetch(places[l] + std::size_t(g) * std::size_t(step), 0, 2);
  }
};

// Bytes of 8 bits, which are stored plus 128, as dot_bytes reads them, and the start of a sum of their products: -128 times
// the sum of the inputs, which undoes the 128 where the bytes still have it.
template <class Bytes>
EYAS_INLINE Bytes of_8_bits(const Bytes& stored) {
  if constexpr (kSignedBytes)
    return less_128(stored);
  else
    return stored;
}
EYAS_INLINE I start_of_8_bits(std::int32_t sum) { return kSignedBytes ? zero_int() : set_int(sum); }

// Sums in floats of R tokens times V vectors of outputs: vector v starts at w[v] and has a group every `stride` bytes.
template <class Format, int R, int V, int L>
EYAS_INLINE void strided_tile(const std::uint8_t* const* w, int stride, int groups, const std::uint8_t* const* x,
                              const Ahead<L>& ahead, F (&sums)[R][V]) {
  F own[R][V];  // every index is known when compiling, so these are registers
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) own[r][v] = zero();
  for (int g = 0; g < groups; ++g) {
    typename Format::Weights weights[V];
    ahead.fetch(g);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) weights[v] = Format::load_weights(w[v] + std::size_t(g) * std::size_t(stride));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) own[r][v] = Format::dot(own[r][v], weights[v], x[r] + g * Format::kActivationBytes);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[r][v] = own[r][v];
}

// The same for the tokens from `t` on and vectors of a packed block.
template <class Format, int R, int V, int L>
EYAS_INLINE void float_tile(const std::uint8_t* const* w, int groups, const Activations& x, int t, const Ahead<L>& ahead,
                            F (&sums)[R][V]) {
  const std::uint8_t* tokens[R];
  for (int r = 0; r < R; ++r) tokens[r] = x.token(t + r);
  strided_tile<Format, R, V>(w, kGroupBytes, groups, tokens, ahead, sums);
}

// The same for int8: sums of integers over 64 inputs each, then scaled by the activations' scales and added up in order. The
// integers take the registers, so the sums in floats stay in memory.
template <int R, int V, int L>
inline void integer_tile(const std::uint8_t* const* w, int groups, const Activations& x, int t, const Ahead<L>& ahead,
                         F (&sums)[R][V]) {
  constexpr int kGroups = kScaled / 4;
  const std::uint8_t* tokens[R];
  for (int r = 0; r < R; ++r) {
    tokens[r] = x.token(t + r);
    for (int v = 0; v < V; ++v) sums[r][v] = zero();
  }
  for (int part = 0, g = 0; part < x.scales; ++part) {
    const int end = groups < g + kGroups ? groups : g + kGroups;
    I whole[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) whole[r][v] = start_of_8_bits(x.sum[(t + r) * x.scales + part]);
    for (; g < end; ++g) {
      decltype(load_bytes(nullptr)) weights[V];
      ahead.fetch(g);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) weights[v] = of_8_bits(load_bytes(w[v] + std::size_t(g) * kGroupBytes));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) whole[r][v] = dot_bytes(whole[r][v], weights[v], tokens[r] + g * 4);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = fma(to_float(whole[r][v]), set(x.scale[(t + r) * x.scales + part]), sums[r][v]);
    asm volatile("" : "+m"(sums));
  }
}
