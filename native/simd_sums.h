// Sums and maxima over a vector, for sets without instructions of their own for it. Included after the primitives.

inline float sum_of(F x) {
  float v[16];
  store(v, x);
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}

inline float max_of(F x) {
  float v[16];
  store(v, x);
  float best = v[0];
  for (int i = 1; i < 16; ++i) best = v[i] > best ? v[i] : best;
  return best;
}
