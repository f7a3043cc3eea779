// The Python module eyas._native: thin classes over the engine; every long call lets go of the GIL.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "candidates.h"
#include "growth.h"
#include "network.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace eyas {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;

template <class T>
Out<T> new_array(std::vector<std::size_t> shape) {
  std::size_t size = 1;
  for (const std::size_t length : shape) size *= length;
  T* data = new T[size ? size : 1];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Out<T>(data, shape.size(), shape.data(), owner);
}

constexpr const char* kNoNumber = "the draft gave a confidence that is not a number (docs/laws.md, L5)";

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

Kind kind_of(const std::string& name) {
  if (name == "float32") return Kind::F32;
  if (name == "bfloat16") return Kind::BF16;
  require(name == "int8", "a kind is float32, bfloat16 or int8");
  return Kind::I8;
}

const Kernels& kernels_of(const std::optional<std::string>& isa) {
  const Kernels* kernels = find_kernels(isa ? isa->c_str() : nullptr);
  require(kernels != nullptr, "this machine does not have that instruction set");
  return *kernels;
}

// Floats with zeros behind, for loops over whole vectors.
std::vector<float> padded(const Vector& x) {
  std::vector<float> out(std::size_t(round_up(int(x.shape(0)), kBlock)), 0.0f);
  std::memcpy(out.data(), x.data(), sizeof(float) * x.shape(0));
  return out;
}

// A packed matrix with whatever owns its bytes.
struct Matrix {
  Packed packed;
  Bytes data;
  std::vector<float> scale, bias;

  Matrix(const std::string& kind, int n, int k, Bytes data_, std::optional<Vector> scale_, std::optional<Vector> bias_)
      : data(std::move(data_)) {
    packed.kind = kind_of(kind);
    packed.n = n;
    packed.k = k;
    require(n > 0 && k > 0 && k < 60'000, "a matrix needs outputs, and 1 to 59,999 inputs");
    require(data.shape(0) == std::size_t(packed.blocks()) * packed.block_bytes(), "bytes that do not fit the matrix");
    packed.data = data.data();
    if (packed.kind == Kind::I8) {
      require(scale_ && scale_->shape(0) >= std::size_t(n), "int8 needs a scale per output");
      scale = padded(*scale_);
      packed.scale = scale.data();
    }
    if (bias_) {
      require(bias_->shape(0) == std::size_t(n), "a bias per output");
      bias = padded(*bias_);
      packed.bias = bias.data();
    }
  }
};

struct PyCache {
  Cache cache;
  explicit PyCache(const CacheShape& shape) : cache(shape) {}

  void commit(const std::vector<int>& path) {
    require(cache.commit(path), "a path starts at the committed prefix, and each row is the parent of the next");
  }
  void truncate(int length) {
    require(length >= 0 && length <= cache.length(), "a cache can only be cut to fewer rows than it has");
    cache.truncate(length);
  }
};

void admit(Cache& cache, const CacheShape& shape, int count, const int* parents) {
  const CacheShape& own = cache.shape();
  require(own.layers == shape.layers && own.kv_heads == shape.kv_heads && own.head_dim == shape.head_dim && own.kind == shape.kind,
          "a cache of another network");
  const char* error = cache.admit(count, parents);
  require(!*error, error);
}

std::vector<int> to_parents(const std::optional<Ids>& parents, std::size_t count) {
  if (!parents) return {};
  require(parents->shape(0) == count, "one parent per row");
  return std::vector<int>(parents->data(), parents->data() + count);
}

struct PyStack {
  std::shared_ptr<Engine> engine;
  std::vector<nb::object> owners;
  std::vector<std::unique_ptr<std::vector<float>>> norms;
  std::unique_ptr<Stack> stack;
  Buffer rows;

  const float* norm(const nb::dict& layer, const char* name) {
    if (!layer.contains(name) || layer[name].is_none()) return nullptr;
    norms.push_back(std::make_unique<std::vector<float>>(padded(nb::cast<Vector>(layer[name]))));
    return norms.back()->data();
  }
  const Packed& matrix(const nb::dict& layer, const char* name) {
    owners.push_back(nb::object(layer[name]));
    return nb::cast<const Matrix&>(owners.back()).packed;
  }

  PyStack(std::shared_ptr<Engine> engine_, int hidden, int intermediate, int heads, int kv_heads, int head_dim, float eps,
          Vector inverse_frequencies, float rope_factor, nb::list layers, std::optional<Vector> final_norm)
      : engine(std::move(engine_)) {
    require(head_dim >= 2 && head_dim % 2 == 0 && head_dim <= kMaxHeadDim, "head_dim must be even and at most 256");
    require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "heads must be a multiple of kv_heads");
    require(inverse_frequencies.shape(0) == std::size_t(head_dim / 2), "a frequency per pair of a head");
    require(layers.size() > 0, "a stack needs a layer");
    StackShape shape;
    shape.hidden = hidden;
    shape.intermediate = intermediate;
    shape.heads = heads;
    shape.kv_heads = kv_heads;
    shape.head_dim = head_dim;
    shape.eps = eps;
    shape.rope_factor = rope_factor;
    shape.inverse_frequencies.assign(inverse_frequencies.data(), inverse_frequencies.data() + head_dim / 2);
    std::vector<Layer> made;
    for (const nb::handle item : layers) {
      const nb::dict dict = nb::cast<nb::dict>(item);
      Layer layer;
      layer.input_norm = norm(dict, "input_norm");
      layer.post_norm = norm(dict, "post_norm");
      layer.query_norm = norm(dict, "query_norm");
      layer.key_norm = norm(dict, "key_norm");
      layer.qkv = matrix(dict, "qkv");
      layer.output = matrix(dict, "output");
      layer.gate_up = matrix(dict, "gate_up");
      layer.down = matrix(dict, "down");
      layer.window = nb::cast<int>(dict["window"]);
      require(layer.post_norm != nullptr, "a layer needs its second norm");
      for (const Layer& other : made) require(!other.window || !layer.window || other.window == layer.window, "windows of one size");
      require(layer.qkv.n == (heads + 2 * kv_heads) * head_dim && layer.qkv.k == hidden && layer.output.n == hidden &&
                  layer.output.k == heads * head_dim && layer.gate_up.n == 2 * round_up(intermediate, kLanes) &&
                  layer.gate_up.k == hidden && layer.down.n == hidden && layer.down.k == intermediate,
              "matrices that do not fit the layer");
      made.push_back(layer);
    }
    const float* last = nullptr;
    if (final_norm) {
      norms.push_back(std::make_unique<std::vector<float>>(padded(*final_norm)));
      last = norms.back()->data();
    }
    stack = std::make_unique<Stack>(engine->kernels, engine->team, shape, std::move(made), last);
  }

  Out<float> forward(PyCache& cache, const Rows& x, const std::optional<Ids>& parents) {
    const std::size_t count = x.shape(0), hidden = std::size_t(stack->shape().hidden), width = std::size_t(stack->stride());
    require(count > 0 && x.shape(1) == hidden, "rows of the stack's hidden size");
    const std::vector<int> above = to_parents(parents, count);
    admit(cache.cache, stack->cache_shape(0), int(count), parents ? above.data() : nullptr);
    Out<float> out = new_array<float>({count, hidden});
    float* result = out.data();
    {
      const nb::gil_scoped_release release;
      rows.reserve(count * width * sizeof(float));
      float* state = rows.as<float>();
      for (std::size_t t = 0; t < count; ++t) {
        std::memcpy(state + t * width, x.data() + t * hidden, sizeof(float) * hidden);
        std::fill(state + t * width + hidden, state + (t + 1) * width, 0.0f);
      }
      stack->forward({{&cache.cache, int(count), parents ? above.data() : nullptr}}, state);
      for (std::size_t t = 0; t < count; ++t) std::memcpy(result + t * hidden, state + t * width, sizeof(float) * hidden);
    }
    return out;
  }
};

// Rows side by side, padded: [x1; x2; ..].
std::size_t join(const std::vector<Rows>& inputs, int k, Buffer& buffer, std::size_t* count) {
  require(!inputs.empty(), "rows to multiply");
  *count = inputs.front().shape(0);
  std::size_t width = std::size_t(round_up(k, kBlock)), sum = 0;
  for (const Rows& rows : inputs) {
    require(rows.shape(0) == *count, "as many rows in each input");
    sum += rows.shape(1);
  }
  require(sum == std::size_t(k), "rows as wide as the matrix");
  buffer.reserve(*count * width * sizeof(float));
  for (std::size_t t = 0; t < *count; ++t) {
    float* out = buffer.as<float>() + t * width;
    for (const Rows& rows : inputs) {
      std::memcpy(out, rows.data() + t * rows.shape(1), sizeof(float) * rows.shape(1));
      out += rows.shape(1);
    }
    std::fill(out, buffer.as<float>() + (t + 1) * width, 0.0f);
  }
  return width;
}

struct PyLinear {
  std::shared_ptr<Engine> engine;
  nb::object owner;
  Packed weight;
  Buffer inputs, outputs;

  PyLinear(std::shared_ptr<Engine> engine_, nb::object matrix)
      : engine(std::move(engine_)), owner(std::move(matrix)), weight(nb::cast<const Matrix&>(owner).packed) {}

  Out<float> forward(const std::vector<Rows>& rows) {
    std::size_t count = 0;
    const std::size_t width = join(rows, weight.k, inputs, &count), stride = std::size_t(weight.blocks()) * kBlock;
    outputs.reserve(count * stride * sizeof(float));
    const std::size_t n = std::size_t(weight.n);
    Out<float> out = new_array<float>({count, n});
    float* result = out.data();
    const nb::gil_scoped_release release;
    engine->multiply(weight, inputs.as<float>(), width, int(count), outputs.as<float>(), stride);
    for (std::size_t t = 0; t < count; ++t) std::memcpy(result + t * n, outputs.as<float>() + t * stride, sizeof(float) * n);
    return out;
  }
};

struct PyHead {
  std::shared_ptr<Engine> engine;
  std::vector<nb::object> owners;
  std::unique_ptr<Head> head;
  int k = 0;
  int rows = 0;
  Buffer inputs;

  PyHead(std::shared_ptr<Engine> engine_, std::vector<nb::object> matrices) : engine(std::move(engine_)), owners(std::move(matrices)) {
    require(!owners.empty(), "a head needs a matrix");
    std::vector<Packed> parts;
    for (const nb::object& owner : owners) parts.push_back(nb::cast<const Matrix&>(owner).packed);
    k = parts.front().k;
    for (const Packed& part : parts) require(part.k == k, "matrices of the same inputs");
    head = std::make_unique<Head>(*engine, std::move(parts));
  }

  void forward(const Rows& x) {
    std::size_t count = 0;
    const std::size_t width = join({x}, k, inputs, &count);
    const nb::gil_scoped_release release;
    head->forward(inputs.as<float>(), width, int(count));
    rows = int(count);
  }

  nb::object top_k(const Rows& x, int wanted) {
    require(wanted >= 1, "k must be at least 1");
    forward(x);
    const int best_count = std::min(wanted, head->size());
    Best best;
    bool sound;
    {
      const nb::gil_scoped_release release;
      sound = head->best(rows, best_count, best);
    }
    return sound ? to_arrays(best, best_count) : nb::none();
  }

  std::vector<int> choose(const std::vector<int>& which, const std::vector<Sampler*>& samplers,
                          const std::vector<std::pair<int, std::vector<int>>>& generated) {
    require(which.size() == samplers.size() && which.size() == generated.size(), "a sampler and an answer per row");
    for (std::size_t i = 0; i < which.size(); ++i) {
      require(which[i] >= 0 && which[i] < rows && samplers[i]->config().vocab_size == head->size(), "rows of the last forward, of the whole vocabulary");
      for (std::size_t j = 0; j < i; ++j) require(samplers[i] != samplers[j], "a sampler in two rows");
    }
    const std::vector<Answer> answers = to_answers(generated);
    std::vector<int> chosen;
    const nb::gil_scoped_release release;
    head->choose(which, samplers, answers, chosen);
    return chosen;
  }

  nb::object coupled(const Rows& x, int wanted, Sampler& sampler, const Ids& ids, const std::vector<std::pair<int, std::vector<int>>>& generated, double scale) {
    require(wanted >= 1 && scale > 0, "k must be at least 1, and scale above 0");
    require(ids.shape(0) == 0 || ids.shape(0) == std::size_t(head->size()), "an id per column");
    require(generated.size() == x.shape(0), "an answer per row");
    forward(x);
    Columns columns;
    columns.count = head->size();
    std::vector<int> index;
    if (ids.shape(0)) {
      for (std::size_t c = 0; c < ids.shape(0); ++c)
        require(ids.data()[c] >= 0 && ids.data()[c] < sampler.config().vocab_size, "ids of the sampler's vocabulary");
      columns.ids = ids.data();
    }
    if (ids.shape(0) && sampler.edits()) {  // nothing else looks a column up
      index.assign(std::size_t(sampler.config().vocab_size), -1);
      for (std::size_t c = 0; c < ids.shape(0); ++c) index[std::size_t(ids.data()[c])] = int(c);
      columns.index = index.data();
    }
    const std::vector<Answer> answers = to_answers(generated);
    Best best;
    bool sound;
    const int count = std::min(wanted, head->size());
    {
      const nb::gil_scoped_release release;
      sound = head->couple(rows, count, sampler, columns, answers, scale, best);
    }
    return sound ? to_arrays(best, count) : nb::none();
  }

  static std::vector<Answer> to_answers(const std::vector<std::pair<int, std::vector<int>>>& generated) {
    std::vector<Answer> answers;
    for (const auto& [length, ids] : generated) answers.push_back({length, ids});
    return answers;
  }

  nb::object to_arrays(const Best& best, int count) const {
    const std::vector<std::size_t> shape = {std::size_t(rows), std::size_t(count)};
    Out<std::int64_t> columns = new_array<std::int64_t>(shape);
    Out<double> log_probs = new_array<double>(shape);
    std::copy(best.columns.begin(), best.columns.end(), columns.data());
    std::copy(best.log_probs.begin(), best.log_probs.end(), log_probs.data());
    return nb::make_tuple(columns, log_probs);
  }

  Out<float> logits(int row) {
    require(row >= 0 && row < rows, "a row of the last forward");
    Out<float> out = new_array<float>({std::size_t(head->size())});
    head->copy(row, out.data());
    return out;
  }

  int argmax(int row) {
    require(row >= 0 && row < rows, "a row of the last forward");
    return head->argmax(row);
  }
};

struct PyTarget {
  nb::object stack_owner, head_owner, embedding_owner;
  PyStack& stack;
  PyHead& head;
  std::unique_ptr<TargetNetwork> network;

  PyTarget(nb::object stack_, nb::object head_, nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> table, bool round)
      : stack_owner(std::move(stack_)), head_owner(std::move(head_)), embedding_owner(nb::cast(table)),
        stack(nb::cast<PyStack&>(stack_owner)), head(nb::cast<PyHead&>(head_owner)) {
    Embedding embedding;
    embedding.data = table.data();
    embedding.bf16 = table.itemsize() == 2;
    embedding.round = round;
    embedding.vocab = int(table.shape(0));
    embedding.hidden = int(table.shape(1));
    require(embedding.hidden == stack.stack->shape().hidden, "an embedding of the stack's hidden size");
    network = std::make_unique<TargetNetwork>(*stack.stack, *head.head, embedding);
  }

  void check_ids(const Ids& ids) const {
    for (std::size_t i = 0; i < ids.shape(0); ++i)
      require(ids.data()[i] >= 0 && ids.data()[i] < network->embedding().vocab, "a token id outside the vocabulary");
  }

  // calls: (cache, token ids, parents or None, last row only). Returns the features of all rows.
  Out<float> forward(const std::vector<std::tuple<PyCache*, Ids, std::optional<Ids>, bool>>& calls) {
    std::vector<TargetRows> rows;
    std::vector<std::vector<int>> parents;
    std::size_t total = 0;
    int wanted = 0;
    for (const auto& [cache, ids, above, last_only] : calls) {
      require(ids.shape(0) > 0, "a call needs rows");
      check_ids(ids);
      parents.push_back(to_parents(above, ids.shape(0)));
      TargetRows call;
      call.call = {&cache->cache, int(ids.shape(0)), above ? parents.back().data() : nullptr};
      call.token_ids = ids.data();
      call.last_only = last_only;
      admit(cache->cache, stack.stack->cache_shape(0), call.call.count, call.call.parents);
      for (const TargetRows& other : rows) require(other.call.cache != call.call.cache, "a cache in two calls");
      rows.push_back(call);
      total += ids.shape(0);
      wanted += last_only ? 1 : int(ids.shape(0));
    }
    Out<float> features = new_array<float>({total, std::size_t(network->embedding().hidden)});
    float* out = features.data();
    {
      const nb::gil_scoped_release release;
      network->forward(rows, out);
    }
    head.rows = wanted;
    return features;
  }

  Out<float> embed(const Ids& ids) {
    check_ids(ids);
    const std::size_t hidden = std::size_t(network->embedding().hidden);
    Out<float> out = new_array<float>({ids.shape(0), hidden});
    for (std::size_t i = 0; i < ids.shape(0); ++i) network->embedding().read(int(ids.data()[i]), out.data() + i * hidden);
    return out;
  }
};

struct PyCandidates {
  using Floats = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
  using Lines = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
  using Children = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

  Candidates candidates;

  static RateMap to_map(const std::optional<Floats>& knots, const std::optional<Lines>& rates) {
    if (!knots || !rates) return {};
    const std::size_t points = knots->shape(0);
    require(points > 0 && knots->data()[0] == 0 && rates->shape(0) > 0 && rates->shape(1) == points, "knots from 0 on, and a rate for each");
    return {std::vector<double>(knots->data(), knots->data() + points),
            std::vector<double>(rates->data(), rates->data() + rates->size())};
  }

  PyCandidates(int top_k, std::vector<std::int64_t> terminal, bool by_value, std::optional<Floats> knots, std::optional<Lines> rates)
      : candidates(top_k, std::move(terminal), by_value, to_map(knots, rates)) {}

  void grow(const std::vector<int>& parents, const Children& token_ids, const Lines& log_confidences) {
    const std::size_t width = token_ids.shape(1);
    require(token_ids.shape(0) == parents.size() && log_confidences.shape(0) == parents.size() && log_confidences.shape(1) == width,
            "a row of children for each parent");
    require(width > 0 && candidates.fits(parents), "children of the root, or of the newest level");
    if (candidates.grow(parents, int(width), token_ids.data(), log_confidences.data())) return;
    PyErr_SetString(PyExc_FloatingPointError, kNoNumber);
    throw nb::python_error();
  }

  nb::tuple frontier() const {
    const std::vector<int> chosen = candidates.frontier();
    std::vector<std::int64_t> token_ids;
    std::vector<double> log_values;
    std::vector<int> rows;
    for (const int at : chosen) {
      token_ids.push_back(candidates.token_id(at));
      log_values.push_back(candidates.log_value(at));
      rows.push_back(candidates.parent_row(at));
    }
    return nb::make_tuple(chosen, token_ids, log_values, rows);
  }

  nb::tuple best(std::int64_t root, int count) const { return to_arrays(candidates.tree(root, candidates.best(count))); }
  nb::tuple expanded(std::int64_t root, int count) const { return to_arrays(candidates.tree(root, candidates.expanded(count))); }

  static nb::tuple to_arrays(const TreeArrays& tree) {
    return nb::make_tuple(to_array(tree.token_ids), to_array(tree.parents), to_array(tree.log_values));
  }
  template <class T>
  static Out<T> to_array(const std::vector<T>& values) {
    Out<T> out = new_array<T>({values.size()});
    std::copy(values.begin(), values.end(), out.data());
    return out;
  }
};

struct PyGrowth {
  Growth growth;

  PyGrowth(std::vector<double> cycle, std::vector<double> levels, double spent, double room, int max_nodes, double other_ms,
           double other_tokens)
      : growth(std::move(cycle), std::move(levels), spent, room, max_nodes, other_ms, other_tokens) {
    require(max_nodes >= 0 && growth.knows_size(std::size_t(max_nodes)), "a time for each size");
  }

  void add(const std::vector<double>& values, int expanded) {
    require(expanded >= 0 && growth.knows_level(std::size_t(expanded)), "a time for each number of nodes");
    growth.add(values, expanded);
  }
  int wanted(const std::vector<double>& log_values, const std::vector<double>& worth) const {
    require(growth.knows_level(log_values.size()), "a time for each number of nodes");
    return growth.wanted(log_values, worth);
  }
};

nb::tuple py_pack(nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> rows, const std::string& kind) {
  Packed w;
  w.kind = kind_of(kind);
  w.n = int(rows.shape(0));
  w.k = int(rows.shape(1));
  require(rows.itemsize() == 2 || rows.itemsize() == 4, "float32, or bfloat16 as uint16");
  Out<std::uint8_t> data = new_array<std::uint8_t>({std::size_t(w.blocks()) * w.block_bytes()});
  Out<float> scale = new_array<float>({w.kind == Kind::I8 ? std::size_t(w.blocks()) * kBlock : 0});
  std::size_t bad;
  {
    const nb::gil_scoped_release release;
    bad = pack(rows.data(), rows.itemsize() == 2, w.kind, w.n, w.k, data.data(), scale.data());
  }
  return nb::make_tuple(data, scale, bad);
}

// Bytes of a packed matrix, and the number of its scales.
std::pair<std::size_t, std::size_t> packed_sizes(const std::string& kind, int n, int k) {
  Packed w;
  w.kind = kind_of(kind);
  w.n = n;
  w.k = k;
  return {std::size_t(w.blocks()) * w.block_bytes(), w.kind == Kind::I8 ? std::size_t(w.blocks()) * kBlock : 0};
}

// Bytes a second that all threads together read from memory.
double read_bandwidth(Engine& engine, const Bytes& data) {
  const nb::gil_scoped_release release;
  const std::size_t part = 1 << 20;
  const int parts = int(data.shape(0) / part);
  std::atomic<std::uint64_t> sum{0};
  const auto began = std::chrono::steady_clock::now();
  engine.team.run([&](Phase& phase) {
    phase.each(parts, 1, [&](int begin, int end) {
      for (int i = begin; i < end; ++i) sum += engine.kernels.read(data.data() + std::size_t(i) * part, part);
    });
  });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  return double(std::size_t(parts) * part) / (took.count() + (sum.load() == 1 ? 1e-12 : 0.0));
}

}  // namespace
}  // namespace eyas

NB_MODULE(_native, m) {
  using namespace eyas;
  m.doc() = "The native CPU engine (see eyas.runtimes.native).";
  m.def("best_isa", [] { return std::string(find_kernels(nullptr)->name); });
  m.def("has_isa", [](const std::string& name) { return find_kernels(name.c_str()) != nullptr; });
  m.def("pack", &py_pack, "rows"_a, "kind"_a);
  m.def("packed_sizes", &packed_sizes, "kind"_a, "n"_a, "k"_a);

  nb::class_<Engine>(m, "Engine")
      .def("__init__", [](Engine* self, int threads, std::optional<std::string> isa) { new (self) Engine(kernels_of(isa), threads); },
           "threads"_a, "isa"_a.none() = nb::none())
      .def_prop_ro("isa", [](const Engine& e) { return std::string(e.kernels.name); })
      .def_prop_ro("threads", [](const Engine& e) { return e.team.threads(); })
      .def("read_bandwidth", &read_bandwidth, "data"_a);
  nb::class_<Matrix>(m, "Matrix")
      .def(nb::init<const std::string&, int, int, Bytes, std::optional<Vector>, std::optional<Vector>>(), "kind"_a, "n"_a, "k"_a,
           "data"_a, "scale"_a.none() = nb::none(), "bias"_a.none() = nb::none());
  nb::class_<PyCache>(m, "Cache")
      .def_prop_ro("length", [](const PyCache& c) { return c.cache.length(); })
      .def_prop_ro("num_pending", [](const PyCache& c) { return c.cache.num_pending(); })
      .def_prop_ro("bytes", [](const PyCache& c) { return c.cache.bytes(); })
      .def("commit", &PyCache::commit, "path"_a)
      .def("truncate", &PyCache::truncate, "length"_a);
  nb::class_<PyStack>(m, "Stack")
      .def(nb::init<std::shared_ptr<Engine>, int, int, int, int, int, float, Vector, float, nb::list, std::optional<Vector>>(),
           "engine"_a, "hidden"_a, "intermediate"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "eps"_a, "inverse_frequencies"_a,
           "rope_factor"_a, "layers"_a, "final_norm"_a.none() = nb::none())
      .def("new_cache", [](const PyStack& s, int limit) { return std::make_unique<PyCache>(s.stack->cache_shape(limit)); }, "limit"_a)
      .def("forward", &PyStack::forward, "cache"_a, "x"_a, "parents"_a.none() = nb::none());
  nb::class_<PyLinear>(m, "Linear")
      .def(nb::init<std::shared_ptr<Engine>, nb::object>(), "engine"_a, "matrix"_a)
      .def("forward", &PyLinear::forward, "inputs"_a);
  nb::class_<Sampler>(m, "Sampler")
      .def("__init__",
           [](Sampler* self, std::shared_ptr<Engine> engine, double temperature, int top_k, double top_p, double min_p,
              double repetition_penalty, double presence_penalty, double frequency_penalty, std::vector<std::pair<int, double>> bias,
              std::uint32_t seed, std::uint32_t choice, std::vector<int> prompt_ids, int num_prompt_tokens, int vocab_size,
              std::vector<int> withheld, int min_new_tokens) {
             for (const int id : prompt_ids) require(id >= 0 && id < vocab_size, "prompt ids of the vocabulary");
             new (self) Sampler(engine->kernels, {temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
                                                  frequency_penalty, std::move(bias), seed, choice, std::move(prompt_ids),
                                                  num_prompt_tokens, vocab_size, std::move(withheld), min_new_tokens});
           },
           "engine"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "repetition_penalty"_a, "presence_penalty"_a,
           "frequency_penalty"_a, "bias"_a, "seed"_a, "choice"_a, "prompt_ids"_a, "num_prompt_tokens"_a, "vocab_size"_a, "withheld"_a,
           "min_new_tokens"_a, nb::keep_alive<1, 2>())
      .def_prop_ro("edits", &Sampler::edits);
  nb::class_<PyCandidates>(m, "Candidates")
      .def(nb::init<int, std::vector<std::int64_t>, bool, std::optional<PyCandidates::Floats>, std::optional<PyCandidates::Lines>>(),
           "top_k"_a, "terminal"_a, "by_value"_a, "knots"_a = nb::none(), "rates"_a = nb::none())
      .def("grow", &PyCandidates::grow, "parents"_a, "token_ids"_a, "log_confidences"_a)
      .def("frontier", &PyCandidates::frontier)
      .def("newest_values", [](const PyCandidates& c) { return c.candidates.newest_values(); })
      .def("best", &PyCandidates::best, "root"_a, "count"_a)
      .def("expanded", &PyCandidates::expanded, "root"_a, "count"_a);
  nb::class_<PyGrowth>(m, "Growth")
      .def(nb::init<std::vector<double>, std::vector<double>, double, double, int, double, double>(), "cycle"_a, "levels"_a, "spent"_a,
           "room"_a, "max_nodes"_a, "other_ms"_a, "other_tokens"_a)
      .def("add", &PyGrowth::add, "values"_a, "expanded"_a)
      .def("wanted", &PyGrowth::wanted, "log_values"_a, "worth"_a)
      .def_prop_ro("spent", [](const PyGrowth& g) { return g.growth.spent(); })
      .def_prop_ro("size", [](const PyGrowth& g) { return g.growth.size(); })
      .def_prop_ro("time", [](const PyGrowth& g) { return g.growth.time(); });
  nb::class_<PyHead>(m, "Head")
      .def(nb::init<std::shared_ptr<Engine>, std::vector<nb::object>>(), "engine"_a, "matrices"_a)
      .def_prop_ro("size", [](const PyHead& h) { return h.head->size(); })
      .def("forward", &PyHead::forward, "x"_a)
      .def("top_k", &PyHead::top_k, "x"_a, "k"_a)
      .def("choose", &PyHead::choose, "rows"_a, "samplers"_a, "generated"_a)
      .def("coupled", &PyHead::coupled, "x"_a, "k"_a, "sampler"_a, "token_ids"_a, "generated"_a, "scale"_a)
      .def("logits", &PyHead::logits, "row"_a)
      .def("argmax", &PyHead::argmax, "row"_a);
  nb::class_<PyTarget>(m, "Target")
      .def(nb::init<nb::object, nb::object, nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>, bool>(), "stack"_a, "head"_a,
           "embedding"_a, "round"_a)
      .def("forward", &PyTarget::forward, "calls"_a)
      .def("embed", &PyTarget::embed, "token_ids"_a);
}
