#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

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
  if (k <= kMaxTopK) return kernels.top_k(x, n, k, indices);
  std::vector<int> order(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) order[std::size_t(i)] = i;
  std::partial_sort(order.begin(), order.begin() + k, order.end(),
                    [&](int a, int b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
  std::copy(order.begin(), order.begin() + k, indices);
}

void Engine::multiply(const MatrixGroup& w, const float* x, std::size_t width, int tokens, float* y, std::size_t stride) {
  activations_.reserve(kernels, w, tokens);
  Epilogue epilogue;
  epilogue.y = y;
  epilogue.stride = stride;
  const int padded = round_up(w.parts->k, kBlock);
  pool.run([&](Phase& phase) {
    phase.each(tokens, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t) activations_.prepare(kernels, w, x + std::size_t(t) * width, padded, t);
    });
    multiply_together(phase, kernels, w, activations_, tokens, epilogue, w);
  });
}

LMHead::LMHead(Engine& engine, std::vector<PackedMatrix> parts, LogitTransform transform, std::vector<std::int64_t> ids,
               InputNorm norm)
    : engine_(engine), transform_(transform), norm_(std::move(norm)), ids_(std::move(ids)) {
  for (const PackedMatrix& part : parts) append(part);
  largest_id_ = ids_.empty() ? size_ - 1 : *std::max_element(ids_.begin(), ids_.end());
}

void LMHead::append(const PackedMatrix& part) {
  parts_.push_back(part);
  starts_.push_back(size_);
  places_.push_back(stride_);
  size_ += part.n;
  stride_ += std::size_t(part.blocks()) * kBlock;
}

Columns LMHead::columns() const {
  Columns columns;
  columns.count = size_;
  if (!ids_.empty()) columns.ids = ids_.data();
  return columns;
}

bool LMHead::has(std::int64_t id) const {
  const auto added = ids_.end() - std::ptrdiff_t(order_.size());
  return std::binary_search(ids_.begin(), added, id) || std::binary_search(added, ids_.end(), id);
}

std::unique_ptr<LMHead> LMHead::plus(const RowSource& source, std::vector<std::int64_t> ids) {
  ids.erase(std::remove_if(ids.begin(), ids.end(), [&](std::int64_t id) { return has(id); }), ids.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  if (ids.empty()) return nullptr;
  const auto added = ids_.begin() + std::ptrdiff_t(ids_.size() - order_.size());
  std::vector<PackedMatrix> own(parts_.begin(), parts_.end() - (added_ ? 1 : 0));
  const bool is_newest = !added_ || added_->count() == int(order_.size());
  if (!is_newest) ids.insert(ids.end(), added, ids_.end());  // another head has grown from this one: its rows are made again
  std::vector<std::int64_t> known(ids_.begin(), is_newest ? ids_.end() : added);
  auto grown = std::make_unique<LMHead>(engine_, std::move(own), transform_, std::move(known), norm_);
  if (is_newest) {
    grown->added_ = added_;
    grown->order_ = order_;
  }
  const int needed = int(grown->order_.size() + ids.size()), capacity = needed + needed / 4 + 2 * kBlock;
  if (!grown->added_)
    grown->added_ = std::make_shared<AddedRows>(source, capacity);
  else if (added_->count() + int(ids.size()) > added_->capacity())
    grown->added_ = std::make_shared<AddedRows>(*added_, capacity);
  grown->add(ids);
  std::swap(grown->logits_, logits_);
  std::swap(grown->scratch_, scratch_);
  return grown;
}

void LMHead::add(const std::vector<std::int64_t>& ids) {
  added_->add(ids);
  largest_id_ = std::max(largest_id_, *std::max_element(ids.begin(), ids.end()));
  ids_.reserve(ids_.size() + ids.size());
  const std::ptrdiff_t first = std::ptrdiff_t(ids_.size() - order_.size());
  for (const std::int64_t id : ids) {
    const auto place = std::lower_bound(ids_.begin() + first, ids_.end(), id);
    order_.insert(order_.begin() + (place - ids_.begin() - first), int(order_.size()));
    ids_.insert(place, id);
  }
  append(added_->first(int(order_.size())));
}

void LMHead::forward(const float* x, std::size_t width, int tokens) {
  if (!norm_.weight.empty()) {
    const std::size_t padded = norm_.weight.size();
    normed_.reserve(std::size_t(tokens) * padded * sizeof(float));
    float* normed = normed_.as<float>();
    engine_.pool.run([&](Phase& phase) {
      phase.each(tokens, 1, [&](int begin, int end) {
        for (int t = begin; t < end; ++t)
          engine_.kernels.norm(x + std::size_t(t) * width, norm_.weight.data(), norm_.eps, parts_.front().k,
                               normed + std::size_t(t) * padded);
      });
    });
    x = normed;
    width = padded;
  }
  logits_.reserve(std::size_t(tokens) * stride_ * sizeof(float));
  engine_.multiply(parts_, x, width, tokens, logits_.as<float>(), stride_);
  if (!order_.empty()) order_added(tokens);
  if (transform_.is_plain()) return;
  engine_.pool.run([&](Phase& phase) {
    phase.each(tokens * int(stride_) / kBlock, 64, [&](int begin, int end) {
      engine_.kernels.transform_logits(logits_.as<float>() + std::size_t(begin) * kBlock, (end - begin) * kBlock,
                                       transform_.scale, transform_.softcap);
    });
  });
}

// Puts the added rows' logits in the order of their ids.
void LMHead::order_added(int tokens) {
  std::vector<float> as_added(order_.size());
  for (int t = 0; t < tokens; ++t) {
    float* row = logits(parts_.size() - 1, t);
    std::copy(row, row + order_.size(), as_added.begin());
    for (std::size_t column = 0; column < order_.size(); ++column) row[column] = as_added[std::size_t(order_[column])];
  }
}

void LMHead::copy(int t, float* out) const {
  for (std::size_t part = 0; part < parts_.size(); ++part)
    std::memcpy(out + starts_[part], logits(part, t), sizeof(float) * std::size_t(parts_[part].n));
}

int LMHead::argmax(int t) const {
  int best = -1;
  float value = 0;
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    const int column = engine_.kernels.argmax(logits(part, t), parts_[part].n);
    if (column < 0) return -1;
    if (best < 0 || logits(part, t)[column] > value) {
      best = starts_[part] + column;
      value = logits(part, t)[column];
    }
  }
  return best;
}

// The parts' best, merged; returns the log of the sum over all columns.
double LMHead::best_of_token(int t, int k, int* columns, double* log_probs) const {
  std::vector<int> found, own(std::size_t(k), 0);
  std::vector<double> found_logits;
  double total = 0;
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    const int n = parts_[part].n, count = std::min(k, n);
    const float* values = logits(part, t);
    const double sum = double(engine_.kernels.log_sum_exp(values, n));
    total = part ? std::max(total, sum) + std::log1p(std::exp(-std::fabs(total - sum))) : sum;
    best_indices(engine_.kernels, values, n, count, own.data());
    for (int i = 0; i < count; ++i) {
      found.push_back(starts_[part] + own[std::size_t(i)]);
      found_logits.push_back(double(values[own[std::size_t(i)]]));
    }
  }
  std::vector<int> order(found.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = int(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return found_logits[std::size_t(a)] > found_logits[std::size_t(b)]; });
  for (int i = 0; i < k; ++i) {
    columns[i] = found[std::size_t(order[std::size_t(i)])];
    log_probs[i] = std::min(0.0, found_logits[std::size_t(order[std::size_t(i)])] - total);
  }
  return total;
}

bool LMHead::best(int tokens, int k, Best& best) {
  best.columns.resize(std::size_t(tokens) * std::size_t(k));
  best.log_probs.resize(best.columns.size());
  std::vector<char> broken(std::size_t(tokens), 0);
  engine_.pool.run([&](Phase& phase) {
    phase.each(tokens, 1, [&](int begin, int end) {
      for (int t = begin; t < end; ++t) {
        const std::size_t start = std::size_t(t) * std::size_t(k);
        const double total = best_of_token(t, k, best.columns.data() + start, best.log_probs.data() + start);
        broken[std::size_t(t)] = !(std::fabs(total) < 1e30);
      }
    });
  });
  return std::none_of(broken.begin(), broken.end(), [](char b) { return b; });
}

void LMHead::choose(const std::vector<int>& which, const std::vector<Sampler*>& samplers, const std::vector<Answer>& answers,
                    std::vector<int>& chosen) {
  chosen.resize(which.size());
  for (std::size_t i = 0; i < which.size(); ++i) chosen[i] = samplers[i]->choose(engine_.pool, logits(0, which[i]), answers[i]);
}

LMHead::Path LMHead::follow(int first, int count, const std::int64_t* token_ids, const std::int64_t* parents, Sampler* sampler,
                            Answer& answer) {
  Path path;
  for (int node = 0; node >= 0;) {
    path.nodes.push_back(node);
    const int token = sampler ? sampler->choose(engine_.pool, logits(0, first + node), answer) : argmax(first + node);
    path.token_ids.push_back(token);
    if (sampler && sampler->edits()) answer.ids.push_back(token);
    ++answer.length;
    int child = node + 1;
    while (child < count && (parents[child] != node || token_ids[child] != token)) ++child;
    node = child < count ? child : -1;
  }
  return path;
}

bool LMHead::couple(int tokens, int k, Sampler& sampler, const Columns& columns, const std::vector<Answer>& answers, double scale,
                    Best& best) {
  best.columns.resize(std::size_t(tokens) * std::size_t(k));
  best.log_probs.resize(best.columns.size());
  std::vector<char> broken(std::size_t(tokens), 0);
  scratch_.resize(std::size_t(engine_.pool.threads()));
  sampler.make_noise(engine_.pool, answers);
  const auto couple = [&](int begin, int end, int thread) {
    Scratch& own = scratch_[std::size_t(thread)];
    own.logits.resize(std::size_t(size()));
    for (int t = begin; t < end; ++t) {
      copy(t, own.logits.data());
      const std::size_t start = std::size_t(t) * std::size_t(k);
      broken[std::size_t(t)] = !sampler.couple(own.logits.data(), columns, answers[std::size_t(t)], scale, k, own.scores,
                                               best.columns.data() + start, best.log_probs.data() + start);
    }
  };
  if (sampler.is_plain() && !answers.front().allowed) {
    engine_.pool.run([&](Phase& phase) { phase.each(tokens, 1, couple); });
  } else {
    couple(0, tokens, 0);
  }
  return std::none_of(broken.begin(), broken.end(), [](char b) { return b; });
}

void Embedding::read(int token_id, float* out) const {
  table.read(token_id, out);
  for (int i = 0; i < hidden() && round; ++i) out[i] = from_bf16(to_bf16(out[i]));
  for (int i = 0; i < hidden() && scale != 1.0f; ++i) out[i] *= scale;
}

void TargetNetwork::forward(const std::vector<TargetCall>& calls, float* features, std::vector<Tap> taps) {
  const std::size_t hidden = std::size_t(embedding_.hidden());
  std::vector<Call> pass;
  std::vector<const std::int64_t*> ids;
  int tokens = 0;
  float* out = features;
  const auto flush = [&] {
    if (!tokens) return;
    run(pass, ids, out, taps);
    out += std::size_t(tokens) * hidden;
    for (Tap& tap : taps) tap.states += std::size_t(tokens) * hidden;
    pass.clear();
    ids.clear();
    tokens = 0;
  };
  for (const TargetCall& call : calls) {
    for (int done = 0; done < call.call.count;) {  // chains may be cut: a chain goes on from its last token
      Call part = call.call;
      if (tokens >= kMostTokens || (part.parents && tokens + part.count > kMostTokens)) flush();  // a tree stays whole
      if (!part.parents) part.count = std::min(call.call.count - done, kMostTokens - tokens);
      pass.push_back(part);
      ids.push_back(call.token_ids + done);
      tokens += part.count;
      done += part.count;
      if (done < call.call.count) flush();
    }
  }
  flush();

  int wanted = 0, total = 0;
  for (const TargetCall& call : calls) wanted += call.last_only ? 1 : call.call.count;
  const std::size_t width = std::size_t(stack_.stride());
  wanted_.reserve(std::size_t(wanted) * width * sizeof(float));
  float* token = wanted_.as<float>();
  for (const TargetCall& call : calls) {
    for (int i = call.last_only ? call.call.count - 1 : 0; i < call.call.count; ++i, token += width)
      std::memcpy(token, features + std::size_t(total + i) * hidden, sizeof(float) * hidden);
    total += call.call.count;
  }
  head_.forward(wanted_.as<float>(), width, wanted);
}

void TargetNetwork::run(const std::vector<Call>& calls, const std::vector<const std::int64_t*>& ids, float* features,
                        const std::vector<Tap>& taps) {
  const std::size_t width = std::size_t(stack_.stride()), hidden = std::size_t(embedding_.hidden());
  std::size_t tokens = 0;
  for (const Call& call : calls) tokens += std::size_t(call.count);
  states_.reserve(tokens * width * sizeof(float));
  float* x = states_.as<float>();
  for (std::size_t c = 0; c < calls.size(); ++c)
    for (int i = 0; i < calls[c].count; ++i, x += width) {
      embedding_.read(int(ids[c][i]), x);
      std::fill(x + hidden, x + width, 0.0f);
    }
  stack_.forward(calls, states_.as<float>(), taps);
  for (std::size_t t = 0; t < tokens; ++t)
    std::memcpy(features + t * hidden, states_.as<float>() + t * width, sizeof(float) * hidden);
}

}  // namespace eyas
