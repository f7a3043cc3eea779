// Attention of a few queries over one kv head, along each query's own path (docs/laws.md, L6); included by kernels.inl.
//
// The scores of a query are brought into position order first. Then its softmax runs in 16 lanes counted from its first
// position, and its values are added one position after the other: scattered slots of a tree give the same sums as
// contiguous ones.

// `count` entries, zeros behind them.
inline F load_some(const float* p, int count) {
  if (count >= kLanes) return load(p);
  alignas(64) float lanes[kLanes] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}

// Keys and values of a long context come from memory, which has to be asked for them this far ahead.
constexpr int kBlocksAhead = 4;  // of keys
constexpr int kSlotsAhead = 48;  // of values

// What to fetch while V blocks of keys from `block` on are read: later blocks, and behind the last one the values.
template <int V>
inline Ahead<V> ahead_of(const AttendItem& item, int block) {
  const LayerStore& s = *item.store;
  const int end = (item.slots + kKeyBlock - 1) / kKeyBlock;
  Ahead<V> ahead;
  for (int v = 0; v < V; ++v) {
    const int next = block + v + kBlocksAhead;
    const std::uint8_t* base = next < end ? s.head_keys(item.kv_head) : s.head_values(item.kv_head);
    ahead.places[v] = base + std::size_t(next < end ? next : next - end) * s.key_block_bytes();
  }
  ahead.step = 64;
  return ahead;
}

#include "cache_q8_0.inl"

inline void put_value(F x, float* p) { store(p, x); }
inline void put_value(F x, std::uint16_t* p) { store_bf16(p, x); }

template <class T>
void put_values(const float* value, int dim, T* out) {
  for (int d = 0; d < dim; d += kLanes) put_value(load_some(value + d, dim - d), out + d);
}

void put(const LayerStore& store_, int kv_head, int slot, const float* key, const float* value) {
  if (store_.type == CacheType::Q8_0) return put_q8_0(store_, kv_head, slot, key, value);
  const int dim = store_.head_dim, lane = slot % kKeyBlock;
  std::uint8_t* keys = store_.head_keys(kv_head) + std::size_t(slot / kKeyBlock) * store_.key_block_bytes();
  std::uint8_t* values = store_.head_values(kv_head) + std::size_t(slot) * store_.value_bytes();
  if (store_.type == CacheType::Float32) {
    float* out = reinterpret_cast<float*>(keys);
    for (int d = 0; d < dim; ++d) out[d * kKeyBlock + lane] = key[d];
    put_values(value, dim, reinterpret_cast<float*>(values));
  } else {
    std::uint16_t rounded[kMaxHeadDim], *out = reinterpret_cast<std::uint16_t*>(keys);
    put_values(key, dim, rounded);
    for (int d = 0; d < dim; d += 2) __builtin_memcpy(out + d * kKeyBlock + 2 * lane, rounded + d, 4);
    put_values(value, dim, reinterpret_cast<std::uint16_t*>(values));
  }
}

std::size_t query_bytes(CacheType type, int dim) {
  if (type == CacheType::Q8_0) return Int8Query::bytes(dim);
  const int item = activation_bytes(type == CacheType::Bfloat16 ? ActivationFormat::Bfloat16 : ActivationFormat::Float32);
  return std::size_t(round_up(dim, kLanes)) * std::size_t(item);
}

void put_query(CacheType type, const float* query, int dim, std::uint8_t* out) {
  if (type == CacheType::Q8_0) return put_int8_query(query, dim, out);
  Activations one;
  one.format = type == CacheType::Bfloat16 ? ActivationFormat::Bfloat16 : ActivationFormat::Float32;
  one.data = out;
  for (int d = 0; d < dim; d += kLanes) {
    const F x = load_some(query + d, dim - d);
    put_activations(one, 0, d, type == CacheType::FusedBfloat16 ? round_bf16(x) : x);
  }
}

// bfloat16 keys times queries of such numbers in floats: each product joins the sum with one rounding.
struct FusedPairs {
  static constexpr int kActivationBytes = 8;  // of two numbers
  using Weights = FloatPairs;
  static Weights load_weights(const std::uint8_t* p) { return load_float_pairs(p); }
  static F dot(F sum, const Weights& w, const std::uint8_t* x) {
    const float* pair = reinterpret_cast<const float*>(x);
    return fma(w.second, set(pair[1]), fma(w.first, set(pair[0]), sum));
  }
};

// Keys that lie as the weights of a float format do, times R queries: V blocks from `block` on.
template <class Format>
struct FloatKeys {
  template <int R, int V>
  static EYAS_INLINE void score(const AttendItem& item, int block, F (&sums)[R][V]) {
    const LayerStore& s = *item.store;
    const std::uint8_t* vectors[V];
    for (int v = 0; v < V; ++v) vectors[v] = s.head_keys(item.kv_head) + std::size_t(block + v) * s.key_block_bytes();
    strided_tile<Format, R, V>(vectors, 64, s.groups(), item.queries, ahead_of<V>(item, block), sums);
  }
};

template <class Keys, int R, int V>
void score_blocks(const AttendItem& item, int block) {
  F sums[R][V];
  Keys::score(item, block, sums);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(item.scores + std::size_t(r) * item.score_stride + (block + v) * kKeyBlock, sums[r][v]);
}

// Queries times the keys of blocks begin..end.
template <class Keys, int R = kMaxTokens>
void score_queries(const AttendItem& item, int count, int begin, int end) {
  if constexpr (R > 0) {
    if (count != R) return score_queries<Keys, R - 1>(item, count, begin, end);
    int block = begin;
    if constexpr (R <= kMaxTokens / 4) {  // more sums in flight hide the latency of each
      for (; block + 4 <= end; block += 4) score_blocks<Keys, R, 4>(item, block);
    }
    for (; block < end; ++block) score_blocks<Keys, R, 1>(item, block);
  }
}

// Scores to unnormalised probabilities in position order; returns one over their sum.
float softmax(const AttendItem& item, int query) {
  const View& view = *item.views[query];
  float* scores = item.scores + std::size_t(query) * item.score_stride;
  for (int i = 0; i < view.num_rest; ++i) scores[view.contiguous + i] = scores[view.rest[i]];
  const int end = view.contiguous + view.num_rest;
  if (item.softcap > 0)
    for (int i = view.first; i < end; i += kLanes)
      store(scores + i, softcap(mul(load(scores + i), set(item.scale)), item.softcap));
  store(scores + end, set(kNever));  // the last vector's tail; there is room for it
  F best = set(kNever);
  for (int i = view.first; i < end; i += kLanes) best = max(best, load(scores + i));
  const float highest = max_of(best);
  const F top = set(highest), scale = set(item.softcap > 0 ? 1.0f : item.scale);
  F sum = zero();
  for (int i = view.first; i < end; i += kLanes) {
    F p = exponential(mul(sub(load(scores + i), top), scale));  // at most 1, however large the scores
    if (i + kLanes > end) {                                     // the tail counts nothing
      alignas(64) float lanes[kLanes];
      store(lanes, p);
      for (int lane = end - i; lane < kLanes; ++lane) lanes[lane] = 0;
      p = load(lanes);
    }
    store(scores + i, p);
    sum = add(sum, p);
  }
  // A score beyond float's range has no weight that is a number, and neither have the others.
  return std::isfinite(highest) ? 1.0f / sum_of(sum) : std::numeric_limits<float>::quiet_NaN();
}

inline F value_vector(const float* p) { return load(p); }
inline F value_vector(const std::uint16_t* p) { return load_bf16(p); }

// The vectors of a kv head's values from a column on.
template <class T>
struct FloatValues {
  const T* first;
  std::size_t width;

  FloatValues(const AttendItem& item, int column)
      : first(reinterpret_cast<const T*>(item.store->head_values(item.kv_head)) + column),
        width(std::size_t(item.store->width())) {}
  static constexpr int kVectorsOfLine = 4 / int(sizeof(T));
  const T* at(int slot, int v) const { return first + std::size_t(slot) * width + v * kLanes; }
  F vector(int slot, int v) const { return value_vector(at(slot, v)); }
};

// Adds the values at positions begin..end, in slots of the same numbers, to V vectors of R queries.
template <class Values, int R, int V>
inline void add_values(const Values& values, const float* const* probs, int begin, int end, F (&sums)[R][V]) {
  for (int j = begin; j < end; ++j) {
    F value[V];
    const int next = j + kSlotsAhead < end ? j + kSlotsAhead : end - 1;
#pragma GCC unroll 4
    for (int v = 0; v < V; v += Values::kVectorsOfLine) __builtin_prefetch(values.at(next, v), 0, 2);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) value[v] = values.vector(j, v);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const F p = set(probs[r][j]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = fma(p, value[v], sums[r][v]);
    }
  }
}

template <class Values, int R, int V>
void multiply_value_columns(const AttendItem& item, int query, int column, const float* inverse) {
  const Values values(item, column);
  const float* probs[R];
  int low = 0, high = 1 << 30;
  for (int r = 0; r < R; ++r) {
    const View& view = *item.views[query + r];
    probs[r] = item.scores + std::size_t(query + r) * item.score_stride;
    low = view.first > low ? view.first : low;
    high = view.contiguous < high ? view.contiguous : high;
  }
  if (high < low) high = low;
  F sums[R][V];
  for (int r = 0; r < R; ++r) {
    const View& view = *item.views[query + r];
    F own[1][V];
    for (int v = 0; v < V; ++v) own[0][v] = zero();
    add_values<Values, 1, V>(values, probs + r, view.first, low < view.contiguous ? low : view.contiguous, own);
    for (int v = 0; v < V; ++v) sums[r][v] = own[0][v];
  }
  add_values<Values, R, V>(values, probs, low, high, sums);
  for (int r = 0; r < R; ++r) {
    const View& view = *item.views[query + r];
    F own[1][V];
    for (int v = 0; v < V; ++v) own[0][v] = sums[r][v];
    add_values<Values, 1, V>(values, probs + r, high, view.contiguous, own);
    for (int i = 0; i < view.num_rest; ++i) {
      const F p = set(probs[r][view.contiguous + i]);
      for (int v = 0; v < V; ++v) own[0][v] = fma(p, values.vector(view.rest[i], v), own[0][v]);
    }
    for (int v = 0; v < V; ++v) store(item.outputs[query + r] + column + v * kLanes, mul(own[0][v], set(inverse[r])));
  }
}

template <class Values, int V, int R = kValueTokens>
void multiply_some_values(const AttendItem& item, int query, int count, int column, const float* inverse) {
  if constexpr (R > 0) {
    if (count == R) return multiply_value_columns<Values, R, V>(item, query, column, inverse);
    multiply_some_values<Values, V, R - 1>(item, query, count, column, inverse);
  }
}

// The PV product: probabilities times values.
template <class Values>
void multiply_values(const AttendItem& item, const float* inverse) {
  const int width = item.store->width();
  for (int query = 0; query < item.count; query += kValueTokens) {
    const int count = item.count - query < kValueTokens ? item.count - query : kValueTokens;
    int column = 0;
    for (; column + kValueVectors * kLanes <= width; column += kValueVectors * kLanes)
      multiply_some_values<Values, kValueVectors>(item, query, count, column, inverse + query);
    for (; column < width; column += kLanes) multiply_some_values<Values, 1>(item, query, count, column, inverse + query);
  }
}

template <class Keys, class Values>
void attend_to(const AttendItem& item) {
  int first = item.slots;
  for (int r = 0; r < item.count; ++r) first = item.views[r]->first < first ? item.views[r]->first : first;
  const int begin = first / kKeyBlock, end = (item.slots + kKeyBlock - 1) / kKeyBlock;
  score_queries<Keys>(item, item.count, begin, end);
  float inverse[kMaxTokens];
  for (int r = 0; r < item.count; ++r) inverse[r] = softmax(item, r);
  multiply_values<Values>(item, inverse);
}

void attend(const AttendItem& item) {
  switch (item.store->type) {
    case CacheType::Float32: return attend_to<FloatKeys<Float32>, FloatValues<float>>(item);
    case CacheType::Bfloat16: return attend_to<FloatKeys<Bfloat16>, FloatValues<std::uint16_t>>(item);
    case CacheType::FusedBfloat16: return attend_to<FloatKeys<FusedPairs>, FloatValues<std::uint16_t>>(item);
    case CacheType::Q8_0: return attend_to<Int8Keys, Int8Values>(item);
  }
}
