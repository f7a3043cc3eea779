#include "experts.h"

#include <algorithm>
#include <cmath>

namespace eyas {

void Mixtures::reserve(const Kernels& kernels, const Mixture& mixture, int tokens, int stride) {
  const Expert& first = mixture.experts.front();
  const int rows = tokens * mixture.top_k, inner = MatrixGroup(first.gate_up).blocks() * kBlock;
  const std::size_t count = std::size_t(rows);
  chosen_.resize(std::max(chosen_.size(), count));
  weights_.resize(chosen_.size());
  row_.resize(chosen_.size());
  token_.resize(chosen_.size());
  next_.reserve(mixture.experts.size() + 1);
  runs_.reserve(mixture.experts.size());
  input_.reserve(kernels, first.gate_up, rows);
  down_input_.reserve(kernels, first.down, rows);
  gated_.reserve(count * std::size_t(inner) * sizeof(float));
  results_.reserve(count * std::size_t(stride) * sizeof(float));
}

// The best experts of a token, and their weights.
void Mixtures::choose(const Mixture& mixture, const float* logits, int t) {
  const int experts = int(mixture.experts.size()), top_k = mixture.top_k;
  const std::size_t start = std::size_t(t) * std::size_t(top_k);
  int* chosen = chosen_.data() + start;
  for (int k = 0; k < top_k; ++k) {
    chosen[k] = -1;
    for (int e = 0; e < experts; ++e) {
      if (std::find(chosen, chosen + k, e) != chosen + k) continue;
      if (chosen[k] < 0 || logits[e] > logits[chosen[k]]) chosen[k] = e;
    }
  }
  const double top = double(logits[chosen[0]]);
  double total = 0;
  if (mixture.is_normalised) {
    for (int k = 0; k < top_k; ++k) total += std::exp(double(logits[chosen[k]]) - top);
  } else {
    for (int e = 0; e < experts; ++e) total += std::exp(double(logits[e]) - top);
  }
  for (int k = 0; k < top_k; ++k) weights_[start + std::size_t(k)] = float(std::exp(double(logits[chosen[k]]) - top) / total);
}

// Rows for all chosen experts, those of one expert next to each other.
void Mixtures::group(const Mixture& mixture, int tokens) {
  const std::size_t count = std::size_t(tokens) * std::size_t(mixture.top_k);
  next_.assign(mixture.experts.size() + 1, 0);
  for (std::size_t i = 0; i < count; ++i) ++next_[std::size_t(chosen_[i]) + 1];
  runs_.clear();
  for (std::size_t e = 0; e < mixture.experts.size(); ++e) {
    const int rows = next_[e + 1];
    next_[e + 1] += next_[e];
    if (rows) runs_.push_back({int(e), next_[e], rows});
  }
  for (std::size_t i = 0; i < count; ++i) {
    row_[i] = next_[std::size_t(chosen_[i])]++;
    token_[std::size_t(row_[i])] = int(i) / mixture.top_k;
  }
}

// Calls multiply(run, block, next) for each of the `blocks` blocks of every expert that was chosen.
template <class Blocks, class Multiply>
void Mixtures::multiply_runs(Phase& phase, int blocks, const Blocks& matrices, const Multiply& multiply) {
  const int items = int(runs_.size()) * blocks;
  phase.each(items, 1, [&](int begin, int) {
    const int following = std::min(begin + 1, items - 1);
    const MatrixGroup next = matrices(runs_[std::size_t(following / blocks)].expert);
    multiply(runs_[std::size_t(begin / blocks)], begin % blocks, next.block(following % blocks));
  });
}

void Mixtures::run(Phase& phase, const Kernels& kernels, const Mixture& mixture, ActivationFunction function, const float* logits,
                   const float* x, int stride, int tokens) {
  const Expert& first = mixture.experts.front();
  const std::size_t router_stride = std::size_t(mixture.router.blocks()) * kBlock;
  phase.each(tokens, 1, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) choose(mixture, logits + std::size_t(t) * router_stride, t);
  });
  phase.each(1, 1, [&](int, int) {
    top_k_ = mixture.top_k;
    group(mixture, tokens);
  });
  const int rows = tokens * mixture.top_k;
  phase.each(rows, 1, [&](int begin, int end) {
    for (int row = begin; row < end; ++row)
      input_.prepare(kernels, first.gate_up, x + std::size_t(token_[std::size_t(row)]) * std::size_t(stride), stride, row);
  });

  const bool fused = is_fused(function, first.gate_up), takes_turns = first.gate_up.size() > 1;
  const int blocks = MatrixGroup(first.gate_up).blocks(), inner = round_up(first.down.k, kBlock);
  const std::size_t width = fused ? std::size_t(inner) : std::size_t(blocks) * kBlock;
  const auto gates = [&](int expert) { return MatrixGroup(mixture.experts[std::size_t(expert)].gate_up); };
  multiply_runs(phase, blocks, gates, [&](const Run& run, int block, const std::uint8_t* next) {
    const MatrixGroup group = gates(run.expert);
    const int part = group.part_of(block);
    Epilogue epilogue;
    epilogue.kind = fused ? Epilogue::Gated : Epilogue::Store;
    epilogue.y = gated_.as<float>() + std::size_t(run.begin) * width + (takes_turns ? part * kLanes : 0);
    epilogue.stride = width;
    if (takes_turns) epilogue.step = 2 * kLanes;
    const PackedMatrix& w = group.parts[part];
    kernels.multiply(w, block, from_token(input_.view(kernels, w), run.begin), run.count, epilogue, next);
  });
  phase.each(rows, 1, [&](int begin, int end) {
    for (int row = begin; row < end; ++row) {
      float* gated = gated_.as<float>() + std::size_t(row) * width;
      if (!fused) kernels.gate(function, gated, blocks);
      std::fill(gated + blocks * kLanes, gated + inner, 0.0f);
      kernels.prepare(gated, inner, down_input_.view(kernels, first.down), row);
    }
  });

  const auto downs = [&](int expert) { return MatrixGroup(mixture.experts[std::size_t(expert)].down); };
  multiply_runs(phase, first.down.blocks(), downs, [&](const Run& run, int block, const std::uint8_t* next) {
    const PackedMatrix& w = mixture.experts[std::size_t(run.expert)].down;
    Epilogue epilogue;
    epilogue.y = results_.as<float>() + std::size_t(run.begin) * std::size_t(stride);
    epilogue.stride = std::size_t(stride);
    kernels.multiply(w, block, from_token(down_input_.view(kernels, w), run.begin), run.count, epilogue, next);
  });
}

void Mixtures::add(const Kernels& kernels, int t, int stride, float* y) const {
  for (int k = 0; k < top_k_; ++k) {
    const std::size_t i = std::size_t(t) * std::size_t(top_k_) + std::size_t(k);
    kernels.add_scaled(results_.as<float>() + std::size_t(row_[i]) * std::size_t(stride), weights_[i], stride, y);
  }
}

}  // namespace eyas
