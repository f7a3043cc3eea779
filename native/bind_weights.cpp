// Engines and packed matrices for Python.

#include <chrono>

#include "bindings.h"

namespace eyas {

namespace {

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

}  // namespace

Matrix::Matrix(const std::string& kind, int n, int k, Bytes data_, std::optional<Vector> scale_, std::optional<Vector> bias_)
    : data(std::move(data_)) {
  packed.kind = kind_of(kind);
  packed.n = n;
  packed.k = k;
  require(n > 0 && k > 0 && k < 60'000, "a matrix needs outputs, and 1 to 59,999 inputs");
  require(data.shape(0) == packed.bytes(), "bytes that do not fit the matrix");
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

namespace {

nb::tuple py_pack(nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> rows, const std::string& kind) {
  Packed w;
  w.kind = kind_of(kind);
  w.n = int(rows.shape(0));
  w.k = int(rows.shape(1));
  const bool bf16 = rows.dtype() == nb::dtype<std::uint16_t>();
  require(bf16 || rows.dtype() == nb::dtype<float>(), "float32, or bfloat16 as uint16");
  Out<std::uint8_t> data = new_array<std::uint8_t>({w.bytes()});
  Out<float> scale = new_array<float>({w.kind == Kind::I8 ? std::size_t(w.blocks()) * kBlock : 0});
  std::size_t bad;
  {
    const nb::gil_scoped_release release;
    bad = pack(rows.data(), bf16, w.kind, w.n, w.k, data.data(), scale.data());
  }
  return nb::make_tuple(data, scale, bad);
}

// Bytes of a packed matrix, and the number of its scales.
std::pair<std::size_t, std::size_t> packed_sizes(const std::string& kind, int n, int k) {
  Packed w;
  w.kind = kind_of(kind);
  w.n = n;
  w.k = k;
  return {w.bytes(), w.kind == Kind::I8 ? std::size_t(w.blocks()) * kBlock : 0};
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

void bind_weights(nb::module_& m) {
  m.def("best_isa", [] { return std::string(find_kernels(nullptr)->name); });
  m.def("has_isa", [](const std::string& name) { return find_kernels(name.c_str()) != nullptr; });
  m.def("pack", &py_pack, "rows"_a, "kind"_a);
  m.def("packed_sizes", &packed_sizes, "kind"_a, "n"_a, "k"_a);

  nb::class_<Engine>(m, "Engine")
      .def(
          "__init__",
          [](Engine* self, int threads, std::optional<std::string> isa) { new (self) Engine(kernels_of(isa), threads); },
          "threads"_a, "isa"_a.none() = nb::none())
      .def_prop_ro("isa", [](const Engine& e) { return std::string(e.kernels.name); })
      .def_prop_ro("threads", [](const Engine& e) { return e.team.threads(); })
      .def("read_bandwidth", &read_bandwidth, "data"_a);
  nb::class_<Matrix>(m, "Matrix")
      .def(nb::init<const std::string&, int, int, Bytes, std::optional<Vector>, std::optional<Vector>>(), "kind"_a, "n"_a, "k"_a,
           "data"_a, "scale"_a.none() = nb::none(), "bias"_a.none() = nb::none());
}

}  // namespace eyas
