// Weight formats: how the numbers of a matrix are stored, and so how its products are computed.
//
// A format is one file, formats/<name>.inl, and its name in formats/table.inl. The file says how rows are packed, which
// activations the format multiplies, and its dot product over the vector primitives of an instruction set. Formats of
// numbers (float32, bfloat16, int8) are made from numbers; float16 and block formats (blocks.inl) from bytes of a file.
#pragma once

#include <vector>

#include "types.h"

namespace eyas {

// (n, k) weights as a model's file holds them: numbers, or blocks of the format.
struct WeightRows {
  const void* data = nullptr;
  bool is_bfloat16 = false;  // else float32; numbers only

  // Row `row` of k numbers in float32.
  void read(int row, int k, float* out) const;
};

struct WeightFormat {
  const char* name;
  ActivationFormat activations;  // that it multiplies
  bool has_scales;               // a float32 factor per output is stored apart
  int file_inputs;               // inputs of a block in a file; 0 for formats that are made from numbers
  int file_bytes;                // of such a block
  std::size_t (*block_bytes)(int k);
  // Packs (n, k) weights as the outputs from `first` on; blocks that begin with one of them are cleared before. `out` and
  // `scale` (blocks * 32,), which is filled where the format has them, are those of the whole matrix. Returns the number of
  // weights that are not finite, or of blocks whose scales are not.
  std::size_t (*pack)(const WeightRows& rows, int first, int n, int k, std::uint8_t* out, float* scale);
  // The k numbers of a row of a file's blocks in float32; null for formats that are made from numbers.
  void (*unpack_row)(const std::uint8_t* row, int k, float* out);

  bool is_from_file() const { return file_inputs > 0; }
  std::size_t row_bytes(int k) const { return std::size_t(k / file_inputs) * std::size_t(file_bytes); }  // in a file

  int index() const;  // in the table
};

extern const WeightFormat* const kWeightFormats;  // the table
extern const int kNumWeightFormats;

inline int WeightFormat::index() const { return int(this - kWeightFormats); }

// Null if there is none of that name.
const WeightFormat* find_weight_format(const char* name);

// A table of n rows of k weights as it lies in a model's file.
struct StoredTable {
  WeightRows rows;
  const WeightFormat* format = nullptr;  // of its rows; null for float32 and bfloat16
  int n = 0;
  int k = 0;

  // A row in float32.
  void read(int row, float* out) const;
};

// A matrix (n, k) in blocks of 32 outputs, so that one pass over the matrix is one straight read of memory. Inside a block
// the inputs follow each other in groups of 128 bytes, 4 bytes for each output: 1 input in float32, 2 in bfloat16, 4 in int8.
//
//     bfloat16:  [block][k / 2][32 outputs][2 inputs]
//     Q4_K:      [block][k / 256][scales of 32 outputs, then the integers]
struct PackedMatrix {
  const WeightFormat* format = nullptr;
  int n = 0;
  int k = 0;
  std::size_t block_bytes = 0;
  const std::uint8_t* data = nullptr;
  const float* scale = nullptr;  // (blocks * 32,) per output, or none
  const float* bias = nullptr;   // (blocks * 32,), or none

  PackedMatrix() = default;
  PackedMatrix(const WeightFormat& format, int n, int k) : format(&format), n(n), k(k), block_bytes(format.block_bytes(k)) {}

  int blocks() const { return (n + kBlock - 1) / kBlock; }
  const std::uint8_t* block(int index) const { return data + std::size_t(index) * block_bytes; }
  std::size_t bytes() const { return std::size_t(blocks()) * block_bytes; }
};

// Matrices over the same inputs, which may differ in format: one, or several whose outputs follow each other, those of each
// from a multiple of 32 on.
struct MatrixGroup {
  const PackedMatrix* parts;
  int count;

  MatrixGroup(const PackedMatrix& matrix) : parts(&matrix), count(1) {}
  MatrixGroup(const std::vector<PackedMatrix>& matrices) : parts(matrices.data()), count(int(matrices.size())) {}

  int blocks() const {
    int sum = 0;
    for (int i = 0; i < count; ++i) sum += parts[i].blocks();
    return sum;
  }
  // The part that holds block `index` of all; `index` becomes its number there.
  int part_of(int& index) const {
    int part = 0;
    for (; part + 1 < count && index >= parts[part].blocks(); ++part) index -= parts[part].blocks();
    return part;
  }
  const std::uint8_t* block(int index) const {
    const int part = part_of(index);
    return parts[part].block(index);
  }
};

}  // namespace eyas
