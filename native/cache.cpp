#include "cache.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace eyas {

namespace {
constexpr int kFirstCapacity = 256;

std::size_t layer_bytes(const CacheShape& shape, int capacity) {
  LayerStore store;
  store.type = shape.type;
  store.capacity = capacity;
  store.kv_heads = shape.kv_heads;
  store.head_dim = shape.head_dim;
  return std::size_t(shape.kv_heads) * (store.key_head_bytes() + store.value_head_bytes());
}
}  // namespace

Cache::Cache(const CacheShape& shape) : shape_(shape), memory_(nullptr, std::free) {}

const char* Cache::admit(int count, const int* parents) {
  const int start = num_pending();
  std::vector<int> depths = depths_;
  for (int i = 0; i < count; ++i) {
    const int parent = parents ? parents[i] : start + i - 1;
    if (parent < -1 || parent >= start + i) return "a parent that does not stand before its child";
    depths.push_back(parent < 0 ? 0 : depths[std::size_t(parent)] + 1);
    if (length_ + depths.back() >= shape_.limit) return "a token beyond the last position of the context";
  }
  reserve(num_slots() + count);
  return "";
}

void Cache::append(int count, const int* parents) {
  for (int i = 0; i < count; ++i) {
    const int token = num_pending();
    const int parent = parents ? parents[i] : token - 1;
    const int above = parent < 0 ? length_ : straight_[std::size_t(parent)];
    parents_.push_back(parent);
    depths_.push_back(parent < 0 ? 0 : depths_[std::size_t(parent)] + 1);
    straight_.push_back(above == length_ + token ? above + 1 : above);
  }
}

View Cache::view(int token, int window, int* rest) const {
  View view;
  view.contiguous = straight_[std::size_t(token)];
  view.rest = rest;
  const int position = length_ + depth(token);
  view.num_rest = scattered(token);
  for (int i = view.num_rest - 1, node = token; i >= 0; --i, node = parents_[std::size_t(node)]) rest[i] = length_ + node;
  const int first = window > 0 ? std::max(0, position + 1 - window) : 0;
  const int beyond = std::max(0, first - view.contiguous);  // a window that begins inside the scattered slots
  view.first = std::min(first, view.contiguous);
  view.rest += beyond;
  view.num_rest -= beyond;
  return view;
}

bool Cache::commit(const std::vector<int>& path) {
  for (std::size_t i = 0; i < path.size(); ++i) {
    if (path[i] < 0 || path[i] >= num_pending()) return false;
    if (parents_[std::size_t(path[i])] != (i ? path[i - 1] : -1)) return false;
  }
  for (std::size_t i = 0; i < path.size(); ++i) move(length_ + path[i], length_ + int(i));
  truncate(length_ + int(path.size()));
  return true;
}

void Cache::truncate(int length) {
  length_ = length;
  parents_.clear();
  depths_.clear();
  straight_.clear();
}

Cache Cache::fork(int length) const {
  Cache fork(shape_);
  fork.reserve(length);
  fork.copy(*this, length);
  fork.length_ = length;
  return fork;
}

LayerStore Cache::layer(int index) const {
  LayerStore store;
  store.type = shape_.type;
  store.capacity = capacity_;
  store.kv_heads = shape_.kv_heads;
  store.head_dim = shape_.head_dim;
  store.keys = memory_.get() + std::size_t(index) * layer_bytes(shape_, capacity_);
  store.values = store.keys + std::size_t(shape_.kv_heads) * store.key_head_bytes();
  return store;
}

void Cache::reserve(int slots) {
  if (slots <= capacity_) return;
  const int capacity = round_up(std::max(slots, std::max(kFirstCapacity, 2 * capacity_)), kKeyBlock);
  const std::size_t bytes = std::size_t(shape_.layers) * layer_bytes(shape_, capacity);
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) throw std::bad_alloc();
  Cache old(shape_);
  old.memory_ = std::move(memory_);
  old.capacity_ = capacity_;
  memory_.reset(static_cast<std::uint8_t*>(memory));
  capacity_ = capacity;
  bytes_ = bytes;
  copy(old, old.capacity_);
}

void Cache::copy(const Cache& from, int slots) {
  const std::size_t whole = std::size_t(round_up(slots, kKeyBlock));  // keys lie in blocks of slots
  for (int i = 0; slots && i < shape_.layers; ++i) {
    const LayerStore source = from.layer(i), target = layer(i);
    const std::size_t scales = std::size_t(source.scales()) * sizeof(std::uint16_t);  // bytes of a slot
    for (int head = 0; head < shape_.kv_heads; ++head) {
      std::memcpy(target.head_keys(head), source.head_keys(head), whole / kKeyBlock * source.key_block_bytes());
      std::memcpy(target.head_values(head), source.head_values(head), std::size_t(slots) * source.value_bytes());
      std::memcpy(target.key_scales(head), source.key_scales(head), whole * scales);
      std::memcpy(target.value_scales(head), source.value_scales(head), std::size_t(slots) * scales);
    }
  }
}

void Cache::move(int from, int to) {
  if (from == to) return;
  // Pieces of a slot that lie a block apart.
  const auto move_pieces = [&](std::uint8_t* keys, int pieces, std::size_t bytes) {
    const auto first = [&](int slot) {
      return keys + (std::size_t(slot / kKeyBlock) * std::size_t(pieces) * kKeyBlock + std::size_t(slot % kKeyBlock)) * bytes;
    };
    for (std::size_t i = 0; i < std::size_t(pieces); ++i)
      std::memcpy(first(to) + i * kKeyBlock * bytes, first(from) + i * kKeyBlock * bytes, bytes);
  };
  for (int i = 0; i < shape_.layers; ++i) {
    const LayerStore store = layer(i);
    const std::size_t row = store.value_bytes(), scales = std::size_t(store.scales());
    for (int head = 0; head < store.kv_heads; ++head) {
      std::uint8_t* values = store.head_values(head);
      std::uint16_t* value_scales = store.value_scales(head);
      move_pieces(store.head_keys(head), store.groups(), 4);
      move_pieces(reinterpret_cast<std::uint8_t*>(store.key_scales(head)), store.scales(), sizeof(std::uint16_t));
      std::memcpy(values + std::size_t(to) * row, values + std::size_t(from) * row, row);
      std::copy_n(value_scales + std::size_t(from) * scales, scales, value_scales + std::size_t(to) * scales);
    }
  }
}

}  // namespace eyas
