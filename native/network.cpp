#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace eyas {

namespace {
float from_bf16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

std::uint16_t to_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return std::uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
}  // namespace

void best_indices(const Kernels& kernels, const float* x, int n, int k, int* indices) {
  if (k <= kMostBest) return kernels.top_k(x, n, k, indices);
  std::vector<int> order(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) order[std::size_t(i)] = i;
  std::partial_sort(order.begin(), order.begin() + k, order.end(),
                    [&](int a, int b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
  std::copy(order.begin(), order.begin() + k, indices);
}

void Engine::multiply(const Packed& w, const float* x, std::size_t width, int rows, float* y, std::size_t stride) {
  const Operand& operand = operand_.reserve(kernels, w.kind, rows, w.k);
  Target target;
  target.y = y;
  target.stride = stride;
  const int padded = round_up(w.k, kBlock);
  team.run([&](Phase& phase) {
    phase.each(rows, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t) kernels.prepare(x + std::size_t(t) * width, padded, operand, t);
    });
    multiply_together(phase, kernels, w, operand, rows, target, w);
  });
}

Head::Head(Engine& engine, std::vector<Packed> parts) : engine_(engine), parts_(std::move(parts)), logits_(parts_.size()) {
  for (const Packed& part : parts_) {
    starts_.push_back(size_);
    size_ += part.n;
  }
}

void Head::forward(const float* x, std::size_t width, int rows) {
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    const std::size_t stride = std::size_t(parts_[part].blocks()) * kBlock;
    logits_[part].reserve(std::size_t(rows) * stride * sizeof(float));
    engine_.multiply(parts_[part], x, width, rows, logits_[part].as<float>(), stride);
  }
}

void Head::copy(int t, float* out) const {
  for (std::size_t part = 0; part < parts_.size(); ++part)
    std::memcpy(out + starts_[part], row(part, t), sizeof(float) * std::size_t(parts_[part].n));
}

int Head::argmax(int t) const {
  int best = -1;
  float value = 0;
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    const int column = engine_.kernels.argmax(row(part, t), parts_[part].n);
    if (column < 0) return -1;
    if (best < 0 || row(part, t)[column] > value) {
      best = starts_[part] + column;
      value = row(part, t)[column];
    }
  }
  return best;
}

// The parts' best, merged; returns the log of the sum over all columns.
double Head::best_of_row(int t, int k, int* columns, double* log_probs) const {
  std::vector<int> found, own(std::size_t(k), 0);
  std::vector<double> logits;
  double total = 0;
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    const int n = parts_[part].n, count = std::min(k, n);
    const float* values = row(part, t);
    const double sum = double(engine_.kernels.log_sum_exp(values, n));
    total = part ? std::max(total, sum) + std::log1p(std::exp(-std::fabs(total - sum))) : sum;
    best_indices(engine_.kernels, values, n, count, own.data());
    for (int i = 0; i < count; ++i) {
      found.push_back(starts_[part] + own[std::size_t(i)]);
      logits.push_back(double(values[own[std::size_t(i)]]));
    }
  }
  std::vector<int> order(found.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = int(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[std::size_t(a)] > logits[std::size_t(b)]; });
  for (int i = 0; i < k; ++i) {
    columns[i] = found[std::size_t(order[std::size_t(i)])];
    log_probs[i] = std::min(0.0, logits[std::size_t(order[std::size_t(i)])] - total);
  }
  return total;
}

bool Head::best(int rows, int k, Best& best) {
  best.columns.resize(std::size_t(rows) * std::size_t(k));
  best.log_probs.resize(best.columns.size());
  std::vector<char> broken(std::size_t(rows), 0);
  engine_.team.run([&](Phase& phase) {
    phase.each(rows, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t) {
        const std::size_t start = std::size_t(t) * std::size_t(k);
        const double total = best_of_row(t, k, best.columns.data() + start, best.log_probs.data() + start);
        broken[std::size_t(t)] = !(std::fabs(total) < 1e30);
      }
    });
  });
  return std::none_of(broken.begin(), broken.end(), [](char b) { return b; });
}

void Head::choose(const std::vector<int>& rows, const std::vector<Sampler*>& samplers, const std::vector<Answer>& answers,
                  std::vector<int>& chosen) {
  chosen.resize(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) chosen[i] = samplers[i]->choose(engine_.team, row(0, rows[i]), answers[i]);
}

bool Head::couple(int rows, int k, Sampler& sampler, const Columns& columns, const std::vector<Answer>& answers, double scale,
                  Best& best) {
  best.columns.resize(std::size_t(rows) * std::size_t(k));
  best.log_probs.resize(best.columns.size());
  std::vector<char> broken(std::size_t(rows), 0);
  scratch_.resize(std::size_t(engine_.team.threads()));
  sampler.make_noise(engine_.team, answers);
  const auto couple = [&](int thread, int begin, int end) {
    Scratch& own = scratch_[std::size_t(thread)];
    own.logits.resize(std::size_t(size()));
    for (int t = begin; t < end; ++t) {
      copy(t, own.logits.data());
      const std::size_t start = std::size_t(t) * std::size_t(k);
      broken[std::size_t(t)] = !sampler.couple(own.logits.data(), columns, answers[std::size_t(t)], scale, k, own.scores,
                                               best.columns.data() + start, best.log_probs.data() + start);
    }
  };
  if (sampler.is_plain()) {
    engine_.team.run([&](Phase& phase) { phase.each(rows, 1, [&](int begin, int end) { couple(phase.thread, begin, end); }); });
  } else {
    couple(0, 0, rows);
  }
  return std::none_of(broken.begin(), broken.end(), [](char b) { return b; });
}

void Embedding::read(int token_id, float* out) const {
  const std::size_t start = std::size_t(token_id) * std::size_t(hidden);
  if (bf16) {
    const std::uint16_t* row = static_cast<const std::uint16_t*>(data) + start;
    for (int i = 0; i < hidden; ++i) out[i] = from_bf16(row[i]);
  } else {
    std::memcpy(out, static_cast<const float*>(data) + start, sizeof(float) * std::size_t(hidden));
    for (int i = 0; i < hidden && round; ++i) out[i] = from_bf16(to_bf16(out[i]));
  }
}

void TargetNetwork::forward(const std::vector<TargetRows>& calls, float* features) {
  const std::size_t hidden = std::size_t(embedding_.hidden);
  std::vector<Call> pass;
  std::vector<const std::int64_t*> ids;
  int rows = 0;
  const auto flush = [&] {
    if (!rows) return;
    run(pass, ids, features);
    features += std::size_t(rows) * hidden;
    pass.clear();
    ids.clear();
    rows = 0;
  };
  float* first = features;
  for (const TargetRows& call : calls) {
    for (int done = 0; done < call.call.count;) {  // chains may be cut: a chain goes on from its last row
      Call part = call.call;
      if (rows >= kMostRows || (part.parents && rows + part.count > kMostRows)) flush();  // a tree stays whole
      if (!part.parents) part.count = std::min(call.call.count - done, kMostRows - rows);
      pass.push_back(part);
      ids.push_back(call.token_ids + done);
      rows += part.count;
      done += part.count;
      if (done < call.call.count) flush();
    }
  }
  flush();

  int wanted = 0, total = 0;
  for (const TargetRows& call : calls) wanted += call.last_only ? 1 : call.call.count;
  const std::size_t width = std::size_t(stack_.stride());
  wanted_.reserve(std::size_t(wanted) * width * sizeof(float));
  float* out = wanted_.as<float>();
  for (const TargetRows& call : calls) {
    for (int i = call.last_only ? call.call.count - 1 : 0; i < call.call.count; ++i, out += width)
      std::memcpy(out, first + std::size_t(total + i) * hidden, sizeof(float) * hidden);
    total += call.call.count;
  }
  head_.forward(wanted_.as<float>(), width, wanted);
}

void TargetNetwork::run(const std::vector<Call>& calls, const std::vector<const std::int64_t*>& ids, float* features) {
  const std::size_t width = std::size_t(stack_.stride()), hidden = std::size_t(embedding_.hidden);
  std::size_t rows = 0;
  for (const Call& call : calls) rows += std::size_t(call.count);
  states_.reserve(rows * width * sizeof(float));
  float* x = states_.as<float>();
  for (std::size_t c = 0; c < calls.size(); ++c)
    for (int i = 0; i < calls[c].count; ++i, x += width) {
      embedding_.read(int(ids[c][i]), x);
      std::fill(x + hidden, x + width, 0.0f);
    }
  stack_.forward(calls, states_.as<float>());
  for (std::size_t t = 0; t < rows; ++t)
    std::memcpy(features + t * hidden, states_.as<float>() + t * width, sizeof(float) * hidden);
}

std::size_t pack(const void* rows, bool bf16, Kind kind, int n, int k, std::uint8_t* out, float* scale) {
  Packed w;
  w.kind = kind;
  w.n = n;
  w.k = k;
  const int group = w.group(), padded = w.padded_k();
  std::vector<float> row(std::size_t(padded), 0.0f);
  std::memset(out, kind == Kind::I8 ? 128 : 0, w.bytes());
  std::size_t bad = 0;
  for (int o = 0; o < w.blocks() * kBlock; ++o) {
    if (o >= n) {
      if (kind == Kind::I8) scale[o] = 0;
      continue;
    }
    float top = 0;
    for (int i = 0; i < k; ++i) {
      const std::size_t at = std::size_t(o) * std::size_t(k) + std::size_t(i);
      row[std::size_t(i)] = bf16 ? from_bf16(static_cast<const std::uint16_t*>(rows)[at]) : static_cast<const float*>(rows)[at];
      bad += !std::isfinite(row[std::size_t(i)]);
      top = std::max(top, std::fabs(row[std::size_t(i)]));
    }
    if (kind == Kind::I8) scale[o] = top / 127.0f;
    const float inverse = top > kLeastScaled && std::isfinite(top) ? 127.0f / top : 0.0f;
    std::uint8_t* block = out + std::size_t(o / kBlock) * w.block_bytes();
    for (int i = 0; i < padded; ++i) {
      const std::size_t at =
          (std::size_t(i / group) * kBlock + std::size_t(o % kBlock)) * std::size_t(group) + std::size_t(i % group);
      const float x = row[std::size_t(i)];
      if (kind == Kind::F32) {
        std::memcpy(block + at * 4, &x, 4);
      } else if (kind == Kind::BF16) {
        const std::uint16_t bits = to_bf16(x);
        std::memcpy(block + at * 2, &bits, 2);
      } else {
        block[at] = std::isfinite(x) ? std::uint8_t(std::nearbyint(x * inverse) + 128) : 128;
      }
    }
  }
  return bad;
}

}  // namespace eyas
