// What is computed for each token by itself: norms, the residual sum, the rotary embedding; included by kernels.inl.

void norm(const float* x, const float* weight, float eps, int n, float* y) {
  const int padded = round_up(n, kBlock);
  F squares = zero();
  for (int i = 0; i < padded; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  const F factor = set(1.0f / std::sqrt(sum_of(squares) / float(n) + eps));
  for (int i = 0; i < padded; i += kLanes) store(y + i, mul(mul(load(x + i), factor), load(weight + i)));
}

void add_scaled(const float* y, float factor, int padded, float* x) {
  for (int i = 0; i < padded; i += kLanes) store(x + i, add(load(x + i), mul(load(y + i), set(factor))));
}

// Blocks of 16 gate and 16 up values become f(gate) * up, in place at the front.
void gate(ActivationFunction function, float* x, int blocks) {
  for (int block = 0; block < blocks; ++block) {
    const F value = load(x + block * kBlock), up = load(x + block * kBlock + kLanes);
    const F y = function == ActivationFunction::Silu   ? silu(value)
                : function == ActivationFunction::Gelu ? gelu(value)
                                                       : gelu_tanh(value);
    store(x + block * kLanes, mul(y, up));
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
