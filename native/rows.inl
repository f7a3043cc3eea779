// What is computed row by row: norms, operands, rotation, and what follows the LM head's product; included by kernels.inl.

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
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {  // products and differences are rounded alike with and without vectors
    const F a = load(head + i), b = load(head + i + half), c = load(cos + i), s = load(sin + i);
    store(head + i, sub(mul(a, c), mul(b, s)));
    store(head + i + half, add(mul(b, c), mul(a, s)));
  }
  for (; i < half; ++i) {
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
