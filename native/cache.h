// Keys and values of one sequence in one network: committed rows, then pending ones that form a tree.
#pragma once

#include <memory>
#include <vector>

#include "types.h"

namespace eyas {

// What a network's layers want to keep.
struct CacheShape {
  Kind kind = Kind::F32;
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int limit = 0;  // positions
};

class Cache {
 public:
  explicit Cache(const CacheShape& shape);

  int length() const { return length_; }
  int num_pending() const { return int(parents_.size()); }
  int num_slots() const { return length_ + num_pending(); }
  const CacheShape& shape() const { return shape_; }

  // Whether `count` rows under `parents` (among the pending rows, -1 is the prefix; null: a chain) may be appended.
  // Returns what is wrong with them, or an empty string; makes room for them.
  const char* admit(int count, const int* parents);
  // Makes the admitted rows pending.
  void append(int count, const int* parents);
  // Depth among the pending rows, for rows that are admitted or pending.
  int depth(int row) const { return depths_[std::size_t(row)]; }
  // How many of the slots that it sees lie behind a gap.
  int scattered(int row) const { return length_ + depth(row) + 1 - straight_[std::size_t(row)]; }
  // The keys that pending row `row` sees, window included (0: unlimited). `rest` receives the slots behind the
  // contiguous ones and must have room for them.
  View view(int row, int window, int* rest) const;

  // Keep the pending rows of `path`, each the parent of the next, and drop the others. False if it is no path.
  bool commit(const std::vector<int>& path);
  void truncate(int length);
  // A cache with a copy of the first `length` committed rows.
  Cache fork(int length) const;

  LayerStore layer(int index) const;
  std::size_t bytes() const { return bytes_; }

 private:
  void reserve(int slots);
  // Copies the first `slots` slots of `from`, whose shape is this one's, into slots that are there.
  void copy(const Cache& from, int slots);
  void move(int from, int to);

  CacheShape shape_;
  int length_ = 0;
  int capacity_ = 0;
  std::size_t bytes_ = 0;
  std::vector<int> parents_;
  std::vector<int> depths_;
  std::vector<int> straight_;  // slots that a row sees without a gap: all below this number
  std::unique_ptr<std::uint8_t, void (*)(void*)> memory_;
};

}  // namespace eyas
