// Token by token, what follows the LM head's product; included by kernels.inl.

void transform_logits(float* x, int padded, float scale, float cap) {
  for (int i = 0; i < padded; i += kLanes) {
    const F y = mul(load(x + i), set(scale));
    store(x + i, cap > 0 ? softcap(y, cap) : y);
  }
}

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
  float values[kMaxTopK];
  const int limit = k < kMaxTopK ? k : kMaxTopK;
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
