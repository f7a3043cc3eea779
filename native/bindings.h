// What the parts of the Python module share: arrays, checks, and the classes that several of them use.
// The classes are thin wrappers of the engine's; every long call releases the GIL.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <variant>

#include "network.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace eyas {

using Tokens = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bits = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
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

inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// Floats with zeros behind, for loops over whole vectors.
inline std::vector<float> padded(const Vector& x) {
  std::vector<float> out(std::size_t(round_up(int(x.shape(0)), kBlock)), 0.0f);
  std::memcpy(out.data(), x.data(), sizeof(float) * x.shape(0));
  return out;
}

// A packed matrix and the owners of its memory.
struct Matrix {
  PackedMatrix packed;
  Bytes data;
  std::vector<float> scale, bias;

  Matrix(const std::string& format, int n, int k, Bytes data, std::optional<Vector> scale, std::optional<Vector> bias);
};

using MatrixHandle = nb::handle_t<Matrix>;

// (n, k) float32, bfloat16 as uint16, or (n, bytes of a row) in a format of files.
using StoredRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
StoredTable to_table(const StoredRows& table, const std::optional<std::string>& format);

struct PyRowSource {
  nb::object table_owner;
  RowSource source;

  PyRowSource(const StoredRows& table, const std::optional<std::string>& table_format, const std::string& format);
};

struct PyCache {
  Cache cache;
  explicit PyCache(const CacheShape& shape) : cache(shape) {}
  explicit PyCache(Cache own) : cache(std::move(own)) {}

  void commit(const std::vector<int>& path);
  void truncate(int length);
  std::unique_ptr<PyCache> fork(int length) const;
  // Makes room for a call of a network with caches of `shape`; what does not fit is an error before any work.
  void admit(const CacheShape& shape, int count, const int* parents);
};

inline std::vector<int> to_parents(const std::optional<Ids>& parents, std::size_t count) {
  if (!parents) return {};
  require(parents->shape(0) == count, "one parent per token");
  std::vector<int> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t parent = parents->data()[i];
    require(parent >= -1 && parent <= std::numeric_limits<int>::max(), "a parent is a pending token, or -1");
    out[i] = int(parent);
  }
  return out;
}

// A mixture's weights as Python gives them; of class Matrix.
struct PyMixture {
  nb::object router;
  std::vector<std::vector<nb::object>> gate_up;  // of each expert
  std::vector<nb::object> down;
  int top_k;
  bool is_normalised;
};

// A layer's weights and options as Python gives them; a stack checks them against its shape.
struct PyLayer {
  std::vector<nb::object> qkv, gate_up;  // of class Matrix
  nb::object output, down;
  nb::object mixture;  // of class Mixture, or None; then there is neither gate_up nor down
  std::optional<Vector> attention_norm, hidden_norm, attention_post_norm, mlp_norm, mlp_post_norm, query_norm, key_norm;
  Layer options;  // everything else
};

struct PyStack {
  std::shared_ptr<Engine> engine;
  std::vector<nb::object> owners;
  std::vector<std::unique_ptr<std::vector<float>>> norms;
  std::unique_ptr<Stack> stack;
  Buffer states, beside;

  PyStack(std::shared_ptr<Engine> engine, const StackShape& shape, const std::vector<PyLayer*>& layers,
          std::optional<Vector> final_norm, float final_eps);
  Out<float> forward(PyCache& cache, const Tokens& x, const std::optional<Ids>& parents, const std::optional<Tokens>& embeddings);

 private:
  const float* norm(const std::optional<Vector>& weights, int size);
  const PackedMatrix& matrix(const nb::object& matrix);
  std::vector<PackedMatrix> matrices(const std::vector<nb::object>& matrices);
  Mixture mixture(const PyMixture& given, const StackShape& shape);
  Layer layer(const PyLayer& given, const StackShape& shape);
};

struct PyLMHead {
  std::shared_ptr<Engine> engine;
  std::vector<nb::object> owners;
  const RowSource* source = nullptr;  // of rows that `plus` adds
  std::unique_ptr<LMHead> head;
  int k = 0;
  int tokens = 0;  // of the last forward
  Buffer inputs;

  // (T, k) token ids and log-probabilities; none if a logit is not a number.
  using TopK = std::optional<std::pair<Out<std::int64_t>, Out<double>>>;
  // Of each answer its length, its ids if the sampler reads them, and the tokens that it allows next.
  using Generated = std::vector<std::tuple<int, std::vector<int>, std::optional<Bits>>>;

  PyLMHead(std::shared_ptr<Engine> engine, const std::vector<MatrixHandle>& matrices, float scale, float softcap,
           const std::optional<Ids>& token_ids, std::optional<nb::handle_t<PyRowSource>> more, const std::optional<Vector>& norm,
           float eps);
  PyLMHead(PyLMHead& before, std::unique_ptr<LMHead> grown);
  std::unique_ptr<PyLMHead> plus(std::vector<std::int64_t> ids);
  void forward(const Tokens& x);
  TopK top_k(const Tokens& x, int wanted);
  std::vector<int> choose(const std::vector<int>& which, const std::vector<Sampler*>& samplers, const Generated& generated);
  std::pair<std::vector<int>, std::vector<int>> follow(int first, const Ids& token_ids, const Ids& parents, Sampler* sampler,
                                                       const Generated& generated);
  TopK coupled(const Tokens& x, int wanted, Sampler& sampler, const Generated& generated, double scale);
  Out<std::int64_t> token_ids() const;
  Out<float> logits(int token);
  int argmax(int token);

 private:
  void compute(const Tokens& x);  // with the thread pool held, and without the GIL
  TopK to_arrays(const Best& best, int count) const;
};

struct PyTarget {
  using Calls = std::vector<std::tuple<PyCache*, Ids, std::optional<Ids>, bool>>;

  nb::object stack_owner, head_owner, embedding_owner;
  PyStack& stack;
  PyLMHead& head;
  std::unique_ptr<TargetNetwork> network;

  PyTarget(nb::handle_t<PyStack> stack, nb::handle_t<PyLMHead> head, const StoredRows& table, bool round, float scale,
           const std::optional<std::string>& format);
  std::pair<Out<float>, std::vector<Out<float>>> forward(const Calls& calls, const std::vector<int>& taps);
  // Rows as the table holds them: draft networks were trained with these, whatever a target's scale.
  Out<float> embed(const Ids& ids) const;

 private:
  void check_ids(const Ids& ids) const;
};

void bind_weights(nb::module_& m);   // Engine, Matrix, RowSource, packing
void bind_stack(nb::module_& m);     // Cache, StackShape, Layer, Stack
void bind_head(nb::module_& m);      // Linear, Sampler, LMHead
void bind_target(nb::module_& m);    // Target
void bind_drafting(nb::module_& m);  // TreeBuilder, EagleHead

}  // namespace eyas
