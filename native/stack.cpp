#include "stack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

namespace eyas {

namespace {
constexpr int kStrip = 64;  // rows of one head that a thread rotates at a time: neighbours share lines of the cache
}  // namespace

void Buffer::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  bytes = (bytes + 4095) / 4096 * 4096;
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  memory_.reset(static_cast<std::uint8_t*>(memory));
  bytes_ = bytes;
}

const Operand& OperandBuffer::reserve(const Kernels& kernels, Kind kind, int rows, int k) {
  operand_.kind = kind;
  operand_.stride = std::size_t(round_up(k, 64)) * std::size_t(kernels.operand_bytes(kind));
  data_.reserve(operand_.stride * std::size_t(rows));
  operand_.scales = (k + kScaled - 1) / kScaled;
  scale_.reserve(sizeof(float) * std::size_t(rows * operand_.scales));
  sum_.reserve(sizeof(std::int32_t) * std::size_t(rows * operand_.scales));
  operand_.data = data_.as<std::uint8_t>();
  operand_.scale = scale_.as<float>();
  operand_.sum = sum_.as<std::int32_t>();
  return operand_;
}

Stack::Stack(const Kernels& kernels, Team& team, const StackShape& shape, std::vector<Layer> layers, const float* final_norm)
    : kernels_(kernels), team_(team), shape_(shape), layers_(std::move(layers)), final_norm_(final_norm) {
  for (const Layer& layer : layers_) window_ = std::max(window_, layer.window);
}

Kind Stack::cache_kind() const { return layers_.front().qkv.kind == Kind::F32 ? Kind::F32 : Kind::BF16; }

CacheShape Stack::cache_shape(int limit) const {
  CacheShape cache;
  cache.kind = cache_kind();
  cache.layers = num_layers();
  cache.kv_heads = shape_.kv_heads;
  cache.head_dim = shape_.head_dim;
  cache.limit = limit;
  return cache;
}

void Stack::grow_angles(int positions) {
  const std::size_t half = shape_.inverse_frequencies.size();
  for (std::size_t p = cos_.size() / half; p < std::size_t(positions); ++p) {
    for (const float frequency : shape_.inverse_frequencies) {
      const double angle = float(p) * frequency;  // a product of floats, as the models were trained
      cos_.push_back(float(std::cos(angle)) * shape_.rope_factor);
      sin_.push_back(float(std::sin(angle)) * shape_.rope_factor);
    }
  }
}

// Appends the rows to their caches and decides who attends to what.
void Stack::place(const std::vector<Call>& calls, int total) {
  const int repeat = shape_.heads / shape_.kv_heads;
  rows_.clear();
  items_.clear();
  std::size_t scattered = 0;
  for (const Call& call : calls) {
    call.cache->append(call.count, call.parents);
    for (int i = call.cache->num_pending() - call.count; i < call.cache->num_pending(); ++i)
      scattered += std::size_t(call.cache->scattered(i));
  }
  rest_.resize(2 * scattered + 1);
  const int share = (total * repeat * shape_.kv_heads + 3 * team_.threads() - 1) / (3 * team_.threads());
  const int chunk = std::min(kernels_.max_query_rows, std::max(1, share));
  int* rest = rest_.data();
  for (const Call& call : calls) {
    const int first = int(rows_.size()), pending = call.cache->num_pending() - call.count;
    for (int i = 0; i < call.count; ++i) {
      Row row;
      row.cache = call.cache;
      row.slot = call.cache->length() + pending + i;
      row.position = call.cache->length() + call.cache->depth(pending + i);
      row.view = call.cache->view(pending + i, 0, rest);
      rest += call.cache->scattered(pending + i);
      row.windowed = call.cache->view(pending + i, window_, rest);
      rest += call.cache->scattered(pending + i);
      rows_.push_back(row);
    }
    const int end = int(rows_.size()) * repeat;
    for (int head = 0; head < shape_.kv_heads; ++head)
      for (int begin = first * repeat; begin < end; begin += chunk) items_.push_back({head, begin, std::min(begin + chunk, end)});
  }
}

void Stack::forward(const std::vector<Call>& calls, float* x) {
  int rows = 0, slots = 0;
  for (const Call& call : calls) {
    rows += call.count;
    slots = std::max(slots, call.cache->num_slots() + call.count);
  }
  const int width = shape_.heads * shape_.head_dim;
  const int qkv = width + 2 * shape_.kv_heads * shape_.head_dim;
  const Layer& layer = layers_.front();
  const std::size_t count = std::size_t(rows);
  query_bytes_ = std::size_t(round_up(shape_.head_dim, kLanes)) * std::size_t(kernels_.operand_bytes(cache_kind()));
  score_stride_ = std::size_t(round_up(slots, kKeyBlock) + 2 * kLanes);
  grow_angles(slots);
  qkv_.reserve(count * std::size_t(round_up(qkv, kBlock)) * sizeof(float));
  queries_.reserve(count * std::size_t(shape_.heads) * query_bytes_);
  mixed_.reserve(count * std::size_t(round_up(width, kBlock)) * sizeof(float));
  normed_.reserve(count * std::size_t(stride()) * sizeof(float));
  gated_.reserve(count * std::size_t(round_up(shape_.intermediate, kBlock)) * sizeof(float));
  scores_.reserve(std::size_t(team_.threads()) * std::size_t(kernels_.max_query_rows) * score_stride_ * sizeof(float));
  input_.reserve(kernels_, layer.qkv.kind, rows, shape_.hidden);
  attended_.reserve(kernels_, layer.output.kind, rows, width);
  middle_.reserve(kernels_, layer.down.kind, rows, shape_.intermediate);
  team_.start();
  place(calls, rows);  // after what may fail: caches never hold rows that were not computed

  team_.run([&](Phase& phase) {
    for (int i = 0; i < num_layers(); ++i) run_layer(phase, i, x, rows);
    if (!final_norm_) return;
    phase.each(rows, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t) {
        float* row = x + std::size_t(t) * std::size_t(stride());
        kernels_.norm(row, final_norm_, shape_.eps, shape_.hidden, row);
      }
    });
  });
}

void Stack::prepare_rows(Phase& phase, const float* x, const float* norm, const Operand& out, int rows) {
  const std::size_t width = std::size_t(stride());
  phase.each(rows, 1, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      const float* row = x + std::size_t(t) * width;
      if (norm) {
        float* normed = normed_.as<float>() + std::size_t(t) * width;
        kernels_.norm(row, norm, shape_.eps, shape_.hidden, normed);
        row = normed;
      }
      kernels_.prepare(row, stride(), out, t);
    }
  });
}

void multiply_together(Phase& phase, const Kernels& kernels, const Packed& w, const Operand& x, int rows, const Target& target,
                       const Packed& after) {
  const int last = phase.share_end(w.blocks());
  phase.each(w.blocks(), 1, [&](int block, int end) {
    const std::uint8_t* next = end == last ? after.block(phase.share_begin(after.blocks())) : w.block(end);
    kernels.multiply(w, block, x, rows, target, next);
  });
}

void Stack::run_layer(Phase& phase, int index, float* x, int rows) {
  const Layer &layer = layers_[std::size_t(index)], &above = layers_[std::size_t((index + 1) % num_layers())];
  const auto product = [&](const Packed& w, const Operand& from, const Target& to, const Packed& after) {
    multiply_together(phase, kernels_, w, from, rows, to, after);
  };
  const std::size_t width = std::size_t(round_up(shape_.heads * shape_.head_dim, kBlock));
  Target residual;
  residual.finish = Finish::Add;
  residual.y = x;
  residual.stride = std::size_t(stride());

  prepare_rows(phase, x, layer.input_norm, input_.operand(), rows);
  Target heads;
  heads.y = qkv_.as<float>();
  heads.stride = std::size_t(layer.qkv.blocks()) * kBlock;
  product(layer.qkv, input_.operand(), heads, layer.output);
  const int strips = (rows + kStrip - 1) / kStrip;
  phase.each((shape_.heads + shape_.kv_heads) * strips, 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i)
      rotate_and_put(layer, index, i / strips, i % strips * kStrip, std::min(rows, (i % strips + 1) * kStrip));
  });
  float* scores = scores_.as<float>() + std::size_t(phase.thread) * std::size_t(kernels_.max_query_rows) * score_stride_;
  phase.each(int(items_.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) attend(layer, index, items_[std::size_t(i)], scores);
  });
  phase.each(rows, 1, [&](int begin, int end) {
    for (int t = begin; t < end; ++t)
      kernels_.prepare(mixed_.as<float>() + std::size_t(t) * width, int(width), attended_.operand(), t);
  });
  product(layer.output, attended_.operand(), residual, layer.gate_up);

  prepare_rows(phase, x, layer.post_norm, input_.operand(), rows);
  Target gated;
  gated.finish = layer.down.kind == Kind::I8 ? Finish::Gated : Finish::GatedOperand;
  gated.y = gated_.as<float>();
  gated.stride = std::size_t(round_up(shape_.intermediate, kBlock));
  gated.operand = middle_.operand();
  product(layer.gate_up, input_.operand(), gated, layer.down);
  if (gated.finish == Finish::Gated) {
    phase.each(rows, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t)
        kernels_.prepare(gated.y + std::size_t(t) * gated.stride, int(gated.stride), middle_.operand(), t);
    });
  }
  product(layer.down, middle_.operand(), residual, above.qkv);
}

void Stack::rotate_and_put(const Layer& layer, int index, int head, int begin, int end) {
  const int dim = shape_.head_dim, repeat = shape_.heads / shape_.kv_heads, kv_head = head - shape_.heads;
  const float* norm = kv_head < 0 ? layer.query_norm : layer.key_norm;
  for (int t = begin; t < end; ++t) {
    const Row& row = rows_[std::size_t(t)];
    const std::size_t angle = std::size_t(row.position) * std::size_t(dim / 2);
    float* part = qkv_.as<float>() + std::size_t(t) * std::size_t(layer.qkv.blocks()) * kBlock + head * dim;
    if (norm) {
      alignas(64) float padded[kMaxHeadDim] = {};
      std::memcpy(padded, part, sizeof(float) * std::size_t(dim));
      kernels_.norm(padded, norm, shape_.eps, dim, padded);
      std::memcpy(part, padded, sizeof(float) * std::size_t(dim));
    }
    kernels_.rotate(part, dim, cos_.data() + angle, sin_.data() + angle);
    if (kv_head < 0) {
      const std::size_t place =
          std::size_t(head / repeat) * rows_.size() * std::size_t(repeat) + std::size_t(t * repeat + head % repeat);
      kernels_.put_query(cache_kind(), part, dim, queries_.as<std::uint8_t>() + place * query_bytes_);
    } else {
      kernels_.put(row.cache->layer(index), kv_head, row.slot, part, part + shape_.kv_heads * dim);
    }
  }
}

void Stack::attend(const Layer& layer, int index, const Item& item, float* scores) {
  constexpr int kMost = 16;  // query rows of any instruction set
  const int dim = shape_.head_dim, repeat = shape_.heads / shape_.kv_heads;
  const std::size_t width = std::size_t(round_up(shape_.heads * dim, kBlock));
  const LayerStore store = rows_[std::size_t(item.begin / repeat)].cache->layer(index);
  const std::uint8_t* queries[kMost];
  const View* views[kMost];
  alignas(64) float results[kMost][kMaxHeadDim];
  float* outputs[kMost];
  AttendItem work;
  for (int i = item.begin; i < item.end; ++i) {
    const int n = i - item.begin;
    const Row& row = rows_[std::size_t(i / repeat)];
    queries[n] = queries_.as<std::uint8_t>() +
                 (std::size_t(item.kv_head) * rows_.size() * std::size_t(repeat) + std::size_t(i)) * query_bytes_;
    views[n] = layer.window ? &row.windowed : &row.view;
    outputs[n] = results[n];
    work.slots = std::max(work.slots, row.slot + 1);
  }
  work.store = &store;
  work.kv_head = item.kv_head;
  work.count = item.end - item.begin;
  work.queries = queries;
  work.views = views;
  work.scale = 1.0f / std::sqrt(float(dim));
  work.scores = scores;
  work.score_stride = score_stride_;
  work.outputs = outputs;
  kernels_.attend(work);
  for (int i = item.begin; i < item.end; ++i) {
    const int head = item.kv_head * repeat + i % repeat;
    std::memcpy(mixed_.as<float>() + std::size_t(i / repeat) * width + std::size_t(head * dim), results[i - item.begin],
                sizeof(float) * std::size_t(dim));
  }
}

}  // namespace eyas
