// Engines and packed matrices for Python.

#include <chrono>

#include "bindings.h"
#include "quantise.h"

namespace eyas {

namespace {

const WeightFormat& format_of(const std::string& name) {
  const WeightFormat* format = find_weight_format(name.c_str());
  require(format != nullptr, "an unknown weight format; weight_formats() lists them");
  return *format;
}

const Kernels& kernels_of(const std::optional<std::string>& isa) {
  const Kernels* kernels = find_kernels(isa ? isa->c_str() : nullptr);
  require(kernels != nullptr, "this machine does not have that instruction set");
  return *kernels;
}

}  // namespace

Matrix::Matrix(const std::string& format, int n, int k, Bytes data_, std::optional<Vector> scale_, std::optional<Vector> bias_)
    : data(std::move(data_)) {
  require(n > 0 && k > 0 && k < 60'000, "a matrix needs outputs, and 1 to 59,999 inputs");
  require(!format_of(format).is_from_file() || k % format_of(format).file_inputs == 0, "inputs in whole blocks of the format");
  packed = PackedMatrix(format_of(format), n, k);
  require(data.shape(0) == packed.bytes(), "bytes that do not fit the matrix");
  packed.data = data.data();
  if (packed.format->has_scales) {
    require(scale_ && scale_->shape(0) >= std::size_t(n), "a scale per output");
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

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Kernels* kernels : present_kernels()) names.push_back(kernels->name);
  return names;
}

std::vector<std::string> weight_formats() {
  std::vector<std::string> names;
  for (int i = 0; i < kNumWeightFormats; ++i) names.push_back(kWeightFormats[i].name);
  return names;
}

std::size_t num_scales(const PackedMatrix& w) { return w.format->has_scales ? std::size_t(w.blocks()) * kBlock : 0; }

// (n, k) numbers, or (n, bytes of a row) blocks; checks what `format` is made from.
PackedMatrix shape_of(const WeightFormat& format, const StoredRows& rows) {
  const int n = int(rows.shape(0)), columns = int(rows.shape(1));
  if (!format.is_from_file()) {
    require(rows.dtype() == nb::dtype<float>() || rows.dtype() == nb::dtype<std::uint16_t>(), "float32, or bfloat16 as uint16");
    return PackedMatrix(format, n, columns);
  }
  require(rows.dtype() == nb::dtype<std::uint8_t>() && columns % format.file_bytes == 0, "whole blocks of the format, as uint8");
  return PackedMatrix(format, n, columns / format.file_bytes * format.file_inputs);
}

std::tuple<Out<std::uint8_t>, Out<float>, std::size_t> py_pack(const StoredRows& rows, const std::string& format) {
  const PackedMatrix w = shape_of(format_of(format), rows);
  const WeightRows source{rows.data(), rows.dtype() == nb::dtype<std::uint16_t>()};
  Out<std::uint8_t> data = new_array<std::uint8_t>({w.bytes()});
  Out<float> scale = new_array<float>({num_scales(w)});
  std::size_t bad;
  {
    const nb::gil_scoped_release release;
    bad = w.format->pack(source, 0, w.n, w.k, data.data(), scale.data());
  }
  return {data, scale, bad};
}

Out<float> unpack(const StoredRows& rows, const std::string& format) {
  const StoredTable table = to_table(rows, format);
  Out<float> numbers = new_array<float>({std::size_t(table.n), std::size_t(table.k)});
  const nb::gil_scoped_release release;
  for (int row = 0; row < table.n; ++row) table.read(row, numbers.data() + std::size_t(row) * std::size_t(table.k));
  return numbers;
}

std::pair<Out<std::uint8_t>, std::size_t> py_quantise(const StoredRows& rows, const std::string& format, int threads) {
  const BlockQuantiser* quantiser = find_block_quantiser(format.c_str());
  require(quantiser != nullptr, "a format that nothing is quantised to");
  const std::size_t n = rows.shape(0), k = rows.shape(1), block = std::size_t(quantiser->block);
  require(k % block == 0, "rows that do not divide into the format's blocks");
  const WeightRows source{rows.data(), rows.dtype() == nb::dtype<std::uint16_t>()};
  require(source.is_bfloat16 || rows.dtype() == nb::dtype<float>(), "float32, or bfloat16 as uint16");
  Out<std::uint8_t> blocks = new_array<std::uint8_t>({n, k / block * std::size_t(quantiser->bytes)});
  std::size_t bad;
  {
    const nb::gil_scoped_release release;
    bad = quantise_rows(source, int(n), int(k), *quantiser, blocks.data(), threads);
  }
  return {blocks, bad};
}

std::pair<std::size_t, std::size_t> packed_sizes(const std::string& format, int n, int k) {
  const PackedMatrix w(format_of(format), n, k);
  return {w.bytes(), num_scales(w)};
}

// Bytes a second that all threads together read from memory.
double read_bandwidth(Engine& engine, const Bytes& data) {
  const nb::gil_scoped_release release;
  const std::size_t part = 1 << 20;
  const int parts = int(data.shape(0) / part);
  std::atomic<std::uint64_t> sum{0};
  const auto began = std::chrono::steady_clock::now();
  engine.pool.run([&](Phase& phase) {
    phase.each(parts, 1, [&](int begin, int end) {
      for (int i = begin; i < end; ++i) sum += engine.kernels.read(data.data() + std::size_t(i) * part, part);
    });
  });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  return double(std::size_t(parts) * part) / (took.count() + (sum.load() == 1 ? 1e-12 : 0.0));
}

}  // namespace

StoredTable to_table(const StoredRows& table, const std::optional<std::string>& format) {
  StoredTable made;
  made.format = format ? &format_of(*format) : nullptr;
  require(!made.format || made.format->is_from_file(), "a format of files: float16, or a block format");
  static const WeightFormat& numbers = format_of("float32");
  const PackedMatrix shape = shape_of(made.format ? *made.format : numbers, table);
  made.rows = {table.data(), table.dtype() == nb::dtype<std::uint16_t>()};
  made.n = shape.n;
  made.k = shape.k;
  return made;
}

PyRowSource::PyRowSource(const StoredRows& table, const std::optional<std::string>& table_format, const std::string& format)
    : table_owner(nb::cast(table)), source{to_table(table, table_format), &format_of(format)} {
  const BlockQuantiser* quantiser = find_block_quantiser(format.c_str());
  require(!source.format->is_from_file() || (quantiser && source.table.k % quantiser->block == 0),
          "a format that numbers are made to, whose blocks divide the rows");
}

void bind_weights(nb::module_& m) {
  m.def("isas", &isas, "Names of the instruction sets that this machine has, the best first.");
  m.def("weight_formats", &weight_formats, "Names of the formats that matrices may have.");
  m.def("pack", &py_pack, "rows"_a, "format"_a,
        "Packed bytes, scales per output, and how many of the (n, k) weights, or scales of blocks, are not\n"
        "finite. Formats of files are made from (n, bytes of a row).");
  m.def("unpack", &unpack, "rows"_a, "format"_a, "The float32 numbers of (n, bytes of a row) blocks.");
  m.def("quantise", &py_quantise, "rows"_a, "format"_a, "threads"_a = 1,
        "Rows of (n, k) weights as GGUF's blocks (n, bytes), and how many of the weights no format can hold.");
  m.def("packed_sizes", &packed_sizes, "format"_a, "n"_a, "k"_a, "Bytes of a packed matrix, and the number of its scales.");

  nb::class_<Engine>(m, "Engine")
      .def(
          "__init__",
          [](Engine* self, int threads, std::optional<std::string> isa) { new (self) Engine(kernels_of(isa), threads); },
          "threads"_a, "isa"_a.none() = nb::none())
      .def_prop_ro("isa", [](const Engine& e) { return std::string(e.kernels.name); })
      .def_prop_ro("threads", [](const Engine& e) { return e.pool.threads(); })
      .def("read_bandwidth", &read_bandwidth, "data"_a, "Bytes a second that all threads together read from `data`.");
  nb::class_<Matrix>(m, "Matrix")
      .def(nb::init<const std::string&, int, int, Bytes, std::optional<Vector>, std::optional<Vector>>(), "format"_a, "n"_a,
           "k"_a, "data"_a, "scale"_a.none() = nb::none(), "bias"_a.none() = nb::none());
  nb::class_<PyRowSource>(m, "RowSource",
                          "Rows of a table, packed in `format` when they are asked for. The table is (n, k) float32, bfloat16\n"
                          "as uint16, or (n, bytes of a row) in `table_format`.")
      .def(nb::init<const StoredRows&, const std::optional<std::string>&, const std::string&>(), "table"_a,
           "table_format"_a.none(), "format"_a);
}

}  // namespace eyas
