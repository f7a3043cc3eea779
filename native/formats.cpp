#include "formats.h"

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "half.h"

namespace eyas {

// Of the formats only the storage is used here, which is the same on every instruction set.
namespace storage {
#include "simd_portable.h"
#include "tiles.inl"
#include "blocks.inl"
#include "formats/table.inl"

template <class Format>
std::size_t pack_numbers(const WeightRows& rows, int first, int n, int k, std::uint8_t* out, float* scale) {
  const std::size_t bytes = Format::block_bytes(k);
  const int padded_k = round_up(k, Format::kGroup), end = first + n;
  std::vector<float> row(std::size_t(padded_k), 0.0f);
  clear_blocks(out, bytes, first, end, Format::kPadding);
  if (Format::kHasScales) clear_blocks(reinterpret_cast<std::uint8_t*>(scale), sizeof(float) * kBlock, first, end, 0);
  std::size_t bad = 0;
  for (int o = first; o < end; ++o) {
    rows.read(o - first, k, row.data());
    for (int i = 0; i < k; ++i) bad += !std::isfinite(row[std::size_t(i)]);
    std::uint8_t* block = out + std::size_t(o / kBlock) * bytes;
    Format::pack_row(row.data(), padded_k, o % kBlock, block, Format::kHasScales ? scale + o : nullptr);
  }
  return bad;
}

template <class Format>
constexpr WeightFormat row_of() {
  WeightFormat row = {};
  row.name = Format::kName;
  row.activations = Format::kActivations;
  row.has_scales = Format::kHasScales;
  row.block_bytes = Format::block_bytes;
  if constexpr (Format::kFileBytes > 0) {
    row.file_inputs = Format::kInputs;
    row.file_bytes = Format::kFileBytes;
    row.pack = Format::pack;
    row.unpack_row = Format::unpack_row;
  } else {
    row.pack = pack_numbers<Format>;
  }
  return row;
}

template <class... Formats>
struct Table {
  static constexpr int size = int(sizeof...(Formats));
  static constexpr WeightFormat rows[] = {row_of<Formats>()...};
};
}  // namespace storage

using Formats = storage::OfAllFormats<storage::Table>;

const WeightFormat* const kWeightFormats = Formats::rows;
const int kNumWeightFormats = Formats::size;

const WeightFormat* find_weight_format(const char* name) {
  for (const WeightFormat& format : Formats::rows)
    if (std::strcmp(format.name, name) == 0) return &format;
  return nullptr;
}

void WeightRows::read(int row, int k, float* out) const {
  const std::size_t start = std::size_t(row) * std::size_t(k);
  if (!is_bfloat16) {
    std::memcpy(out, static_cast<const float*>(data) + start, sizeof(float) * std::size_t(k));
    return;
  }
  const std::uint16_t* bits = static_cast<const std::uint16_t*>(data) + start;
  for (int i = 0; i < k; ++i) {
    const std::uint32_t wide = std::uint32_t(bits[i]) << 16;
    std::memcpy(out + i, &wide, 4);
  }
}

void StoredTable::read(int row, float* out) const {
  if (!format) return rows.read(row, k, out);
  format->unpack_row(static_cast<const std::uint8_t*>(rows.data) + std::size_t(row) * format->row_bytes(k), k, out);
}

}  // namespace eyas
