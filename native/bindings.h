// What the parts of the Python module share: arrays, checks, and the classes that more than one part knows.
// The classes are thin ones over the engine; every long call lets go of the GIL.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>

#include "network.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace eyas {

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

inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// Floats with zeros behind, for loops over whole vectors.
inline std::vector<float> padded(const Vector& x) {
  std::vector<float> out(std::size_t(round_up(int(x.shape(0)), kBlock)), 0.0f);
  std::memcpy(out.data(), x.data(), sizeof(float) * x.shape(0));
  return out;
}

// A packed matrix with whatever owns its bytes.
struct Matrix {
  Packed packed;
  Bytes data;
  std::vector<float> scale, bias;

  Matrix(const std::string& kind, int n, int k, Bytes data, std::optional<Vector> scale, std::optional<Vector> bias);
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
  require(parents->shape(0) == count, "one parent per row");
  std::vector<int> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t parent = parents->data()[i];
    require(parent >= -1 && parent <= std::numeric_limits<int>::max(), "a parent is a pending row, or -1");
    out[i] = int(parent);
  }
  return out;
}

struct PyStack {
  std::shared_ptr<Engine> engine;
  std::vector<nb::object> owners;
  std::vector<std::unique_ptr<std::vector<float>>> norms;
  std::unique_ptr<Stack> stack;
  Buffer rows;

  PyStack(std::shared_ptr<Engine> engine, const StackShape& shape, nb::list layers, std::optional<Vector> final_norm);
  Out<float> forward(PyCache& cache, const Rows& x, const std::optional<Ids>& parents);

 private:
  const float* norm(const nb::dict& layer, const char* name, int size);
  const Packed& matrix(const nb::dict& layer, const char* name);
  Layer layer(const nb::dict& weights, const StackShape& shape);
};

struct PyHead {
  std::shared_ptr<Engine> engine;
  std::vector<nb::object> owners;
  std::unique_ptr<Head> head;
  int k = 0;
  int rows = 0;  // of the last forward
  Buffer inputs;

  // An answer's length, and its ids where a sampler needs them.
  using Generated = std::vector<std::pair<int, std::vector<int>>>;

  PyHead(std::shared_ptr<Engine> engine, std::vector<nb::object> matrices);
  void forward(const Rows& x);
  nb::object top_k(const Rows& x, int wanted);
  std::vector<int> choose(const std::vector<int>& which, const std::vector<Sampler*>& samplers, const Generated& generated);
  nb::object coupled(const Rows& x, int wanted, Sampler& sampler, const Ids& ids, const Generated& generated, double scale);
  Out<float> logits(int row);
  int argmax(int row);

 private:
  void compute(const Rows& x);  // with the team held, and without the GIL
  nb::object to_arrays(const Best& best, int count) const;
};

void bind_weights(nb::module_& m);   // Engine, Matrix, packing
void bind_stack(nb::module_& m);     // Cache, StackShape, Stack
void bind_head(nb::module_& m);      // Linear, Sampler, Head
void bind_target(nb::module_& m);    // Target
void bind_drafting(nb::module_& m);  // Candidates, Growth

}  // namespace eyas
