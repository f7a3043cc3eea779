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
    const std::size_t keys = whole * std::size_t(source.head_dim) * std::size_t(source.item());
    const std::size_t values = std::size_t(slots) * std::size_t(source.width()) * std::size_t(source.item());
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const std::size_t h = std::size_t(head);
      std::memcpy(target.keys + h * target.key_head_bytes(), source.keys + h * source.key_head_bytes(), keys);
      std::memcpy(target.values + h * target.value_head_bytes(), source.values + h * source.value_head_bytes(), values);
    }
  }
}

void Cache::move(int from, int to) {
  if (from == to) return;
  for (int i = 0; i < shape_.layers; ++i) {
    const LayerStore store = layer(i);
    const std::size_t item = std::size_t(store.item()), group = 4 / item;  // of a key, four bytes lie together
    const std::size_t row = std::size_t(store.width()) * item;
    const std::size_t block = std::size_t(store.head_dim) * kKeyBlock * item;
    for (int head = 0; head < store.kv_heads; ++head) {
      std::uint8_t* keys = store.keys + std::size_t(head) * store.key_head_bytes();
      const std::uint8_t* source = keys + std::size_t(from / kKeyBlock) * block + std::size_t(from % kKeyBlock) * 4;
      std::uint8_t* target = keys + std::size_t(to / kKeyBlock) * block + std::size_t(to % kKeyBlock) * 4;
      for (std::size_t d = 0; d < std::size_t(store.head_dim) / group; ++d)
        std::memcpy(target + d * 4 * kKeyBlock, source + d * 4 * kKeyBlock, 4);
      std::uint8_t* values = store.values + std::size_t(head) * store.value_head_bytes();
      std::memcpy(values + std::size_t(to) * row, values + std::size_t(from) * row, row);
    }
  }
}

}  // namespace eyas
