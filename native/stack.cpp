#include "stack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace eyas {

namespace {
constexpr int kStrip = 64;  // tokens of one head that a thread rotates at a time: neighbours share lines of the cache
}  // namespace

Stack::Stack(const Kernels& kernels, ThreadPool& pool, const StackShape& shape, std::vector<Layer> layers,
             const float* final_norm, float final_eps)
    : kernels_(kernels),
      pool_(pool),
      shape_(shape),
      layers_(std::move(layers)),
      final_norm_(final_norm),
      final_eps_(final_eps),
      angles_(shape.ropes.size()) {
  for (const Layer& layer : layers_) {
    const auto found = std::find(windows_.begin(), windows_.end(), layer.window);
    window_index_.push_back(int(found - windows_.begin()));
    if (found == windows_.end()) windows_.push_back(layer.window);
  }
}

CacheShape Stack::cache_shape(int limit) const {
  CacheShape cache;
  cache.type = shape_.cache_type;
  cache.layers = num_layers();
  cache.kv_heads = shape_.kv_heads;
  cache.head_dim = shape_.head_dim;
  cache.limit = limit;
  return cache;
}

void Stack::grow_angles(int positions) {
  for (std::size_t i = 0; i < angles_.size(); ++i) {
    const Rope& rope = shape_.ropes[i];
    Angles& angles = angles_[i];
    const std::size_t half = rope.inverse_frequencies.size();
    for (std::size_t p = angles.cos.size() / half; p < std::size_t(positions); ++p) {
      for (const float frequency : rope.inverse_frequencies) {
        const double angle = float(p) * frequency;  // a product of floats, as the models were trained
        angles.cos.push_back(float(std::cos(angle)) * rope.factor);
        angles.sin.push_back(float(std::sin(angle)) * rope.factor);
      }
    }
  }
}

// Queries of a kv head that share a read of its keys and values, and are computed by one thread: many, but so that no thread
// is without work for long.
int Stack::queries_together(const std::vector<Call>& calls) const {
  constexpr long kRead = 2;  // what a read takes, in times of a query
  const long repeat = shape_.heads / shape_.kv_heads, threads = pool_.threads();
  int best = 1;
  long least = 0;
  for (int size = 1; size <= kernels_.max_queries; ++size) {
    long items = 0;
    for (const Call& call : calls) items += (call.count * repeat + size - 1) / size * shape_.kv_heads;
    const long time = (items + threads - 1) / threads * (size + kRead);
    if (size > 1 && time > least) continue;
    best = size;
    least = time;
  }
  return best;
}

// Appends the tokens to their caches and decides who attends to what.
void Stack::place(const std::vector<Call>& calls) {
  const int repeat = shape_.heads / shape_.kv_heads;
  tokens_.clear();
  views_.clear();
  items_.clear();
  std::size_t scattered = 0;
  for (const Call& call : calls) {
    call.cache->append(call.count, call.parents);
    for (int i = call.cache->num_pending() - call.count; i < call.cache->num_pending(); ++i)
      scattered += std::size_t(call.cache->scattered(i));
  }
  rest_.resize(windows_.size() * scattered + 1);
  const int chunk = queries_together(calls);
  int* rest = rest_.data();
  for (const Call& call : calls) {
    const int first = int(tokens_.size()), pending = call.cache->num_pending() - call.count;
    for (int i = pending; i < pending + call.count; ++i) {
      tokens_.push_back({call.cache, call.cache->length() + i, call.cache->length() + call.cache->depth(i)});
      for (const int window : windows_) {
        views_.push_back(call.cache->view(i, window, rest));
        rest += call.cache->scattered(i);
      }
    }
    const int end = int(tokens_.size()) * repeat;
    for (int head = 0; head < shape_.kv_heads; ++head)
      for (int begin = first * repeat; begin < end; begin += chunk) items_.push_back({head, begin, std::min(begin + chunk, end)});
  }
}

// Memory for a forward, whose tokens see slots below `slots`.
void Stack::reserve(int tokens, int slots) {
  const std::size_t count = std::size_t(tokens);
  const int width = shape_.query_width();
  int qkv = 0, inner = 0;
  bool has_branches = false;
  for (const Layer& layer : layers_) {
    qkv = std::max(qkv, MatrixGroup(layer.qkv).blocks() * kBlock);
    has_branches = has_branches || !attention_branch(layer).is_plain() || !mlp_branch(layer).is_plain();
    input_.reserve(kernels_, layer.qkv, tokens);
    output_input_.reserve(kernels_, layer.output, tokens);
    if (layer.mixture) {
      input_.reserve(kernels_, layer.mixture.router, tokens);
      router_.reserve(count * std::size_t(layer.mixture.router.blocks()) * kBlock * sizeof(float));
      mixtures_.reserve(kernels_, layer.mixture, tokens, stride());
    } else {
      inner = std::max(inner,
                       is_fused(layer.activation, layer.gate_up) ? layer.down.k : MatrixGroup(layer.gate_up).blocks() * kBlock);
      input_.reserve(kernels_, layer.gate_up, tokens);
      down_input_.reserve(kernels_, layer.down, tokens);
    }
  }
  query_bytes_ = kernels_.query_bytes(shape_.cache_type, shape_.head_dim);
  score_stride_ = std::size_t(round_up(slots, kKeyBlock) + 2 * kLanes);
  qkv_.reserve(count * std::size_t(qkv) * sizeof(float));
  queries_.reserve(count * std::size_t(shape_.heads) * query_bytes_);
  attended_.reserve(count * std::size_t(round_up(width, kBlock)) * sizeof(float));
  normed_.reserve(count * std::size_t(std::max(stride(), round_up(width, kBlock))) * sizeof(float));
  if (reads_embeddings()) joined_.reserve(count * std::size_t(round_up(2 * shape_.hidden, kBlock)) * sizeof(float));
  gated_.reserve(count * std::size_t(round_up(inner, kBlock)) * sizeof(float));
  if (has_branches) branch_.reserve(count * std::size_t(stride()) * sizeof(float));
  scores_.reserve(std::size_t(pool_.threads()) * std::size_t(kernels_.max_queries) * score_stride_ * sizeof(float));
}

void Stack::forward(const std::vector<Call>& calls, float* x, const std::vector<Tap>& taps, const float* embeddings) {
  int tokens = 0, slots = 0;
  embeddings_ = embeddings;
  for (const Call& call : calls) {
    tokens += call.count;
    slots = std::max(slots, call.cache->num_slots() + call.count);
  }
  grow_angles(slots);
  reserve(tokens, slots);
  pool_.start();
  place(calls);  // after what may fail: caches never hold tokens that were not computed

  pool_.run([&](Phase& phase) {
    Branch before;  // what the block before has still to add to x
    for (int i = 0; i < num_layers(); ++i) {
      if (tap(phase, i, before, x, tokens, taps)) before = {};
      run_layer(phase, i, before, x, tokens);
      before = mlp_branch(layers_[std::size_t(i)]);
    }
    if (tap(phase, num_layers(), before, x, tokens, taps)) before = {};
    if (!final_norm_ && before.is_plain()) return;
    phase.each(tokens, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t) {
        float* token = x + std::size_t(t) * std::size_t(stride());
        add_branch(before, t, token);
        if (final_norm_) kernels_.norm(token, final_norm_, final_eps_, shape_.hidden, token);
      }
    });
  });
}

// What becomes of the last product of a block: it is added to x, or kept for `add_branch`.
Epilogue Stack::residual(const Branch& branch, float* x) const {
  Epilogue epilogue;
  epilogue.kind = branch.is_plain() ? Epilogue::Add : Epilogue::Store;
  epilogue.y = branch.is_plain() ? x : branch_.as<float>();
  epilogue.stride = std::size_t(stride());
  return epilogue;
}

void Stack::add_branch(const Branch& branch, int t, float* x) {
  if (branch.is_plain()) return;
  float* y = branch_.as<float>() + std::size_t(t) * std::size_t(stride());
  if (branch.norm) kernels_.norm(y, branch.norm, branch.eps, shape_.hidden, y);
  kernels_.add_scaled(y, branch.factor, stride(), x);
}

// Copies the states that enter `layer`, `before` included, where a tap asks for them; returns whether one did.
bool Stack::tap(Phase& phase, int layer, const Branch& before, float* x, int tokens, const std::vector<Tap>& taps) {
  const auto is_here = [&](const Tap& tap) { return tap.layer == layer; };
  if (std::none_of(taps.begin(), taps.end(), is_here)) return false;
  const std::size_t hidden = std::size_t(shape_.hidden);
  phase.each(tokens, 1, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      float* token = x + std::size_t(t) * std::size_t(stride());
      add_branch(before, t, token);
      for (const Tap& tap : taps)
        if (is_here(tap)) std::memcpy(tap.states + std::size_t(t) * hidden, token, sizeof(float) * hidden);
    }
  });
  return true;
}

// Adds `before` to x, then writes norm(x) as the next products read it.
void Stack::prepare(Phase& phase, const Branch& before, float* x, const float* norm, float eps, const ActivationBuffer& out,
                    const MatrixGroup& matrices, int tokens) {
  const std::size_t width = std::size_t(stride());
  phase.each(tokens, 1, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      float* token = x + std::size_t(t) * width;
      add_branch(before, t, token);
      if (norm) {
        float* normed = normed_.as<float>() + std::size_t(t) * width;
        kernels_.norm(token, norm, eps, shape_.hidden, normed);
        token = normed;
      }
      out.prepare(kernels_, matrices, token, stride(), t);
    }
  });
}

// Writes [attention_norm(embedding); hidden_norm(x)] as the products of attention read it.
void Stack::prepare_with_embeddings(Phase& phase, const Layer& layer, float* x, int tokens) {
  const std::size_t width = std::size_t(stride()), hidden = std::size_t(shape_.hidden);
  const std::size_t joined = std::size_t(round_up(2 * shape_.hidden, kBlock));
  phase.each(tokens, 1, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      float *token = x + std::size_t(t) * width, *normed = normed_.as<float>() + std::size_t(t) * width;
      float* both = joined_.as<float>() + std::size_t(t) * joined;
      kernels_.norm(embeddings_ + std::size_t(t) * width, layer.attention_norm, layer.eps, shape_.hidden, both);
      kernels_.norm(token, layer.hidden_norm, layer.eps, shape_.hidden, normed);
      std::memcpy(both + hidden, normed, sizeof(float) * hidden);
      std::fill(both + 2 * hidden, both + joined, 0.0f);
      if (layer.residual_is_normed) std::memcpy(token, normed, sizeof(float) * width);
      input_.prepare(kernels_, layer.qkv, both, int(joined), t);
    }
  });
}

void Stack::run_layer(Phase& phase, int index, const Branch& before, float* x, int tokens) {
  const Layer &layer = layers_[std::size_t(index)], &next = layers_[std::size_t((index + 1) % num_layers())];
  if (layer.hidden_norm) {
    prepare_with_embeddings(phase, layer, x, tokens);
  } else {
    prepare(phase, before, x, layer.attention_norm, layer.eps, input_, layer.qkv, tokens);
  }
  Epilogue heads;
  heads.y = qkv_.as<float>();
  heads.stride = std::size_t(MatrixGroup(layer.qkv).blocks()) * kBlock;
  multiply_together(phase, kernels_, layer.qkv, input_, tokens, heads, layer.output);
  attend(phase, index, tokens);
  const std::size_t width = std::size_t(round_up(shape_.query_width(), kBlock));
  phase.each(tokens, 1, [&](int begin, int end) {
    for (int t = begin; t < end; ++t)
      output_input_.prepare(kernels_, layer.output, attended_.as<float>() + std::size_t(t) * width, int(width), t);
  });
  const Branch attended = attention_branch(layer);
  const MatrixGroup following = layer.mixture ? MatrixGroup(layer.mixture.router) : MatrixGroup(layer.gate_up);
  multiply_together(phase, kernels_, layer.output, output_input_, tokens, residual(attended, x), following);
  if (layer.mixture) {
    run_mixture(phase, layer, attended, x, tokens);
  } else {
    run_mlp(phase, layer, attended, x, tokens, next);
  }
}

void Stack::run_mixture(Phase& phase, const Layer& layer, const Branch& before, float* x, int tokens) {
  const Mixture& mixture = layer.mixture;
  prepare(phase, before, x, layer.mlp_norm, layer.eps, input_, mixture.router, tokens);
  Epilogue logits;
  logits.y = router_.as<float>();
  logits.stride = std::size_t(mixture.router.blocks()) * kBlock;
  multiply_together(phase, kernels_, mixture.router, input_, tokens, logits, mixture.router);
  const float* inputs = layer.mlp_norm ? normed_.as<float>() : x;
  mixtures_.run(phase, kernels_, mixture, layer.activation, logits.y, inputs, stride(), tokens);
  const bool is_plain = mlp_branch(layer).is_plain();
  phase.each(tokens, 1, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) {
      float* y = (is_plain ? x : branch_.as<float>()) + std::size_t(t) * std::size_t(stride());
      if (!is_plain) std::fill(y, y + stride(), 0.0f);
      mixtures_.add(kernels_, t, stride(), y);
    }
  });
}

void Stack::run_mlp(Phase& phase, const Layer& layer, const Branch& before, float* x, int tokens, const Layer& next) {
  prepare(phase, before, x, layer.mlp_norm, layer.eps, input_, layer.gate_up, tokens);
  const Activations down_input = down_input_.view(kernels_, layer.down);
  const int inner = round_up(layer.down.k, kBlock), blocks = MatrixGroup(layer.gate_up).blocks();
  const bool fused = is_fused(layer.activation, layer.gate_up);
  Epilogue gated;
  gated.kind = !fused ? Epilogue::Store : is_int8(down_input.format) ? Epilogue::Gated : Epilogue::GatedActivations;
  gated.y = gated_.as<float>();
  gated.stride = fused ? std::size_t(inner) : std::size_t(blocks) * kBlock;
  gated.activations = down_input;
  multiply_together(phase, kernels_, layer.gate_up, input_, tokens, gated, layer.down, layer.gate_up.size() > 1);
  if (gated.kind != Epilogue::GatedActivations) {
    phase.each(tokens, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t) {
        float* token = gated.y + std::size_t(t) * gated.stride;
        if (!fused) {
          kernels_.gate(layer.activation, token, blocks);
          std::fill(token + blocks * kLanes, token + inner, 0.0f);
        }
        kernels_.prepare(token, inner, down_input, t);
      }
    });
  }
  multiply_together(phase, kernels_, layer.down, down_input_, tokens, residual(mlp_branch(layer), x), next.qkv);
}

// From the products of qkv to the heads' outputs, side by side.
void Stack::attend(Phase& phase, int index, int tokens) {
  const Layer& layer = layers_[std::size_t(index)];
  if (layer.wide_norms) {
    phase.each(tokens, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t) norm_all_heads(layer, t);
    });
  }
  const int strips = (tokens + kStrip - 1) / kStrip;
  phase.each((shape_.heads + shape_.kv_heads) * strips, 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i)
      rotate_and_put(layer, index, i / strips, i % strips * kStrip, std::min(tokens, (i % strips + 1) * kStrip));
  });
  phase.each(int(items_.size()), 1, [&](int begin, int end, int thread) {
    float* scores = scores_.as<float>() + std::size_t(thread) * std::size_t(kernels_.max_queries) * score_stride_;
    for (int i = begin; i < end; ++i) attend_item(layer, index, items_[std::size_t(i)], scores);
  });
}

int Stack::start_of(const Layer& layer, int kind) const {
  if (layer.qkv.size() == 1) return kind == 0 ? 0 : shape_.query_width() + (kind - 1) * shape_.key_width();
  int start = 0;
  for (int part = 0; part < kind; ++part) start += layer.qkv[std::size_t(part)].blocks() * kBlock;
  return start;
}

// Norms of a token's queries, and of its keys, each over all heads together.
void Stack::norm_all_heads(const Layer& layer, int t) {
  float* token = qkv_.as<float>() + std::size_t(t) * std::size_t(MatrixGroup(layer.qkv).blocks()) * kBlock;
  const std::size_t room = std::size_t(std::max(stride(), round_up(shape_.query_width(), kBlock)));
  float* padded = normed_.as<float>() + std::size_t(t) * room;  // what stood there has been multiplied
  const auto norm = [&](const float* weight, float* part, int n) {
    if (!weight) return;
    std::memcpy(padded, part, sizeof(float) * std::size_t(n));
    std::fill(padded + n, padded + round_up(n, kBlock), 0.0f);
    kernels_.norm(padded, weight, layer.eps, n, padded);
    std::memcpy(part, padded, sizeof(float) * std::size_t(n));
  };
  norm(layer.query_norm, token, shape_.query_width());
  norm(layer.key_norm, token + start_of(layer, 1), shape_.key_width());
}

void Stack::rotate_and_put(const Layer& layer, int index, int head, int begin, int end) {
  const int dim = shape_.head_dim, repeat = shape_.heads / shape_.kv_heads, kv_head = head - shape_.heads;
  const float* norm = layer.wide_norms ? nullptr : kv_head < 0 ? layer.query_norm : layer.key_norm;
  const std::size_t stride = std::size_t(MatrixGroup(layer.qkv).blocks()) * kBlock;
  for (int t = begin; t < end; ++t) {
    const Token& token = tokens_[std::size_t(t)];
    float* heads = qkv_.as<float>() + std::size_t(t) * stride;
    float* part = heads + (kv_head < 0 ? head * dim : start_of(layer, 1) + kv_head * dim);
    if (norm) {
      alignas(64) float padded[kMaxHeadDim] = {};
      std::memcpy(padded, part, sizeof(float) * std::size_t(dim));
      kernels_.norm(padded, norm, layer.eps, dim, padded);
      std::memcpy(part, padded, sizeof(float) * std::size_t(dim));
    }
    if (layer.rope >= 0) {
      const Angles& angles = angles_[std::size_t(layer.rope)];
      const std::size_t half = shape_.ropes[std::size_t(layer.rope)].inverse_frequencies.size();
      const std::size_t at = std::size_t(token.position) * half;
      kernels_.rotate(part, 2 * int(half), angles.cos.data() + at, angles.sin.data() + at);
    }
    if (kv_head < 0) {
      const std::size_t place =
          std::size_t(head / repeat) * tokens_.size() * std::size_t(repeat) + std::size_t(t * repeat + head % repeat);
      kernels_.put_query(shape_.cache_type, part, dim, queries_.as<std::uint8_t>() + place * query_bytes_);
    } else {
      kernels_.put(token.cache->layer(index), kv_head, token.slot, part, heads + start_of(layer, 2) + kv_head * dim);
    }
  }
}

void Stack::attend_item(const Layer& layer, int index, const Item& item, float* scores) {
  constexpr int kMost = 16;  // queries of any instruction set
  const int dim = shape_.head_dim, repeat = shape_.heads / shape_.kv_heads;
  const std::size_t width = std::size_t(round_up(shape_.query_width(), kBlock)), windows = windows_.size();
  const std::size_t window = std::size_t(window_index_[std::size_t(index)]);
  const LayerStore store = tokens_[std::size_t(item.begin / repeat)].cache->layer(index);
  const std::uint8_t* queries[kMost];
  const View* views[kMost];
  alignas(64) float results[kMost][kMaxHeadDim];
  float* outputs[kMost];
  AttendItem work;
  for (int i = item.begin; i < item.end; ++i) {
    const int n = i - item.begin;
    const std::size_t t = std::size_t(i / repeat);
    queries[n] = queries_.as<std::uint8_t>() +
                 (std::size_t(item.kv_head) * tokens_.size() * std::size_t(repeat) + std::size_t(i)) * query_bytes_;
    views[n] = &views_[t * windows + window];
    outputs[n] = results[n];
    work.slots = std::max(work.slots, tokens_[t].slot + 1);
  }
  work.store = &store;
  work.kv_head = item.kv_head;
  work.count = item.end - item.begin;
  work.queries = queries;
  work.views = views;
  work.scale = layer.attention_scale;
  work.softcap = layer.attention_softcap;
  work.scores = scores;
  work.score_stride = score_stride_;
  work.outputs = outputs;
  kernels_.attend(work);
  for (int i = item.begin; i < item.end; ++i) {
    const int head = item.kv_head * repeat + i % repeat;
    std::memcpy(attended_.as<float>() + std::size_t(i / repeat) * width + std::size_t(head * dim), results[i - item.begin],
                sizeof(float) * std::size_t(dim));
  }
}

}  // namespace eyas
