// Products of rows with packed matrices; included by kernels.inl.

// What a kind of matrix multiplies: sums of one vector of outputs, one group of inputs at a time.
struct F32Product {
  using Weights = F;
  static constexpr bool kScaledRows = false;
  static constexpr int kRows = kF32Rows;
  static constexpr int kItem = 4;  // bytes of a row's group
  static Weights get(const std::uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
  static F dot(F sum, const Weights& w, const std::uint8_t* x) { return fma(w, set(*reinterpret_cast<const float*>(x)), sum); }
};

struct Bf16Product {
  using Weights = Pairs;
  static constexpr bool kScaledRows = false;
  static constexpr int kRows = kBf16Rows;
  static constexpr int kItem = 2 * kBf16Item;
  static Weights get(const std::uint8_t* p) { return load_pairs(p); }
  static F dot(F sum, const Weights& w, const std::uint8_t* x) { return dot_pairs(sum, w, x); }
};

struct Int8Product {  // see tile_scaled
  static constexpr bool kScaledRows = true;
  static constexpr int kRows = kInt8Rows;
};

constexpr int kGroupBytes = kBlock * 4;  // of a block's group, in every kind

// What is fetched meanwhile, into the second cache: with each group the line at each of L places, which move on by `step` bytes.
template <int L>
struct Ahead {
  const std::uint8_t* places[L > 0 ? L : 1];
  int step;

  void fetch(int g) const {
    for (int l = 0; l < L; ++l) __builtin_prefetch(places[l] + std::size_t(g) * std::size_t(step), 0, 2);
  }
};

// Sums of R rows times V vectors of outputs: vector v starts at w[v] and has a group every `stride` bytes.
template <class P, int R, int V, int L>
inline void tile(const std::uint8_t* const* w, int stride, int groups, const std::uint8_t* const* x, const Ahead<L>& ahead,
                 F (&sums)[R][V]) {
  F own[R][V];  // every index is known when compiling, so these are registers
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) own[r][v] = zero();
  for (int g = 0; g < groups; ++g) {
    typename P::Weights weights[V];
    ahead.fetch(g);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) weights[v] = P::get(w[v] + std::size_t(g) * std::size_t(stride));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) own[r][v] = P::dot(own[r][v], weights[v], x[r] + g * P::kItem);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[r][v] = own[r][v];
}

// The same for int8: sums of integers over 64 inputs each, then scaled and added up in order. The integers take the
// registers, so the sums in floats stay in memory.
template <int R, int V, int L>
inline void tile_scaled(const std::uint8_t* const* w, int groups, const Operand& x, int t, const Ahead<L>& ahead,
                        F (&sums)[R][V]) {
  constexpr int kGroups = kScaled / 4;
  const std::uint8_t* rows[R];
  for (int r = 0; r < R; ++r) {
    rows[r] = x.row(t + r);
    for (int v = 0; v < V; ++v) sums[r][v] = zero();
  }
  for (int part = 0, g = 0; part < x.scales; ++part) {
    const int end = groups < g + kGroups ? groups : g + kGroups;
    I whole[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) whole[r][v] = set_int(x.sum[(t + r) * x.scales + part]);
    for (; g < end; ++g) {
      decltype(load_bytes(nullptr)) weights[V];
      ahead.fetch(g);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) weights[v] = load_bytes(w[v] + std::size_t(g) * kGroupBytes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) whole[r][v] = dot_bytes(whole[r][v], weights[v], rows[r] + g * 4);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = fma(to_float(whole[r][v]), set(x.scale[(t + r) * x.scales + part]), sums[r][v]);
    asm volatile("" : "+m"(sums));
  }
}

inline void put_operand(const Operand& out, int t, int column, F x) {
  if (out.kind == Kind::F32) {
    store(reinterpret_cast<float*>(out.row(t)) + column, x);
  } else if (kBf16Item == 2) {
    store_bf16(reinterpret_cast<std::uint16_t*>(out.row(t)) + column, x);
  } else {
    store(reinterpret_cast<float*>(out.row(t)) + column, round_bf16(x));
  }
}

// One vector of 16 results, at `column` of the matrix; `gate` is the vector before it, if the finish wants pairs.
inline void finish_vector(const Packed& w, const Target& target, int t, int column, F y) {
  if (w.bias) y = add(y, load(w.bias + column));
  float* out = target.y + std::size_t(t) * target.stride + column;
  store(out, target.finish == Finish::Add ? add(load(out), y) : y);
}

inline void finish_gated(const Packed& w, const Target& target, int t, int column, F gate, F up) {
  if (w.bias) {
    gate = add(gate, load(w.bias + column));
    up = add(up, load(w.bias + column + kLanes));
  }
  const F y = mul(silu(gate), up);
  if (target.finish == Finish::Gated) {
    store(target.y + std::size_t(t) * target.stride + column / 2, y);
  } else {
    put_operand(target.operand, t, column / 2, y);
  }
}

// R rows from `t` on, one block. While they are computed, as much is fetched at `next`: by all parts together if the rows
// come in several, of which this is number `part`.
template <class P, int R, bool Whole>
void rows_times_block(const Packed& w, int block, const Operand& x, int t, int part, int parts, const Target& target,
                      const std::uint8_t* next) {
  constexpr int kPasses = 2 / kPerPass, V = kPerPass;
  const int groups = w.padded_k() / w.group();
  [[maybe_unused]] const std::uint8_t* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = x.row(t + r);
  const bool gated = target.finish == Finish::Gated || target.finish == Finish::GatedOperand;
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
      ahead.places[0] = next + w.block_bytes() * std::size_t(share) / std::size_t(shares);
      ahead.step = (kGroupBytes + shares - 1) / shares;
    }
    F sums[R][V];
    if constexpr (P::kScaledRows) {
      tile_scaled<R, V>(vectors, groups, x, t, ahead, sums);
    } else {
      tile<P, R, V>(vectors, kGroupBytes, groups, rows, ahead, sums);
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) {
        const int half = pass * V + v, column = block * kBlock + half * kLanes;
        const F y = P::kScaledRows ? mul(sums[r][v], load(w.scale + column)) : sums[r][v];
        if (!gated) {
          finish_vector(w, target, t + r, column, y);
        } else if (half == 0) {
          gates[r] = y;
        } else {
          finish_gated(w, target, t + r, column - kLanes, gates[r], y);
        }
      }
    }
  }
}

template <class P, bool Whole, int R = P::kRows>
void dispatch(int rows, const Packed& w, int block, const Operand& x, int t, int part, int parts, const Target& target,
              const std::uint8_t* next) {
  if constexpr (R > 0 && (Whole || R >= P::kRows / 2)) {  // parts of more rows than kRows are never smaller
    if (rows == R) return rows_times_block<P, R, Whole>(w, block, x, t, part, parts, target, next);
    dispatch<P, Whole, R - 1>(rows, w, block, x, t, part, parts, target, next);
  }
}

// Rows are cut into nearly equal parts: 13 rows are 7 + 6, not 12 + 1.
template <class P>
void multiply_kind(const Packed& w, int block, const Operand& x, int rows, const Target& target, const std::uint8_t* next) {
  const int parts = (rows + P::kRows - 1) / P::kRows;
  if (parts == 1) return dispatch<P, true>(rows, w, block, x, 0, 0, 1, target, next);
  for (int part = 0, t = 0; part < parts; ++part) {  // the block stays in the nearest cache for all rows
    const int count = (rows - t) / (parts - part) + ((rows - t) % (parts - part) != 0);
    dispatch<P, false>(count, w, block, x, t, part, parts, target, next);
    t += count;
  }
}

void multiply(const Packed& w, int block, const Operand& x, int rows, const Target& target, const std::uint8_t* next) {
  switch (w.kind) {
    case Kind::F32: return multiply_kind<F32Product>(w, block, x, rows, target, next);
    case Kind::BF16: return multiply_kind<Bf16Product>(w, block, x, rows, target, next);
    case Kind::I8: return multiply_kind<Int8Product>(w, block, x, rows, target, next);
  }
}
