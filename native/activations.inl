// Tokens in the formats that products read; included by kernels.inl.

int activation_bytes(ActivationFormat format) {
  return format == ActivationFormat::Float32 ? 4 : format == ActivationFormat::Bfloat16 ? kBf16Item : 1;
}

// A vector of token t from `column` on; not for int8, whose scale depends on more numbers.
inline void put_activations(const Activations& out, int t, int column, F x) {
  if (out.format == ActivationFormat::Float32) {
    store(reinterpret_cast<float*>(out.token(t)) + column, x);
  } else if (kBf16Item == 2) {
    store_bf16(reinterpret_cast<std::uint16_t*>(out.token(t)) + column, x);
  } else {
    store(reinterpret_cast<float*>(out.token(t)) + column, round_bf16(x));
  }
}

// Int8 numbers of token t with a scale for each 32, and their sums, in integers, by 16.
inline void prepare_runs(const float* x, const Activations& out, int t) {
  std::int8_t* token = reinterpret_cast<std::int8_t*>(out.token(t));
  for (int part = 0; part < out.scales; ++part, x += kRunInputs, token += kRunInputs) {
    const F first = load(x), second = load(x + kLanes);
    const float faulty = sum_of(fma(first, zero(), mul(second, zero())));  // 0, or NaN where an entry is not finite
    const float top = faulty == 0 ? max_of(max(abs(first), abs(second))) : 0;
    const F inverse = set(top > kLeastScaled ? 127.0f / top : 0.0f);
    const I low = faulty == 0 ? to_int(mul(first, inverse)) : zero_int();
    const I high = faulty == 0 ? to_int(mul(second, inverse)) : zero_int();
    store_int8(token, low);
    store_int8(token + kLanes, high);
    const float low_sum = sum_of(to_float(low)), high_sum = sum_of(to_float(high));  // of few integers: exact
    const std::size_t at = std::size_t(t) * std::size_t(out.scales) + std::size_t(part);
    out.scale[at] = top / 127.0f + faulty;
    out.sum[2 * at] = std::int32_t(low_sum);
    out.sum[2 * at + 1] = std::int32_t(high_sum);
    out.scaled_sum[at] = out.scale[at] * (low_sum + high_sum);
  }
}

void prepare(const float* x, int padded, const Activations& out, int t) {
  if (out.format == ActivationFormat::Int8Runs) return prepare_runs(x, out, t);
  if (out.format != ActivationFormat::Int8) {
    for (int i = 0; i < padded; i += kLanes) put_activations(out, t, i, load(x + i));
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
    std::int8_t* token = reinterpret_cast<std::int8_t*>(out.token(t));
    F total = zero();
    for (i = begin; i < end; i += kLanes) {
      const I rounded = faulty == 0 ? to_int(mul(load(x + i), inverse)) : zero_int();
      store_int8(token + i, rounded);
      total = add(total, to_float(rounded));
    }
    out.scale[t * out.scales + part] = top / 127.0f + faulty;
    out.sum[t * out.scales + part] = -128 * std::int32_t(sum_of(total));
  }
}
