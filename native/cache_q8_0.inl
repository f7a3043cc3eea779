// Keys and values in q8_0: int8 with a float16 scale per 32 numbers, and queries that multiply such keys; included by
// attention.inl. docs/native.md defines the rounding.

// The scale of up to 32 numbers in int8: the largest over 127; NaN where one is not finite.
inline float int8_scale(const float* x, int count) {
  const F a = load_some(x, count), b = load_some(x + kLanes, count - kLanes);
  const float faulty = sum_of(fma(a, zero(), mul(b, zero())));
  return max_of(max(abs(a), abs(b))) / 127.0f + faulty;
}

// The nearest multiples of a scale, ties to even, zeros behind them; returns their sum.
inline std::int32_t to_int8(const float* x, int count, float scale, std::int8_t* out) {
  const F inverse = set(scale > kLeastScaled ? 1.0f / scale : 0.0f);
  F total = zero();
  for (int i = 0; i < kCacheScaled; i += kLanes) {
    const F multiple = scale == scale ? mul(load_some(x + i, count - i), inverse) : zero();
    const I rounded = to_int(max(min(multiple, set(127.0f)), set(-127.0f)));
    store_int8(out + i, rounded);
    total = add(total, to_float(rounded));
  }
  return std::int32_t(sum_of(total));
}

constexpr std::uint16_t kInfiniteF16 = 0x7c00, kNoF16 = 0x7e00;  // the latter is not a number

// A key and a value in q8_0. Attention would pass over a key that is not a number, so that its value becomes none either.
void put_q8_0(const LayerStore& store_, int kv_head, int slot, const float* key, const float* value) {
  const int block = slot / kKeyBlock, lane = slot % kKeyBlock, scales = store_.scales(), width = store_.width();
  std::uint8_t* keys = store_.head_keys(kv_head) + std::size_t(block) * store_.key_block_bytes() + 4 * lane;
  std::uint8_t* values = store_.head_values(kv_head) + std::size_t(slot) * store_.value_bytes();
  std::uint16_t* key_scales = store_.key_scales(kv_head) + std::size_t(block * scales) * kKeyBlock + lane;
  std::uint16_t* value_scales = store_.value_scales(kv_head) + std::size_t(slot) * std::size_t(scales);
  alignas(64) std::int8_t whole[kCacheScaled];
  const auto round = [&](const float* x, int begin) {
    const int rest = store_.head_dim - begin, count = rest < kCacheScaled ? rest : kCacheScaled;
    const std::uint16_t scale = float_to_half(int8_scale(x + begin, count));
    to_int8(x + begin, count, half_to_float(scale), whole);
    return scale;
  };
  bool sound = true;
  for (int part = 0, group = 0; part < scales; ++part) {
    const std::uint16_t scale = round(key, part * kCacheScaled);
    sound = sound && scale < kInfiniteF16;
    key_scales[part * kKeyBlock] = scale;
    for (int i = 0; i < kCacheScaled && group < store_.groups(); i += 4, ++group)
      for (int n = 0; n < 4; ++n) keys[group * kKeyBlock * 4 + n] = std::uint8_t(whole[i + n] + 128);
  }
  for (int part = 0; part < scales; ++part) {
    const int begin = part * kCacheScaled;
    const std::uint16_t scale = round(value, begin);
    value_scales[part] = sound ? scale : kNoF16;
    __builtin_memcpy(values + begin, whole, std::size_t(width - begin < kCacheScaled ? width - begin : kCacheScaled));
  }
}

// A query of q8_0 keys: int8 numbers, then for each 32 a scale, and -128 times their sum, which undoes the 128 in the keys.
struct Int8Query {
  std::int8_t* numbers;
  float* scales;
  std::int32_t* sums;

  Int8Query(std::uint8_t* at, int dim)
      : numbers(reinterpret_cast<std::int8_t*>(at)),
        scales(reinterpret_cast<float*>(at + round_up(dim, kCacheScaled))),
        sums(reinterpret_cast<std::int32_t*>(scales + parts(dim))) {}
  static int parts(int dim) { return (dim + kCacheScaled - 1) / kCacheScaled; }
  static std::size_t bytes(int dim) { return std::size_t(parts(dim)) * (kCacheScaled + 8); }
};

void put_int8_query(const float* query, int dim, std::uint8_t* out) {
  const Int8Query whole(out, dim);
  for (int part = 0; part < Int8Query::parts(dim); ++part) {
    const int begin = part * kCacheScaled, count = dim - begin < kCacheScaled ? dim - begin : kCacheScaled;
    whole.scales[part] = int8_scale(query + begin, count);
    whole.sums[part] = -128 * to_int8(query + begin, count, whole.scales[part], whole.numbers + begin);
  }
}

// Keys in q8_0: sums of whole numbers over 32 inputs each, which are exact, then scaled and added up in order.
struct Int8Keys {
  template <int R, int V>
  static EYAS_INLINE void score(const AttendItem& item, int block, F (&sums)[R][V]) {
    constexpr int kGroups = kCacheScaled / 4;
    const LayerStore& s = *item.store;
    const int parts = s.scales(), groups = s.groups(), padded = parts * kCacheScaled;
    const std::uint8_t* keys = s.head_keys(item.kv_head) + std::size_t(block) * s.key_block_bytes();
    const Ahead<V> ahead = ahead_of<V>(item, block);
    const std::uint16_t* scales = s.key_scales(item.kv_head) + std::size_t(block * parts) * kKeyBlock;
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sums[r][v] = zero();
    for (int part = 0, g = 0; part < parts; ++part) {
      const int end = groups < g + kGroups ? groups : g + kGroups;
      I whole[R][V];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        std::int32_t sum;
        __builtin_memcpy(&sum, item.queries[r] + padded + 4 * (parts + part), 4);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) whole[r][v] = start_of_8_bits(sum);
      }
      for (; g < end; ++g) {
        decltype(load_bytes(nullptr)) bytes[V];
        ahead.fetch(g);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
          bytes[v] = of_8_bits(load_bytes(keys + std::size_t(v) * s.key_block_bytes() + std::size_t(g) * 64));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) whole[r][v] = dot_bytes(whole[r][v], bytes[v], item.queries[r] + 4 * g);
        }
      }
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const F scale = load_f16(scales + (v * parts + part) * kKeyBlock);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          float own;
          __builtin_memcpy(&own, item.queries[r] + padded + 4 * part, 4);
          sums[r][v] = fma(to_float(whole[r][v]), mul(scale, set(own)), sums[r][v]);
        }
      }
    }
  }
};

// Values as the products of int8 and scale, which a float holds exactly.
struct Int8Values {
  static_assert(kValueVectors == 1 || kValueVectors % 2 == 0, "the first of several vectors is the first of a scale");
  const std::int8_t* first;
  const std::uint16_t* scales;
  std::size_t width, num_scales;

  Int8Values(const AttendItem& item, int column)
      : first(reinterpret_cast<const std::int8_t*>(item.store->head_values(item.kv_head)) + column),
        scales(item.store->value_scales(item.kv_head) + column / kCacheScaled),
        width(std::size_t(item.store->width())),
        num_scales(std::size_t(item.store->scales())) {}
  static constexpr int kVectorsOfLine = 4;
  const std::int8_t* at(int slot, int v) const { return first + std::size_t(slot) * width + v * kLanes; }
  F vector(int slot, int v) const {
    const F scale = set_f16(scales[std::size_t(slot) * num_scales + std::size_t(v / 2)]);
    return mul(to_float(load_int8(at(slot, v))), scale);  // exact
  }
};
