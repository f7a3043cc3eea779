// Kernels over the vector primitives of one instruction set; included into its namespace.

// ---- elementary functions: vector body only, so that no element meets other code at a row's end ----

// Relative error below 2e-7 on [-87, 88]; beyond, the argument is cut.
inline F exponential(F x) {
  x = min(max(x, set(-87.0f)), set(88.0f));
  const I n = to_int(mul(x, set(1.44269504f)));
  const F k = to_float(n);
  F r = fma(k, set(-0.693359375f), x);
  r = fma(k, set(2.12194440e-4f), r);
  F p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  return mul(add(fma(p, mul(r, r), r), set(1.0f)), pow2(n));
}

inline F silu(F x) { return div(x, add(set(1.0f), exponential(sub(zero(), x)))); }

// ---- products ----

// What a kind of matrix multiplies: sums of one vector of outputs, one group of inputs at a time.
struct F32Product {
  using Weights = F;
  static constexpr bool kScaledRows = false;
  static constexpr int kRows = kF32Rows;
  static constexpr int kItem = 4;  // bytes of a row's group
  static Weights get(const std::uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
  static F dot(F sum, const Weights& w, const std::uint8_t* x) {
    return fma(w, set(*reinterpret_cast<const float*>(x)), sum);
  }
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

// What is fetched meanwhile, into the second cache: with each group one line from each of L places on.
template <int L>
struct Ahead {
  const std::uint8_t* places[L > 0 ? L : 1];
  int step;

  void fetch(int g) const {
    for (int l = 0; l < L; ++l) __builtin_prefetch(places[l] + std::size_t(g) * std::size_t(step), 0, 2);
  }
};

// Sums of R rows times V vectors of outputs: vector v starts at w[v] and has a group every `step` bytes.
template <class P, int R, int V, int L>
inline void tile(const std::uint8_t* const* w, int step, int groups, const std::uint8_t* const* x, const Ahead<L>& ahead,
                 F (&sums)[R][V]) {
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = zero();
  for (int g = 0; g < groups; ++g) {
    typename P::Weights weights[V];
    ahead.fetch(g);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) weights[v] = P::get(w[v] + std::size_t(g) * std::size_t(step));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = P::dot(sums[r][v], weights[v], x[r] + g * P::kItem);
    }
  }
}

// The same for int8: sums of integers over 64 inputs each, then scaled and added up in order. The integers take the
// registers, so the sums in floats stay in memory.
template <int R, int V, int L>
inline void tile_scaled(const std::uint8_t* const* w, int groups, const Operand& x, int t, const Ahead<L>& ahead, F (&sums)[R][V]) {
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
      for (int v = 0; v < V; ++v)
        sums[r][v] = fma(to_float(whole[r][v]), set(x.scale[(t + r) * x.scales + part]), sums[r][v]);
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

// R rows from `t` on, B blocks from `block` on. While they are computed, the blocks behind them are fetched: by `parts`
// calls together if the rows come in several parts, of which this is number `part`.
template <class P, int R, int B, bool Whole>
void rows_times_blocks(const Packed& w, int block, const Operand& x, int t, int part, const Target& target) {
  constexpr int kPasses = 2 / kPerPass, V = B * kPerPass;
  const int groups = w.padded_k() / w.group();
  [[maybe_unused]] const std::uint8_t* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = x.row(t + r);
  const bool gated = target.finish == Finish::Gated || target.finish == Finish::GatedOperand;
  const std::uint8_t* first = w.data + std::size_t(block) * w.block_bytes();
  F gates[R];
  for (int r = 0; r < R; ++r) gates[r] = zero();
  for (int pass = 0; pass < kPasses; ++pass) {
    const std::uint8_t* vectors[V];
    for (int v = 0; v < V; ++v)
      vectors[v] = first + std::size_t(v / kPerPass) * w.block_bytes() + (pass * kPerPass + v % kPerPass) * 64;
    Ahead<Whole ? V : 1> ahead;
    if constexpr (Whole) {
      for (int v = 0; v < V; ++v) ahead.places[v] = vectors[v] + B * w.block_bytes();
      ahead.step = kGroupBytes;
    } else {  // half a block of lines by each of the first two parts
      ahead.places[0] = first + (part < 2 ? w.block_bytes() * (2 + std::size_t(part)) / 2 : 0);
      ahead.step = 64;
    }
    F sums[R][V];
    if constexpr (P::kScaledRows) {
      tile_scaled<R, V>(vectors, groups, x, t, ahead, sums);
    } else {
      tile<P, R, V>(vectors, kGroupBytes, groups, rows, ahead, sums);
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) {
        const int half = pass * kPerPass + v % kPerPass;
        const int column = (block + v / kPerPass) * kBlock + half * kLanes;
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

// Two blocks at a time for few rows: more sums in flight hide the latency of each.
constexpr bool wide(int rows) { return rows <= kMaxRows / 4; }

template <class P, int R>
void few_rows(const Packed& w, int begin, int end, const Operand& x, const Target& target) {
  int block = begin;
  if constexpr (wide(R) && kPerPass == 2) {
    for (; block + 2 <= end; block += 2) rows_times_blocks<P, R, 2, true>(w, block, x, 0, 0, target);
  }
  for (; block < end; ++block) rows_times_blocks<P, R, 1, true>(w, block, x, 0, 0, target);
}

template <class P, int R = P::kRows>
void dispatch_few(int rows, const Packed& w, int begin, int end, const Operand& x, const Target& target) {
  if constexpr (R > 0) {
    if (rows == R) return few_rows<P, R>(w, begin, end, x, target);
    dispatch_few<P, R - 1>(rows, w, begin, end, x, target);
  }
}

template <class P, int R = P::kRows>
void dispatch_part(int rows, const Packed& w, int block, const Operand& x, int t, int part, const Target& target) {
  if constexpr (R > 0 && R >= P::kRows / 2) {  // parts of more rows than kRows are never smaller
    if (rows == R) return rows_times_blocks<P, R, 1, false>(w, block, x, t, part, target);
    dispatch_part<P, R - 1>(rows, w, block, x, t, part, target);
  }
}

// Rows are cut into nearly equal parts: 13 rows are 7 + 6, not 12 + 1.
template <class P>
void multiply_kind(const Packed& w, int begin, int end, const Operand& x, int rows, const Target& target) {
  const int parts = (rows + P::kRows - 1) / P::kRows;
  if (parts == 1) return dispatch_few<P>(rows, w, begin, end, x, target);
  for (int block = begin; block < end; ++block) {  // a block stays in the nearest cache for all rows
    for (int part = 0, t = 0; part < parts; ++part) {
      const int count = (rows - t) / (parts - part) + ((rows - t) % (parts - part) != 0);
      dispatch_part<P>(count, w, block, x, t, part, target);
      t += count;
    }
  }
}

void multiply(const Packed& w, int begin, int end, const Operand& x, int rows, const Target& target) {
  switch (w.kind) {
    case Kind::F32: return multiply_kind<F32Product>(w, begin, end, x, rows, target);
    case Kind::BF16: return multiply_kind<Bf16Product>(w, begin, end, x, rows, target);
    case Kind::I8: return multiply_kind<Int8Product>(w, begin, end, x, rows, target);
  }
}

// ---- rows ----

int operand_bytes(Kind kind) { return kind == Kind::F32 ? 4 : kind == Kind::BF16 ? kBf16Item : 1; }

void norm(const float* x, const float* weight, float eps, int n, float* y) {
  const int padded = round_up(n, kBlock);
  F squares = zero();
  for (int i = 0; i < padded; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  const F factor = set(1.0f / std::sqrt(sum_of(squares) / float(n) + eps));
  for (int i = 0; i < padded; i += kLanes) store(y + i, mul(mul(load(x + i), factor), load(weight + i)));
}

void prepare(const float* x, int padded, const Operand& out, int t) {
  if (out.kind != Kind::I8) {
    for (int i = 0; i < padded; i += kLanes) put_operand(out, t, i, load(x + i));
    return;
  }
  for (int part = 0, i = 0; part < out.scales; ++part) {
    const int begin = i, end = padded < i + kScaled ? padded : i + kScaled;
    F largest = zero(), sound = zero();
    for (; i < end; i += kLanes) {
      largest = max(largest, abs(load(x + i)));
      sound = fma(load(x + i), zero(), sound);
    }
    const float faulty = sum_of(sound);  // 0, or NaN where an entry is not finite: that must not get lost
    const float top = faulty == 0 ? max_of(largest) : 0;
    const F inverse = set(top > kLeastScaled ? 127.0f / top : 0.0f);
    std::int8_t* row = reinterpret_cast<std::int8_t*>(out.row(t));
    F total = zero();
    for (i = begin; i < end; i += kLanes) {
      const I rounded = faulty == 0 ? to_int(mul(load(x + i), inverse)) : zero_int();
      store_int8(row + i, rounded);
      total = add(total, to_float(rounded));
    }
    out.scale[t * out.scales + part] = top / 127.0f + faulty;
    out.sum[t * out.scales + part] = -128 * std::int32_t(sum_of(total));
  }
}

void rotate(float* head, int dim, const float* cos, const float* sin) {
  const int half = dim / 2;
  for (int i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half] = b * cos[i] + a * sin[i];
  }
}

// ---- the rest of the LM head ----

float log_sum_exp(const float* x, int n) {
  alignas(64) float last[kLanes];
  const int whole = n / kLanes * kLanes;
  for (int i = 0; i < kLanes; ++i) last[i] = whole + i < n ? x[whole + i] : kNever;
  F best = load(last), sound = zero();
  for (int i = 0; i < whole; i += kLanes) {
    best = max(best, load(x + i));
    sound = fma(load(x + i), zero(), sound);  // NaN where an entry is not finite
  }
  for (int i = whole; i < n; ++i) sound = fma(set(x[i]), zero(), sound);
  const float top = max_of(best);
  F sum = zero();
  for (int i = 0; i < whole; i += kLanes) sum = add(sum, exponential(sub(load(x + i), set(top))));
  if (whole < n) {
    alignas(64) float rest[kLanes];
    store(rest, exponential(sub(load(last), set(top))));
    for (int i = n - whole; i < kLanes; ++i) rest[i] = 0;
    sum = add(sum, load(rest));
  }
  return top + std::log(sum_of(sum)) + sum_of(sound);
}

int argmax(const float* x, int n) {
  const int whole = n / kLanes * kLanes;
  F best = set(kNever), sum = zero();
  for (int i = 0; i < whole; i += kLanes) {
    best = max(best, load(x + i));
    sum = add(sum, load(x + i));
  }
  float top = max_of(best), total = sum_of(sum);
  for (int i = whole; i < n; ++i) {
    top = x[i] > top ? x[i] : top;
    total += x[i];
  }
  if (total != total) return -1;
  for (int i = 0; i < n; ++i)
    if (x[i] == top) return i;
  return -1;
}

// A sorted list of the best so far; most vectors hold nothing better than its last.
void top_k(const float* x, int n, int k, int* indices) {
  int count = 0;
  float values[kMostBest];
  const int limit = k < kMostBest ? k : kMostBest;
  const auto offer = [&](int i) {
    if (count == limit && !(x[i] > values[count - 1])) return;
    int at = count < limit ? count++ : count - 1;
    for (; at > 0 && x[i] > values[at - 1]; --at) {
      values[at] = values[at - 1];
      indices[at] = indices[at - 1];
    }
    values[at] = x[i];
    indices[at] = i;
  };
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if (count == limit && !any_greater(load(x + i), set(values[count - 1]))) continue;
    for (int lane = 0; lane < kLanes; ++lane) offer(i + lane);
  }
  for (; i < n; ++i) offer(i);
}

// ---- sampling ----

// Natural logarithm of positive normal numbers; relative error below 1e-6 away from 1, absolute near it.
inline float logarithm(float x) {
  std::int32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const std::int32_t exponent = (bits - 0x3f3504f3) >> 23;  // so that the mantissa lies in [sqrt(1/2), sqrt(2))
  bits -= exponent * (1 << 23);
  float m;
  __builtin_memcpy(&m, &bits, 4);
  const float s = (m - 1) / (m + 1), z = s * s;
  const float series = 2 * s * (1 + z * (0.333333333f + z * (0.2f + z * (0.142857143f + z * 0.111111111f))));
  return float(exponent) * 0.693147181f + series;
}

// Philox4x32-10: the random words of ids start, start + 1, ...
inline I random_words(const Draw& draw, int start) {
  I c0 = set_int(std::int32_t(draw.position)), c1 = iota(start), c2 = zero_int(), c3 = zero_int();
  std::uint32_t k0 = draw.seed, k1 = draw.choice;
  for (int round = 0; round < 10; ++round) {
    I upper0, lower0, upper1, lower1;
    wide_product(c0, 0xD2511F53u, upper0, lower0);
    wide_product(c2, 0xCD9E8D57u, upper1, lower1);
    c0 = exclusive_or(exclusive_or(upper1, c1), set_int(std::int32_t(k0)));
    c1 = lower1;
    c2 = exclusive_or(exclusive_or(upper0, c3), set_int(std::int32_t(k1)));
    c3 = lower0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// -log(-log u) of random words; element by element, for the compiler to vectorise.
inline void noise_of(I random, float* out) {
  alignas(64) std::int32_t words[kLanes];
  store_int(words, random);
  for (int i = 0; i < kLanes; ++i) {
    // -log(u): near u = 1 from 1 - u, which a float of u could not hold.
    const float low = (float(words[i] & 0x7fffffff) + 0.5f) * 2.3283064e-10f;    // u below 1/2
    const float rest = (float(~words[i] & 0x7fffffff) + 0.5f) * 2.3283064e-10f;  // 1 - u above
    const float w = 1 - rest;
    const float above = w == 1 ? rest : logarithm(w) * rest / (w - 1);  // -log(1 - rest)
    const float below = -logarithm(low);
    out[i] = -logarithm(words[i] < 0 ? above : below);
  }
}

void gumbel(const Draw& draw, int n, float* out) {
  for (int start = 0; start < n; start += kLanes) noise_of(random_words(draw, start), out + start);
}

// Logarithms are the larger part of noise, and few ids need them: since g <= -log(1 - u), a score s + g reaches
// `best` only where 1 - u <= exp(s - best).
float noisy_scores(const float* logits, float factor, const Draw& draw, int likely, int n, float* out) {
  float best = kNever;
  const auto score = [&](int start, I words) {
    alignas(64) float noise[kLanes];
    noise_of(words, noise);
    for (int i = start; i < n && i < start + kLanes; ++i) {
      out[i] = logits[i] * factor + noise[i - start];
      best = out[i] > best ? out[i] : best;
    }
  };
  score(likely / kLanes * kLanes, random_words(draw, likely / kLanes * kLanes));  // a good score to begin with
  for (int start = 0; start < n; start += kLanes) {
    const I words = random_words(draw, start);
    if (start + kLanes <= n) {
      const F able = exponential(sub(mul(load(logits + start), set(factor)), set(best - 2 * noise_error(best))));
      // 1 - u; what rounding takes from a small one is below 1e-7.
      const F rest = fma(to_float(exclusive_or(words, set_int(INT32_MIN))), set(-2.3283064e-10f), set(0.5f));
      if (!any_greater(fma(able, set(1.001f), set(1e-7f)), rest)) {
        store(out + start, set(kNever));
        continue;
      }
    }
    score(start, words);
  }
  return best;
}

float add_noise(const float* logits, float factor, const float* noise, int n, float* out) {
  const int whole = n / kLanes * kLanes;
  F best = set(kNever);
  for (int i = 0; i < whole; i += kLanes) {
    const F score = fma(load(logits + i), set(factor), load(noise + i));
    store(out + i, score);
    best = max(best, score);
  }
  float top = max_of(best);
  for (int i = whole; i < n; ++i) {
    out[i] = logits[i] * factor + noise[i];
    top = out[i] > top ? out[i] : top;
  }
  return top;
}

int next_at_least(const float* x, int begin, int n, float edge) {
  const F below = set(edge - 1e-5f * (edge < 0 ? -edge : edge) - 1e-30f);
  int i = begin;
  for (; i < n && i % kLanes; ++i)
    if (x[i] >= edge) return i;
  for (; i + kLanes <= n; i += kLanes) {
    if (!any_greater(load(x + i), below)) continue;
    for (int lane = 0; lane < kLanes; ++lane)
      if (x[i + lane] >= edge) return i + lane;
  }
  for (; i < n; ++i)
    if (x[i] >= edge) return i;
  return n;
}

float sum_exp(const float* x, int n, float top, float factor) {
  F sum = zero();
  for (int i = 0; i < n; i += kLanes) sum = add(sum, exponential(mul(sub(load(x + i), set(top)), set(factor))));
  return sum_of(sum);
}

std::uint64_t read(const std::uint8_t* data, std::size_t bytes) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i + 64 <= bytes; i += 64) sum += read_line(data + i);
  return sum;
}

#include "attention.inl"

constexpr Kernels make(const char* name) {
  return {name,    kMaxRows, operand_bytes, norm,        prepare, multiply, rotate, put,
          put_query, attend,   log_sum_exp,   argmax,      top_k,   gumbel,  add_noise, noisy_scores, next_at_least, sum_exp, read};
}
