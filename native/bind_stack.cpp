// Caches and stacks of decoder layers for Python.

#include <algorithm>

#include "bindings.h"

namespace eyas {

void PyCache::commit(const std::vector<int>& path) {
  require(cache.commit(path), "a path starts at the committed prefix, and each row is the parent of the next");
}

void PyCache::truncate(int length) {
  require(length >= 0 && length <= cache.length(), "a cache can only be cut to fewer rows than it has");
  cache.truncate(length);
}

std::unique_ptr<PyCache> PyCache::fork(int length) const {
  require(length >= 0 && length <= cache.length(), "a cache can only be forked with committed rows");
  return std::make_unique<PyCache>(cache.fork(length));
}

void PyCache::admit(const CacheShape& shape, int count, const int* parents) {
  const CacheShape& own = cache.shape();
  require(
      own.layers == shape.layers && own.kv_heads == shape.kv_heads && own.head_dim == shape.head_dim && own.kind == shape.kind,
      "a cache of another network");
  const char* error = cache.admit(count, parents);
  require(!*error, error);
}

namespace {

StackShape make_shape(int hidden, int intermediate, int heads, int kv_heads, int head_dim, float eps,
                      const Vector& inverse_frequencies, float rope_factor) {
  require(head_dim >= 2 && head_dim % 2 == 0 && head_dim <= kMaxHeadDim, "head_dim must be even and at most 256");
  require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "heads must be a multiple of kv_heads");
  require(inverse_frequencies.shape(0) == std::size_t(head_dim / 2), "a frequency per pair of a head");
  const float* frequencies = inverse_frequencies.data();
  return {hidden, intermediate, heads, kv_heads, head_dim, eps, rope_factor, {frequencies, frequencies + head_dim / 2}};
}

}  // namespace

const float* PyStack::norm(const nb::dict& layer, const char* name, int size) {
  if (!layer.contains(name) || layer[name].is_none()) return nullptr;
  const Vector weights = nb::cast<Vector>(layer[name]);
  require(weights.shape(0) == std::size_t(size), "a norm as wide as its rows");
  norms.push_back(std::make_unique<std::vector<float>>(padded(weights)));
  return norms.back()->data();
}

const Packed& PyStack::matrix(const nb::dict& layer, const char* name) {
  owners.push_back(nb::object(layer[name]));
  return nb::cast<const Matrix&>(owners.back()).packed;
}

Layer PyStack::layer(const nb::dict& weights, const StackShape& shape) {
  Layer layer;
  layer.input_norm = norm(weights, "input_norm", shape.hidden);
  layer.post_norm = norm(weights, "post_norm", shape.hidden);
  layer.query_norm = norm(weights, "query_norm", shape.head_dim);
  layer.key_norm = norm(weights, "key_norm", shape.head_dim);
  layer.qkv = matrix(weights, "qkv");
  layer.output = matrix(weights, "output");
  layer.gate_up = matrix(weights, "gate_up");
  layer.down = matrix(weights, "down");
  layer.window = nb::cast<int>(weights["window"]);
  require(layer.post_norm != nullptr, "a layer needs its second norm");
  const int width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  require(layer.qkv.n == width + 2 * kv_width && layer.qkv.k == shape.hidden && layer.output.n == shape.hidden &&
              layer.output.k == width && layer.gate_up.n == 2 * round_up(shape.intermediate, kLanes) &&
              layer.gate_up.k == shape.hidden && layer.down.n == shape.hidden && layer.down.k == shape.intermediate,
          "matrices that do not fit the layer");
  const Kind kind = layer.qkv.kind;
  require(layer.output.kind == kind && layer.gate_up.kind == kind && layer.down.kind == kind, "matrices of one kind");
  return layer;
}

PyStack::PyStack(std::shared_ptr<Engine> engine_, const StackShape& shape, nb::list layers, std::optional<Vector> final_norm)
    : engine(std::move(engine_)) {
  require(layers.size() > 0, "a stack needs a layer");
  std::vector<Layer> made;
  for (const nb::handle item : layers) {
    made.push_back(layer(nb::cast<nb::dict>(item), shape));
    require(made.back().qkv.kind == made.front().qkv.kind, "layers of one kind");
    for (const Layer& other : made)
      require(!other.window || !made.back().window || other.window == made.back().window, "windows of one size");
  }
  const float* last = nullptr;
  if (final_norm) {
    require(final_norm->shape(0) == std::size_t(shape.hidden), "a norm as wide as its rows");
    norms.push_back(std::make_unique<std::vector<float>>(padded(*final_norm)));
    last = norms.back()->data();
  }
  stack = std::make_unique<Stack>(engine->kernels, engine->team, shape, std::move(made), last);
}

Out<float> PyStack::forward(PyCache& cache, const Rows& x, const std::optional<Ids>& parents) {
  const std::size_t count = x.shape(0), hidden = std::size_t(stack->shape().hidden), width = std::size_t(stack->stride());
  require(count > 0 && x.shape(1) == hidden, "rows of the stack's hidden size");
  const std::vector<int> above = to_parents(parents, count);
  cache.admit(stack->cache_shape(0), int(count), parents ? above.data() : nullptr);
  Out<float> out = new_array<float>({count, hidden});
  float* result = out.data();
  {
    const nb::gil_scoped_release release;
    const auto turn = engine->team.hold();
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

void bind_stack(nb::module_& m) {
  nb::class_<PyCache>(m, "Cache")
      .def_prop_ro("length", [](const PyCache& c) { return c.cache.length(); })
      .def_prop_ro("num_pending", [](const PyCache& c) { return c.cache.num_pending(); })
      .def_prop_ro("bytes", [](const PyCache& c) { return c.cache.bytes(); })
      .def("commit", &PyCache::commit, "path"_a)
      .def("truncate", &PyCache::truncate, "length"_a)
      .def("fork", &PyCache::fork, "length"_a);
  nb::class_<StackShape>(m, "StackShape")
      .def(
          "__init__",
          [](StackShape* self, int hidden, int intermediate, int heads, int kv_heads, int head_dim, float eps,
             const Vector& inverse_frequencies, float rope_factor) {
            new (self)
                StackShape(make_shape(hidden, intermediate, heads, kv_heads, head_dim, eps, inverse_frequencies, rope_factor));
          },
          nb::kw_only(), "hidden"_a, "intermediate"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "eps"_a, "inverse_frequencies"_a,
          "rope_factor"_a = 1.0f);
  nb::class_<PyStack>(m, "Stack")
      .def(nb::init<std::shared_ptr<Engine>, const StackShape&, nb::list, std::optional<Vector>>(), "engine"_a, "shape"_a,
           "layers"_a, "final_norm"_a.none() = nb::none())
      .def(
          "new_cache", [](const PyStack& s, int limit) { return std::make_unique<PyCache>(s.stack->cache_shape(limit)); },
          "limit"_a)
      .def("forward", &PyStack::forward, "cache"_a, "x"_a, "parents"_a.none() = nb::none());
}

}  // namespace eyas
