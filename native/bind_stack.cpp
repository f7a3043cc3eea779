// Caches and stacks of decoder layers for Python.

#include <algorithm>
#include <cmath>

#include "bindings.h"

namespace eyas {

void PyCache::commit(const std::vector<int>& path) {
  require(cache.commit(path), "a path starts at the committed prefix, and each token is the parent of the next");
}

void PyCache::truncate(int length) {
  require(length >= 0 && length <= cache.length(), "a cache can only be cut to fewer tokens than it has");
  cache.truncate(length);
}

std::unique_ptr<PyCache> PyCache::fork(int length) const {
  require(length >= 0 && length <= cache.length(), "a cache can only be forked with committed tokens");
  return std::make_unique<PyCache>(cache.fork(length));
}

void PyCache::admit(const CacheShape& shape, int count, const int* parents) {
  const CacheShape& own = cache.shape();
  require(
      own.layers == shape.layers && own.kv_heads == shape.kv_heads && own.head_dim == shape.head_dim && own.type == shape.type,
      "a cache of another network");
  const char* error = cache.admit(count, parents);
  require(!*error, error);
}

namespace {

CacheType cache_type_of(const std::string& name) {
  if (name == "float32") return CacheType::Float32;
  if (name == "bfloat16") return CacheType::Bfloat16;
  if (name == "fused_bfloat16") return CacheType::FusedBfloat16;
  require(name == "q8_0", "a cache is of float32, bfloat16, fused_bfloat16 or q8_0");
  return CacheType::Q8_0;
}

ActivationFunction function_of(const std::string& name) {
  if (name == "gelu") return ActivationFunction::Gelu;
  if (name == "gelu_tanh") return ActivationFunction::GeluTanh;
  require(name == "silu", "an activation is silu, gelu or gelu_tanh");
  return ActivationFunction::Silu;
}

StackShape make_shape(int hidden, int heads, int kv_heads, int head_dim, const std::vector<std::pair<Vector, float>>& ropes,
                      const std::string& kv_dtype) {
  require(head_dim >= 2 && head_dim % 2 == 0 && head_dim <= kMaxHeadDim, "head_dim must be even and at most 256");
  require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "heads must be a multiple of kv_heads");
  StackShape shape;
  shape.hidden = hidden;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.cache_type = cache_type_of(kv_dtype);
  for (const auto& [frequencies, factor] : ropes) {
    const std::size_t count = frequencies.shape(0);
    require(count > 0 && count <= std::size_t(head_dim / 2), "a rotary frequency per pair of a head, or fewer");
    shape.ropes.push_back({{frequencies.data(), frequencies.data() + count}, factor});
  }
  return shape;
}

using OneOrSeveral = std::variant<MatrixHandle, std::vector<MatrixHandle>>;

std::vector<nb::object> borrowed(const OneOrSeveral& matrices) {
  if (const MatrixHandle* one = std::get_if<MatrixHandle>(&matrices)) return {nb::borrow(*one)};
  std::vector<nb::object> objects;
  for (const MatrixHandle& matrix : std::get<std::vector<MatrixHandle>>(matrices)) objects.push_back(nb::borrow(matrix));
  return objects;
}

void init_mixture(PyMixture* self, MatrixHandle router, const std::vector<OneOrSeveral>& gate_up,
                  const std::vector<MatrixHandle>& down, int top_k, bool is_normalised) {
  require(!down.empty() && gate_up.size() == down.size(), "the matrices of at least one expert");
  require(top_k >= 1 && top_k <= int(down.size()), "a token takes one of the experts, or more");
  std::vector<std::vector<nb::object>> gates;
  for (const OneOrSeveral& matrices : gate_up) gates.push_back(borrowed(matrices));
  new (self) PyMixture{nb::borrow(router), std::move(gates), borrowed(down), top_k, is_normalised};
}

void init_layer(PyLayer* self, const OneOrSeveral& qkv, MatrixHandle output, const OneOrSeveral& gate_up,
                std::optional<MatrixHandle> down, std::optional<nb::handle_t<PyMixture>> mixture,
                std::optional<Vector> attention_norm, std::optional<Vector> hidden_norm,
                std::optional<Vector> attention_post_norm, std::optional<Vector> mlp_norm, std::optional<Vector> mlp_post_norm,
                std::optional<Vector> query_norm, std::optional<Vector> key_norm, bool residual_is_normed, bool wide_norms,
                float eps, const std::string& activation, int window, int rope, std::optional<float> scale, float softcap,
                float residual_multiplier) {
  Layer options;
  options.residual_is_normed = residual_is_normed;
  options.wide_norms = wide_norms;
  options.eps = eps;
  options.activation = function_of(activation);
  options.window = window;
  options.rope = rope;
  options.attention_scale = scale.value_or(0.0f);
  options.attention_softcap = softcap;
  options.residual_multiplier = residual_multiplier;
  require(window >= 0 && softcap >= 0 && options.attention_scale >= 0, "a window, a softcap and a scale of at least 0");
  require(down.has_value() != mixture.has_value(), "an MLP or a mixture of experts");
  new (self) PyLayer{borrowed(qkv),
                     borrowed(gate_up),
                     nb::borrow(output),
                     down ? nb::borrow(*down) : nb::none(),
                     mixture ? nb::borrow(*mixture) : nb::none(),
                     std::move(attention_norm),
                     std::move(hidden_norm),
                     std::move(attention_post_norm),
                     std::move(mlp_norm),
                     std::move(mlp_post_norm),
                     std::move(query_norm),
                     std::move(key_norm),
                     options};
}

}  // namespace

const float* PyStack::norm(const std::optional<Vector>& weights, int size) {
  if (!weights) return nullptr;
  require(weights->shape(0) == std::size_t(size), "a norm as wide as what it norms");
  norms.push_back(std::make_unique<std::vector<float>>(padded(*weights)));
  return norms.back()->data();
}

const PackedMatrix& PyStack::matrix(const nb::object& matrix) {
  owners.push_back(matrix);
  return nb::cast<const Matrix&>(matrix).packed;
}

std::vector<PackedMatrix> PyStack::matrices(const std::vector<nb::object>& given) {
  std::vector<PackedMatrix> packed;
  for (const nb::object& object : given) packed.push_back(matrix(object));
  return packed;
}

namespace {

// Whether the matrices read `k` numbers, and have the outputs in `one`, or each of those in `several`.
bool fit(const std::vector<PackedMatrix>& matrices, int k, int one, const std::vector<int>& several) {
  const std::vector<int> outputs = matrices.size() == 1 ? std::vector<int>{one} : several;
  if (matrices.size() != outputs.size()) return false;
  for (std::size_t i = 0; i < outputs.size(); ++i)
    if (matrices[i].k != k || matrices[i].n != outputs[i]) return false;
  return true;
}

// Whether these are the matrices of a gated MLP of `hidden` numbers.
bool fit_mlp(const std::vector<PackedMatrix>& gate_up, const PackedMatrix& down, int hidden) {
  const int inner = down.k;
  return down.n == hidden && fit(gate_up, hidden, 2 * round_up(inner, kLanes), {inner, inner});
}

}  // namespace

Mixture PyStack::mixture(const PyMixture& given, const StackShape& shape) {
  Mixture mixture;
  mixture.router = matrix(given.router);
  mixture.top_k = given.top_k;
  mixture.is_normalised = given.is_normalised;
  require(mixture.router.n == int(given.down.size()) && mixture.router.k == shape.hidden, "a router to the experts");
  for (std::size_t e = 0; e < given.down.size(); ++e) {
    mixture.experts.push_back({matrices(given.gate_up[e]), matrix(given.down[e])});
    const Expert &expert = mixture.experts.back(), &first = mixture.experts.front();
    bool same =
        expert.gate_up.size() == first.gate_up.size() && expert.down.k == first.down.k && expert.down.format == first.down.format;
    for (std::size_t i = 0; same && i < first.gate_up.size(); ++i) same = expert.gate_up[i].format == first.gate_up[i].format;
    require(same && fit_mlp(expert.gate_up, expert.down, shape.hidden), "experts of one size and format that fit the layer");
  }
  return mixture;
}

Layer PyStack::layer(const PyLayer& given, const StackShape& shape) {
  const int width = shape.query_width(), kv_width = shape.key_width();
  Layer layer = given.options;
  layer.attention_norm = norm(given.attention_norm, shape.hidden);
  layer.hidden_norm = norm(given.hidden_norm, shape.hidden);
  require(!layer.hidden_norm || layer.attention_norm, "a norm of the embedding beside that of the hidden state");
  layer.attention_post_norm = norm(given.attention_post_norm, shape.hidden);
  layer.mlp_norm = norm(given.mlp_norm, shape.hidden);
  layer.mlp_post_norm = norm(given.mlp_post_norm, shape.hidden);
  layer.query_norm = norm(given.query_norm, layer.wide_norms ? width : shape.head_dim);
  layer.key_norm = norm(given.key_norm, layer.wide_norms ? kv_width : shape.head_dim);
  layer.qkv = matrices(given.qkv);
  layer.output = matrix(given.output);
  if (!given.mixture.is_none()) {
    layer.mixture = mixture(nb::cast<const PyMixture&>(given.mixture), shape);
  } else {
    layer.gate_up = matrices(given.gate_up);
    layer.down = matrix(given.down);
    require(fit_mlp(layer.gate_up, layer.down, shape.hidden), "matrices that do not fit the layer");
  }
  if (layer.attention_scale == 0) layer.attention_scale = 1.0f / std::sqrt(float(shape.head_dim));
  require(layer.rope >= -1 && layer.rope < int(shape.ropes.size()), "a rotary embedding of the stack's, or -1");
  const int inputs = layer.hidden_norm ? 2 * shape.hidden : shape.hidden;
  require(fit(layer.qkv, inputs, width + 2 * kv_width, {width, kv_width, kv_width}) && layer.output.n == shape.hidden &&
              layer.output.k == width,
          "matrices that do not fit the layer");
  return layer;
}

PyStack::PyStack(std::shared_ptr<Engine> engine_, const StackShape& shape, const std::vector<PyLayer*>& layers,
                 std::optional<Vector> final_norm, float final_eps)
    : engine(std::move(engine_)) {
  require(!layers.empty(), "a stack needs a layer");
  std::vector<Layer> made;
  for (const PyLayer* given : layers) {
    require(given != nullptr, "a layer that is None");
    made.push_back(layer(*given, shape));
    require(made.size() == 1 || !made.back().hidden_norm, "only the first layer reads embeddings");
  }
  const float* last = norm(final_norm, shape.hidden);
  stack = std::make_unique<Stack>(engine->kernels, engine->pool, shape, std::move(made), last, final_eps);
}

namespace {

// Tokens in memory of `width` floats each, zeros behind.
float* with_padding(const Tokens& x, std::size_t width, Buffer& buffer) {
  const std::size_t count = x.shape(0), hidden = x.shape(1);
  buffer.reserve(count * width * sizeof(float));
  float* rows = buffer.as<float>();
  for (std::size_t t = 0; t < count; ++t) {
    std::memcpy(rows + t * width, x.data() + t * hidden, sizeof(float) * hidden);
    std::fill(rows + t * width + hidden, rows + (t + 1) * width, 0.0f);
  }
  return rows;
}

}  // namespace

Out<float> PyStack::forward(PyCache& cache, const Tokens& x, const std::optional<Ids>& parents,
                            const std::optional<Tokens>& embeddings) {
  const std::size_t count = x.shape(0), hidden = std::size_t(stack->shape().hidden), width = std::size_t(stack->stride());
  require(count > 0 && x.shape(1) == hidden, "tokens of the stack's hidden size");
  require(embeddings.has_value() == stack->reads_embeddings(), "embeddings for a stack that reads them, and no other");
  require(!embeddings || (embeddings->shape(0) == count && embeddings->shape(1) == hidden), "an embedding for each token");
  const std::vector<int> above = to_parents(parents, count);
  cache.admit(stack->cache_shape(0), int(count), parents ? above.data() : nullptr);
  Out<float> out = new_array<float>({count, hidden});
  float* result = out.data();
  {
    const nb::gil_scoped_release release;
    const auto turn = engine->pool.hold();
    float* state = with_padding(x, width, states);
    const float* others = embeddings ? with_padding(*embeddings, width, beside) : nullptr;
    stack->forward({{&cache.cache, int(count), parents ? above.data() : nullptr}}, state, {}, others);
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
          [](StackShape* self, int hidden, int heads, int kv_heads, int head_dim,
             const std::vector<std::pair<Vector, float>>& ropes, const std::string& kv_dtype) {
            new (self) StackShape(make_shape(hidden, heads, kv_heads, head_dim, ropes, kv_dtype));
          },
          nb::kw_only(), "hidden"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "ropes"_a, "kv_dtype"_a,
          "`ropes` holds the rotary embeddings that layers refer to: (rotated numbers / 2,) inverse\n"
          "frequencies, and the factor of the cosines and sines.");
  nb::class_<PyMixture>(m, "Mixture")
      .def("__init__", &init_mixture, nb::kw_only(), "router"_a, "gate_up"_a, "down"_a, "top_k"_a, "is_normalised"_a = true,
           "Experts' matrices, of each as a layer has them, and the router's (experts, H). Of each token the\n"
           "`top_k` best are taken; `is_normalised`: their weights sum to 1.");
  nb::class_<PyLayer>(m, "Layer")
      .def("__init__", &init_layer, nb::kw_only(), "qkv"_a, "output"_a, "gate_up"_a = nb::list(), "down"_a.none() = nb::none(),
           "mixture"_a.none() = nb::none(), "attention_norm"_a.none() = nb::none(), "hidden_norm"_a.none() = nb::none(),
           "attention_post_norm"_a.none() = nb::none(), "mlp_norm"_a.none() = nb::none(), "mlp_post_norm"_a.none() = nb::none(),
           "query_norm"_a.none() = nb::none(), "key_norm"_a.none() = nb::none(), "residual_is_normed"_a = false,
           "wide_norms"_a = false, "eps"_a = 1e-6, "activation"_a = "silu", "window"_a = 0, "rope"_a = 0,
           "scale"_a.none() = nb::none(), "softcap"_a = 0.0f, "residual_multiplier"_a = 1.0f,
           "Matrices and options of one layer; what is not given is absent. Where formats differ, `qkv` is a\n"
           "list of three matrices and `gate_up` one of two; a mixture of experts stands in place of `gate_up`\n"
           "and `down`. A layer with `hidden_norm` reads embeddings beside the hidden states. `rope` counts the\n"
           "stack's, -1 is none; `scale` None is head_dim^(-1/2).");
  nb::class_<PyStack>(m, "Stack")
      .def(nb::init<std::shared_ptr<Engine>, const StackShape&, const std::vector<PyLayer*>&, std::optional<Vector>, float>(),
           "engine"_a, "shape"_a, "layers"_a, "final_norm"_a.none() = nb::none(), "final_eps"_a = 1e-6)
      .def_prop_ro("num_layers", [](const PyStack& s) { return s.stack->num_layers(); })
      .def(
          "new_cache", [](const PyStack& s, int limit) { return std::make_unique<PyCache>(s.stack->cache_shape(limit)); },
          "limit"_a)
      .def("forward", &PyStack::forward, "cache"_a, "x"_a, "parents"_a.none() = nb::none(), "embeddings"_a.none() = nb::none(),
           "Append the tokens (T, H) under `parents` (None: a chain); returns their outputs (T, H). `embeddings`\n"
           "(T, H) are for a stack whose first layer reads them.");
}

}  // namespace eyas
