// Keys and values of one sequence in one network: committed tokens, then pending ones that form a tree.
#pragma once

#include <memory>
#include <vector>

#include "types.h"

namespace eyas {

// What a network's layers keep.
struct CacheShape {
  CacheType type = CacheType::Float32;
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

  // Whether `count` tokens under `parents` (among the pending tokens, -1 is the prefix; null: a chain) may be appended.
  // Returns what is wrong with them, or an empty string; makes room for them.
  const char* admit(int count, const int* parents);
  // Makes the admitted tokens pending.
  void append(int count, const int* parents);
  // Depth among the pending tokens.
  int depth(int token) const { return depths_[std::size_t(token)]; }
  // Number of slots that a token sees behind a gap.
  int scattered(int token) const { return length_ + depth(token) + 1 - straight_[std::size_t(token)]; }
  // The keys that a pending token sees in a window of positions (0: unlimited). `rest` receives the slots behind the
  // contiguous ones and must have room for them.
  View view(int token, int window, int* rest) const;

  // Keep the pending tokens of `path`, each the parent of the next, and drop the others. False if it is no path.
  bool commit(const std::vector<int>& path);
  void truncate(int length);
  // A cache with a copy of the first `length` committed tokens.
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
  std::vector<int> straight_;  // slots that a token sees without a gap: all below this number
  std::unique_ptr<std::uint8_t, void (*)(void*)> memory_;
};

}  // namespace eyas
