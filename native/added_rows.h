// Rows that an LM head adds to its own.
#pragma once

#include <cstdint>
#include <vector>

#include "buffers.h"

namespace eyas {

// Where they come from, and how they are packed.
struct RowSource {
  StoredTable table;
  const WeightFormat* format;  // block formats are quantised to
};

// A matrix that grows within its capacity, row by row in any order.
class AddedRows {
 public:
  AddedRows(const RowSource& source, int capacity);
  // All rows of another one, with more room.
  AddedRows(const AddedRows& other, int capacity);

  int count() const { return count_; }
  int capacity() const { return capacity_; }
  // Adds rows of the table. Throws std::overflow_error for one that the format cannot hold.
  void add(const std::vector<std::int64_t>& rows);
  // The first `n` of them, as long as this lives.
  PackedMatrix first(int n) const;

 private:
  void add_row(int row);

  RowSource source_;
  int count_ = 0, capacity_;
  Buffer data_, scale_;
  std::vector<float> numbers_;        // of a row
  std::vector<std::uint8_t> blocks_;  // the same, quantised
};

}  // namespace eyas
