// Products of tokens with packed matrices; included by kernels.inl.

// One vector of 16 results of token t, at `column` of the matrix.
inline void finish_vector(const PackedMatrix& w, const Epilogue& epilogue, int t, int column, F y) {
  if (w.bias) y = add(y, load(w.bias + column));
  float* out = epilogue.y + std::size_t(t) * epilogue.stride + column / kLanes * epilogue.step;
  store(out, epilogue.kind == Epilogue::Add ? add(load(out), y) : y);
}

// A vector of gates, at `column` of the matrix, and the vector of what they let through behind it.
inline void finish_gated(const PackedMatrix& w, const Epilogue& epilogue, int t, int column, F gate, F up) {
  if (w.bias) {
    gate = add(gate, load(w.bias + column));
    up = add(up, load(w.bias + column + kLanes));
  }
  const F y = mul(silu(gate), up);
  if (epilogue.kind == Epilogue::Gated) {
    store(epilogue.y + std::size_t(t) * epilogue.stride + column / 2, y);
  } else {
    put_activations(epilogue.activations, t, column / 2, y);
  }
}

// What becomes of the sums of R tokens from `t` on times V vectors of a block's outputs, from vector `first` on. `gates` keeps
// the first vector for the second one.
template <class Format, int R, int V>
EYAS_INLINE void finish_tile(const PackedMatrix& w, const Epilogue& epilogue, int block, int first, int t, const F (&sums)[R][V],
                             F (&gates)[R]) {
  const bool gated = epilogue.kind == Epilogue::Gated || epilogue.kind == Epilogue::GatedActivations;
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      const int half = first + v, column = block * kBlock + half * kLanes;
      const F y = Format::kHasScales ? mul(sums[r][v], load(w.scale + column)) : sums[r][v];
      if (!gated) {
        finish_vector(w, epilogue, t + r, column, y);
      } else if (half == 0) {
        gates[r] = y;
      } else {
        finish_gated(w, epilogue, t + r, column - kLanes, gates[r], y);
      }
    }
  }
}

// R tokens from `t` on, one block. While they are computed, as much is fetched at `next`: by all parts together if the tokens
// come in several, of which this is number `part`.
template <class Format, int R, bool Whole>
void multiply_tokens(const PackedMatrix& w, int block, const Activations& x, int t, int part, int parts, const Epilogue& epilogue,
                     const std::uint8_t* next) {
  constexpr int kPasses = 2 / kPerPass, V = kPerPass;
  const int groups = round_up(w.k, Format::kGroup) / Format::kGroup;
  const std::uint8_t* first = w.block(block);
  F gates[R];
  for (int r = 0; r < R; ++r) gates[r] = zero();
  for (int pass = 0; pass < kPasses; ++pass) {
    const std::uint8_t* vectors[V];
    for (int v = 0; v < V; ++v) vectors[v] = first + (pass * V + v) * 64;
    Ahead<Whole ? V : 1> ahead;
    if constexpr (Whole) {
      for (int v = 0; v < V; ++v) ahead.places[v] = next + (vectors[v] - first);
      ahead.step = kGroupBytes;
    } else {  // an equal share for each pass of each part: memory has no more than the whole time for it
      const int shares = kPasses * parts, share = kPasses * part + pass;
      ahead.places[0] = next + w.block_bytes * std::size_t(share) / std::size_t(shares);
      ahead.step = (kGroupBytes + shares - 1) / shares;
    }
    F sums[R][V];
    Format::tile(vectors, groups, x, t, ahead, sums);
    finish_tile<Format>(w, epilogue, block, pass * V, t, sums, gates);
  }
}

// The same for a block format.
template <class Format, int R>
void multiply_blocks(const PackedMatrix& w, int block, const Activations& x, int t, int part, int parts, const Epilogue& epilogue,
                     const std::uint8_t* next) {
  constexpr int kPasses = 2 / kPerPass, V = kPerPass;
  F gates[R];
  for (int r = 0; r < R; ++r) gates[r] = zero();
  unrolled<kPasses>([&](auto pass) {
    constexpr int kFirst = decltype(pass)::value * V;
    const int shares = kPasses * parts, share = kPasses * part + decltype(pass)::value;
    Ahead<1> ahead;  // a line, or a share of it, with each line that is read
    ahead.places[0] = next + w.block_bytes * std::size_t(share) / std::size_t(shares);
    ahead.step = (64 + shares - 1) / shares;
    F sums[R][V];
    block_tile<Format, kFirst>(w.block(block), w.k, x, t, ahead, sums);
    finish_tile<Format>(w, epilogue, block, kFirst, t, sums, gates);
  });
}

template <class Format, bool Whole, int R = Format::kTokens>
void dispatch(int tokens, const PackedMatrix& w, int block, const Activations& x, int t, int part, int parts,
              const Epilogue& epilogue, const std::uint8_t* next) {
  if constexpr (R > 0 && (Whole || R >= Format::kTokens / 2)) {  // parts of more tokens than kTokens are never smaller
    if (tokens == R) {
      if constexpr (Format::kIsBlocks)
        return multiply_blocks<Format, R>(w, block, x, t, part, parts, epilogue, next);
      else
        return multiply_tokens<Format, R, Whole>(w, block, x, t, part, parts, epilogue, next);
    }
    dispatch<Format, Whole, R - 1>(tokens, w, block, x, t, part, parts, epilogue, next);
  }
}

// Tokens are cut into nearly equal parts: 13 are 7 + 6, not 12 + 1.
template <class Format>
void multiply_format(const PackedMatrix& w, int block, const Activations& x, int tokens, const Epilogue& epilogue,
                     const std::uint8_t* next) {
  const int parts = (tokens + Format::kTokens - 1) / Format::kTokens;
  if (parts == 1) return dispatch<Format, true>(tokens, w, block, x, 0, 0, 1, epilogue, next);
  for (int part = 0, t = 0; part < parts; ++part) {  // the block stays in the nearest cache for all tokens
    const int count = (tokens - t) / (parts - part) + ((tokens - t) % (parts - part) != 0);
    dispatch<Format, false>(count, w, block, x, t, part, parts, epilogue, next);
    t += count;
  }
}

template <class... Formats>
struct Multiplies {
  static constexpr decltype(&multiply_format<Float32>) of[] = {multiply_format<Formats>...};
};

void multiply(const PackedMatrix& w, int block, const Activations& x, int tokens, const Epilogue& epilogue,
              const std::uint8_t* next) {
  OfAllFormats<Multiplies>::of[w.format->index()](w, block, x, tokens, epilogue, next);
}
