#include "eagle_head.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

namespace eyas {

EagleHead::EagleHead(Engine& engine, const Embedding& embedding, std::vector<PackedMatrix> fc, Stack& stack)
    : engine_(engine), embedding_(embedding), fc_(std::move(fc)), stack_(stack) {
  embedding_.scale = 1.0f;  // draft networks were trained with the table as it is
}

int EagleHead::grow(TreeBuilder& builder, Cache& cache, LMHead& lm_head, const Pairs& waiting, int k, const Coupling* coupling) {
  const std::size_t hidden = std::size_t(embedding_.hidden()), width = std::size_t(stack_.stride());
  Level level;
  level.token_ids.assign(waiting.token_ids, waiting.token_ids + waiting.count);
  for (int i = 0; i < waiting.count; ++i) level.features.push_back(waiting.features + std::size_t(i) * hidden);
  predict(cache, level);
  std::vector<int> path(std::size_t(waiting.count));
  std::iota(path.begin(), path.end(), 0);
  cache.commit(path);

  const Columns columns = lm_head.columns();
  const float* below = predicted_.as<float>() + (std::size_t(waiting.count) - 1) * width;  // features below the frontier
  int nodes = 1, first = -1;  // of the frontier, and where its rows begin among the pending ones
  for (int depth = 1;; ++depth) {
    if (!rank(lm_head, below, nodes, k, coupling, depth)) return 0;
    std::vector<std::int64_t> token_ids(best_.columns.size());
    std::transform(best_.columns.begin(), best_.columns.end(), token_ids.begin(), [&](int column) { return columns.id(column); });
    if (!builder.step(int(token_ids.size()) / nodes, token_ids.data(), best_.log_probs.data())) return 0;
    const Candidates& candidates = builder.candidates();
    level = {};
    for (const int at : builder.frontier()) {
      const int row = candidates.parent_row(at);
      level.token_ids.push_back(candidates.token_id(at));
      level.features.push_back(below + std::size_t(row) * width);
      level.parents.push_back(depth == 1 ? -1 : first + row);
    }
    if (level.token_ids.empty()) return depth;
    first = cache.num_pending();
    nodes = int(level.token_ids.size());
    predict(cache, level);
    below = predicted_.as<float>();
  }
}

void EagleHead::predict(Cache& cache, const Level& level) {
  const int tokens = int(level.token_ids.size());
  const int* parents = level.parents.empty() ? nullptr : level.parents.data();
  const char* error = cache.admit(tokens, parents);
  if (*error) throw std::invalid_argument(error);

  const std::size_t hidden = std::size_t(embedding_.hidden()), width = std::size_t(stack_.stride());
  fc_.empty() ? read_apart(level) : project(level);
  float* x = predicted_.as<float>();
  const auto clear_padding = [&] {
    for (std::size_t t = 0; t < std::size_t(tokens); ++t) std::fill(x + t * width + hidden, x + (t + 1) * width, 0.0f);
  };
  clear_padding();
  stack_.forward({{&cache, tokens, parents}}, x, {}, fc_.empty() ? inputs_.as<float>() : nullptr);
  clear_padding();
}

void EagleHead::embed(std::int64_t id, float* out) const {
  if (id < 0 || id >= embedding_.vocab()) throw std::invalid_argument("a token id outside the vocabulary");
  embedding_.read(int(id), out);
}

void EagleHead::read_apart(const Level& level) {
  const std::size_t tokens = level.token_ids.size(), width = std::size_t(stack_.stride());
  inputs_.reserve(tokens * width * sizeof(float));
  sums_.reserve(tokens * width * sizeof(float));
  std::fill(inputs_.as<float>(), inputs_.as<float>() + tokens * width, 0.0f);
  for (std::size_t t = 0; t < tokens; ++t) {
    embed(level.token_ids[t], inputs_.as<float>() + t * width);
    std::memcpy(sums_.as<float>() + t * width, level.features[t], sizeof(float) * std::size_t(embedding_.hidden()));
  }
  std::swap(predicted_, sums_);  // the features may be outputs of the last pass
}

void EagleHead::project(const Level& level) {
  // [embedding; feature], for each matrix with zeros behind what it reads.
  const std::size_t tokens = level.token_ids.size(), width = std::size_t(stack_.stride());
  const std::size_t hidden = std::size_t(embedding_.hidden());
  const std::size_t piece = std::size_t(round_up(fc_.front().k, kBlock)), row = piece * fc_.size();
  inputs_.reserve(tokens * row * sizeof(float));
  float* inputs = inputs_.as<float>();
  std::fill(inputs, inputs + tokens * row, 0.0f);
  for (std::size_t t = 0; t < tokens; ++t) {
    embed(level.token_ids[t], inputs + t * row);
    std::memcpy(inputs + t * row + (fc_.size() > 1 ? piece : hidden), level.features[t], sizeof(float) * hidden);
  }

  const std::size_t size = tokens * width;
  predicted_.reserve(size * sizeof(float));
  float* x = predicted_.as<float>();
  engine_.multiply(fc_.front(), inputs, row, int(tokens), x, width);
  for (std::size_t part = 1; part < fc_.size(); ++part) {
    sums_.reserve(size * sizeof(float));
    engine_.multiply(fc_[part], inputs + part * piece, row, int(tokens), sums_.as<float>(), width);
    for (std::size_t i = 0; i < size; ++i) x[i] += sums_.as<float>()[i];
  }
}

// The `k` best children of each node, in `best_`.
bool EagleHead::rank(LMHead& lm_head, const float* features, int nodes, int k, const Coupling* coupling, int depth) {
  lm_head.forward(features, std::size_t(stack_.stride()), nodes);
  const int count = std::min(k, lm_head.size());
  if (!coupling) return lm_head.best(nodes, count, best_);
  const std::vector<Answer> answers(std::size_t(nodes), Answer{coupling->answer_length + depth - 1, {}});
  const double scale = coupling->scales[std::size_t(std::min(depth, int(coupling->scales.size())) - 1)];
  return lm_head.couple(nodes, count, *coupling->sampler, lm_head.columns(), answers, scale, best_);
}

}  // namespace eyas
