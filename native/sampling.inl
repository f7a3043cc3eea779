// Noise and the scores it decides (docs/laws.md, L2 and L3); included by kernels.inl.

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

void gumbel(const Draw& draw, int first, int n, float* out) {
  for (int i = 0; i < n; i += kLanes) noise_of(random_words(draw, first + i), out + i);
}

// Logarithms are the larger part of noise, and few ids need them: since g <= -log(1 - u), a score s + g reaches
// `best` only where 1 - u <= exp(s - best).
float noisy_scores(const float* logits, float factor, const Draw& draw, int first, int likely, int n, float* out) {
  float best = kNever;
  const auto score = [&](int start, I words) {
    alignas(64) float noise[kLanes];
    noise_of(words, noise);
    for (int i = start; i < n && i < start + kLanes; ++i) {
      out[i] = logits[i] * factor + noise[i - start];
      best = out[i] > best ? out[i] : best;
    }
  };
  score(likely / kLanes * kLanes, random_words(draw, first + likely / kLanes * kLanes));  // a good score to begin with
  for (int start = 0; start < n; start += kLanes) {
    const I words = random_words(draw, first + start);
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
