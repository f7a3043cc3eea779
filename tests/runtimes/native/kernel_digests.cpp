// What the kernels of one instruction set compute, from numbers that are the
// same on every machine.
//
//     kernel_digests               names of the instruction sets that this
//     machine has, the best first kernel_digests ISA FILE      a line for each
//     case: its name, and a digest of its results' bits
//
// FILE holds products of block formats by their definition (write_products.py),
// which those of the kernels must equal.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "half.h"
#include "network.h"
#include "quantise.h"

namespace eyas {
namespace {

using Floats = std::vector<float>;

// Uniform in -1..1; the standard defines the generator, but not the
// distributions.
class Random {
 public:
  explicit Random(unsigned seed) : words_(seed) {}
  float next() { return float(std::int32_t(words_())) * 0x1p-31f; }
  Floats floats(std::size_t n, float scale = 1.0f) {
    Floats x(n);
    for (float& value : x) value = scale * next();
    return x;
  }

 private:
  std::mt19937 words_;
};

class Digest {  // FNV-1a
 public:
  void add(const void* data, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) value_ = (value_ ^ static_cast<const std::uint8_t*>(data)[i]) * 0x100000001b3u;
  }
  void add(const Floats& x) { add(x.data(), sizeof(float) * x.size()); }
  void print(const std::string& name) const {
    std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(value_));
  }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

struct Matrix {
  PackedMatrix packed;
  Buffer data, scale, bias;

  Matrix(const WeightFormat& format, int n, int k, const WeightRows& rows) : packed(format, n, k) {
    data.reserve(packed.bytes());
    scale.reserve(sizeof(float) * std::size_t(packed.blocks()) * kBlock);
    if (format.pack(rows, 0, n, k, data.as<std::uint8_t>(), scale.as<float>()) != 0)
      throw std::runtime_error("weights are not finite");
    packed.data = data.as<std::uint8_t>();
    if (format.has_scales) packed.scale = scale.as<float>();
  }
  void set_bias(const Floats& x) {
    bias.reserve(sizeof(float) * std::size_t(packed.blocks()) * kBlock);
    std::memcpy(bias.as<float>(), x.data(), sizeof(float) * x.size());
    packed.bias = bias.as<float>();
  }
};

// Random weights in a format, quantised first where it is one of files.
Matrix random_matrix(const char* name, int n, int k, Random& random) {
  const WeightFormat& format = *find_weight_format(name);
  const Floats weights = random.floats(std::size_t(n) * std::size_t(k), 1.7f / std::sqrt(float(k)));
  const WeightRows rows{weights.data(), false};
  if (!format.is_from_file()) return Matrix(format, n, k, rows);
  std::vector<std::uint8_t> blocks(std::size_t(n) * format.row_bytes(k));
  if (const BlockQuantiser* quantiser = find_block_quantiser(name)) {
    quantise_rows(rows, n, k, *quantiser, blocks.data(), 1);
  } else {  // float16
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const std::uint16_t half = float_to_half(weights[i]);
      std::memcpy(blocks.data() + 2 * i, &half, 2);
    }
  }
  return Matrix(format, n, k, {blocks.data(), false});
}

// y (tokens, n) = W x
Floats product(Engine& engine, const PackedMatrix& w, const Floats& x, int tokens) {
  const std::size_t width = std::size_t(round_up(w.k, 64)), stride = std::size_t(w.blocks()) * kBlock;
  Buffer in, out;
  in.reserve(sizeof(float) * width * std::size_t(tokens));
  out.reserve(sizeof(float) * stride * std::size_t(tokens));
  for (int t = 0; t < tokens; ++t)
    std::memcpy(in.as<float>() + std::size_t(t) * width, x.data() + t * w.k, sizeof(float) * std::size_t(w.k));
  engine.multiply(w, in.as<float>(), width, tokens, out.as<float>(), stride);
  Floats y;
  for (int t = 0; t < tokens; ++t) {
    const float* token = out.as<float>() + std::size_t(t) * stride;
    y.insert(y.end(), token, token + w.n);
  }
  return y;
}

template <class T>
std::vector<T> read_some(std::istream& file, std::size_t n) {
  std::vector<T> values(n);
  if (!file.read(reinterpret_cast<char*>(values.data()), std::streamsize(sizeof(T) * n)))
    throw std::runtime_error("the file of products ends early");
  return values;
}

// Products of the file's blocks and tokens, however many of them share a call,
// are those of the definition.
int check_products(Engine& engine, const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string line, name;
  int cases = 0, n = 0, k = 0, tokens = 0;
  while (std::getline(file, line)) {  // its arrays follow: the rows' blocks, x
                                      // (tokens, k), and y (tokens, n)
    std::istringstream(line) >> name >> n >> k >> tokens;
    const WeightFormat& format = *find_weight_format(name.c_str());
    const auto blocks = read_some<std::uint8_t>(file, std::size_t(n) * format.row_bytes(k));
    const auto x = read_some<float>(file, std::size_t(tokens * k)), wanted = read_some<float>(file, std::size_t(tokens * n));
    const Matrix w(format, n, k, {blocks.data(), false});
    for (int count = 1; count <= tokens; ++count) {
      const Floats y = product(engine, w.packed, x, count);
      if (std::memcmp(y.data(), wanted.data(), sizeof(float) * y.size()) != 0)
        throw std::runtime_error("products of " + name + " are not those of the definition");
    }
    ++cases;
  }
  return cases;
}

void print_products(Engine& engine) {
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const WeightFormat& format = kWeightFormats[i];
    Random random(unsigned(i) + 1);
    const int n = 70, k = format.file_inputs > 1 ? 512 : 202, tokens = 13;
    if (format.file_inputs > 1 && !find_block_quantiser(format.name)) throw std::runtime_error("nothing quantises to it");
    const Matrix w = random_matrix(format.name, n, k, random);
    const Floats x = random.floats(std::size_t(tokens * k));
    Digest digest;
    for (int count = 1; count <= tokens; ++count) digest.add(product(engine, w.packed, x, count));
    digest.print(std::string("product ") + format.name);
  }
}

// ---- a stack of layers ----

struct StackCase {
  const char* format;
  CacheType cache;
  int head_dim;
  ActivationFunction activation;
};

// Two layers over random matrices, and what they point to.
struct SmallStack {
  static constexpr int kHidden = 256, kInner = 512, kHeads = 4, kKvHeads = 2;
  std::vector<Matrix> matrices;
  std::vector<Floats> norms;
  std::unique_ptr<Stack> stack;

  SmallStack(Engine& engine, const StackCase& of, Random& random) {
    StackShape shape;
    shape.hidden = kHidden;
    shape.heads = kHeads;
    shape.kv_heads = kKvHeads;
    shape.head_dim = of.head_dim;
    shape.cache_type = of.cache;
    Floats frequencies;
    for (int i = 1; i <= of.head_dim / 2; ++i) frequencies.push_back(1.0f / float(i * i));
    shape.ropes = {{frequencies, 1.0f}};
    matrices.reserve(8);  // layers point to them
    std::vector<Layer> layers = {layer(of, 0, random), layer(of, 24, random)};
    layers[1].attention_softcap = 5.0f;
    stack = std::make_unique<Stack>(engine.kernels, engine.pool, shape, layers, norm(kHidden, random), 1e-6f);
  }

 private:
  const PackedMatrix& matrix(const char* format, int n, int k, Random& random) {
    matrices.push_back(random_matrix(k % 256 == 0 ? format : "Q8_0", n, k, random));
    return matrices.back().packed;
  }
  const float* norm(int n, Random& random) {
    norms.push_back(random.floats(std::size_t(round_up(n, kBlock))));
    return norms.back().data();
  }
  Layer layer(const StackCase& of, int window, Random& random) {
    const int width = kHeads * of.head_dim, qkv = width + 2 * kKvHeads * of.head_dim;
    Layer layer;
    layer.attention_norm = norm(kHidden, random);
    layer.mlp_norm = norm(kHidden, random);
    layer.query_norm = norm(of.head_dim, random);
    layer.qkv = {matrix(of.format, qkv, kHidden, random)};
    matrices.back().set_bias(random.floats(std::size_t(qkv)));
    layer.qkv[0].bias = matrices.back().packed.bias;
    layer.output = matrix(of.format, kHidden, width, random);
    layer.gate_up = {matrix(of.format, 2 * kInner, kHidden, random)};
    layer.down = matrix(of.format, kHidden, kInner, random);
    layer.activation = of.activation;
    layer.window = window;
    layer.attention_scale = 0.3f;
    return layer;
  }
};

// A prefix, a tree behind it, and a token behind one of its paths.
void print_stack(Engine& engine, const StackCase& of, const std::string& name) {
  Random random(7);
  SmallStack small(engine, of, random);
  Stack& stack = *small.stack;
  Cache cache(stack.cache_shape(256));
  Digest digest;
  const auto forward = [&](int count, const int* parents) {
    if (*cache.admit(count, parents)) throw std::runtime_error(cache.admit(count, parents));
    Floats x = random.floats(std::size_t(count * stack.stride()));
    stack.forward({{&cache, count, parents}}, x.data());
    digest.add(x);
  };
  const std::vector<int> tree = {-1, 0, 0, 1, 1, 2, 5, 5, 6, -1, 9, 10}, path = {0, 2, 5, 7};
  std::vector<int> prefix(70);
  for (int i = 0; i < 70; ++i) prefix[std::size_t(i)] = i;
  forward(70, nullptr);
  cache.commit(prefix);
  forward(int(tree.size()), tree.data());
  cache.commit(path);
  forward(1, nullptr);
  digest.print("stack " + name);
}

void print_stacks(Engine& engine) {
  using A = ActivationFunction;
  print_stack(engine, {"float32", CacheType::Float32, 64, A::Silu}, "float32");
  print_stack(engine, {"bfloat16", CacheType::Bfloat16, 64, A::Silu}, "bfloat16");
  print_stack(engine, {"int8", CacheType::Bfloat16, 64, A::Gelu}, "int8");
  print_stack(engine, {"int8", CacheType::Q8_0, 64, A::Silu}, "int8/q8_0");
  print_stack(engine, {"Q4_K", CacheType::FusedBfloat16, 64, A::Silu}, "Q4_K");
  print_stack(engine, {"Q6_K", CacheType::Q8_0, 40, A::GeluTanh}, "Q6_K/q8_0");
  print_stack(engine, {"Q8_0", CacheType::Float32, 128, A::Gelu}, "Q8_0/float32");
}

// ---- what follows a product ----

void print_logits(const Kernels& kernels) {
  const int n = 1000, padded = round_up(n, kBlock);
  Random random(11);
  Floats x = random.floats(std::size_t(padded), 9.0f), y(x.size());
  Digest digest;
  kernels.transform_logits(x.data(), padded, 1.3f, 5.0f);
  digest.add(x);
  std::vector<int> best(20);
  kernels.top_k(x.data(), n, int(best.size()), best.data());
  digest.add(best.data(), sizeof(int) * best.size());
  const int largest = kernels.argmax(x.data(), n);
  const float sum = kernels.sum_exp(x.data(), padded, 5.0f, 0.7f);
  digest.add(&largest, sizeof largest);
  digest.add(&sum, sizeof sum);
  digest.print("logits");

  double exact = 0;  // the logarithm is the library's, so no bits
  for (int i = 0; i < n; ++i) exact += std::exp(double(x[std::size_t(i)]));
  if (std::fabs(kernels.log_sum_exp(x.data(), n) - std::log(exact)) > 1e-5) throw std::runtime_error("log_sum_exp is wrong");
}

void print_noise(const Kernels& kernels) {
  const int n = 1000, padded = round_up(n, kBlock);
  const Draw draw{12, 3, 456};
  Random random(13);
  const Floats logits = random.floats(std::size_t(padded), 4.0f);
  Floats noise(logits.size()), scores(logits.size());
  Digest digest;
  kernels.gumbel(draw, 32, padded, noise.data());
  digest.add(noise);
  float best = kernels.add_noise(logits.data(), 1.25f, noise.data(), n, scores.data());
  digest.add(scores);
  digest.add(&best, sizeof best);
  best = kernels.noisy_scores(logits.data(), 1.25f, draw, 32, 70, n, scores.data());
  digest.add(scores);
  const int next = kernels.next_at_least(scores.data(), 3, n, best);
  digest.add(&next, sizeof next);
  digest.print("noise");
}

}  // namespace

int run(const char* isa, const char* path) {
  const Kernels* kernels = find_kernels(isa);
  if (!kernels) throw std::runtime_error(std::string("this machine has no ") + isa);
  Engine engine(*kernels, 2);
  std::printf("products of the definition %d\n", check_products(engine, path));
  print_products(engine);
  print_stacks(engine);
  print_logits(*kernels);
  print_noise(*kernels);
  return 0;
}

}  // namespace eyas

int main(int argc, char** argv) {
  if (argc != 3) {
    for (const eyas::Kernels* kernels : eyas::present_kernels()) std::printf("%s\n", kernels->name);
    return argc == 1 ? 0 : 2;
  }
  try {
    return eyas::run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
    return 1;
  }
}
