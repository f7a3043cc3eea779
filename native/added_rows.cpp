#include "added_rows.h"

#include <cstring>
#include <stdexcept>

#include "quantise.h"

namespace eyas {

AddedRows::AddedRows(const RowSource& source, int capacity)
    : source_(source), capacity_(round_up(capacity, kBlock)), numbers_(std::size_t(source.table.k)) {
  const PackedMatrix whole(*source_.format, capacity_, source_.table.k);
  data_.reserve(whole.bytes());
  if (whole.format->has_scales) scale_.reserve(sizeof(float) * std::size_t(capacity_));
}

AddedRows::AddedRows(const AddedRows& other, int capacity) : AddedRows(other.source_, capacity) {
  count_ = other.count_;
  const PackedMatrix known = other.first(count_);
  std::memcpy(data_.as<std::uint8_t>(), known.data, known.bytes());
  if (known.scale) std::memcpy(scale_.as<float>(), known.scale, sizeof(float) * std::size_t(count_));
}

void AddedRows::add(const std::vector<std::int64_t>& rows) {
  for (const std::int64_t row : rows) add_row(int(row));
}

void AddedRows::add_row(int row) {
  const WeightFormat& format = *source_.format;
  const int k = source_.table.k;
  source_.table.read(row, numbers_.data());
  WeightRows weights{numbers_.data()};
  std::size_t bad = 0;
  if (format.is_from_file()) {
    blocks_.resize(format.row_bytes(k));
    bad = quantise_rows(weights, 1, k, *find_block_quantiser(format.name), blocks_.data(), 1);
    weights.data = blocks_.data();
  }
  if (!bad) bad = format.pack(weights, count_, 1, k, data_.as<std::uint8_t>(), scale_.as<float>());
  if (bad) throw std::overflow_error("a row of weights that the format cannot hold");
  ++count_;
}

PackedMatrix AddedRows::first(int n) const {
  PackedMatrix matrix(*source_.format, n, source_.table.k);
  matrix.data = data_.as<std::uint8_t>();
  if (matrix.format->has_scales) matrix.scale = scale_.as<float>();
  return matrix;
}

}  // namespace eyas
