#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace eyas {

namespace {
constexpr double kReach = 26.01;      // g lies in [-3.13, 22.88]: nothing further below the best can win
constexpr double kLeastPlain = 1e-6;  // a lower temperature's scores may leave float's range
constexpr double kNone = -std::numeric_limits<double>::infinity();

// One word of Philox4x32-10 (Salmon et al., SC 2011).
std::uint32_t philox(std::uint32_t position, std::uint32_t id, std::uint32_t seed, std::uint32_t choice) {
  std::uint32_t c0 = position, c1 = id, c2 = 0, c3 = 0, k0 = seed, k1 = choice;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t(c0) * 0xD2511F53u, p1 = std::uint64_t(c2) * 0xCD9E8D57u;
    c0 = std::uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = std::uint32_t(p1);
    c2 = std::uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = std::uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// exp(x) for x <= 0 within 1e-15, 0 below -700; plain arithmetic, so that the compiler makes vectors of it.
double exponential(double x) {
  const double cut = x > -700 ? x : -700;
  const double n = std::floor(cut * 1.4426950408889634 + 0.5);
  const double r = (cut - n * 0.693145751953125) - n * 1.42860682030941723212e-6;
  double p = 1.0 / 6227020800.0;
  for (const double c : {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
                         1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0})
    p = p * r + c;
  const std::uint64_t bits = std::uint64_t(std::int64_t(n) + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, 8);
  return x > -700 ? p * power : 0;
}

using Row = std::vector<double>;

void keep_top_k(Row& row, Row&, double value) {
  if (value >= double(row.size())) return;
  const std::size_t k = std::size_t(value);
  std::vector<double> sorted = row;
  std::nth_element(sorted.begin(), sorted.begin() + std::ptrdiff_t(k) - 1, sorted.end(), std::greater<double>());
  const double edge = sorted[k - 1];
  std::size_t room = k - std::size_t(std::count_if(row.begin(), row.end(), [&](double x) { return x > edge; }));
  for (double& x : row) {
    if (x > edge) continue;
    if (x == edge && room > 0) {
      --room;
    } else {
      x = kNone;
    }
  }
}

// exp(x - top) of each logit, and their sum.
double weigh(const Row& row, double top, Row& masses) {
  masses.resize(row.size());
  double total = 0;
  for (std::size_t c = 0; c < row.size(); ++c) masses[c] = exponential(row[c] - top);
  for (const double mass : masses) total += mass;
  return total;
}

// The smallest set of best tokens whose mass reaches p, summed from the worst token upwards as transformers does.
void keep_top_p(Row& row, Row& masses, double p) {
  const double top = *std::max_element(row.begin(), row.end());
  const double total = weigh(row, top, masses), spare = 1 - p;
  // What lies below some edge goes as a whole if it holds no more than 1 - p; only the rest has to be sorted.
  double edge = kNone, tail = 0;
  for (const double depth : {3.0, 6.0, 12.0, 24.0}) {
    double below = 0;
    for (std::size_t c = 0; c < row.size(); ++c) below += row[c] < top - depth ? masses[c] : 0;
    if (below / total <= spare) {
      edge = top - depth;
      tail = below;
      break;
    }
  }
  std::vector<int> order;
  for (std::size_t c = 0; c < row.size(); ++c)
    if (row[c] >= edge && row[c] > kNone) order.push_back(int(c));
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[std::size_t(a)] > row[std::size_t(b)]; });
  std::size_t keep = order.size();
  for (; keep > 1; --keep) {
    tail += masses[std::size_t(order[keep - 1])];
    if (tail / total > spare) break;
  }
  std::vector<double> kept(row.size(), kNone);
  for (std::size_t i = 0; i < keep; ++i) kept[std::size_t(order[i])] = row[std::size_t(order[i])];
  row.swap(kept);
}

void keep_min_p(Row& row, Row& masses, double share) {
  const double top = *std::max_element(row.begin(), row.end());
  const double total = std::log(weigh(row, top, masses)), largest = std::exp(-total);
  for (double& x : row)
    if (!(std::exp(x - top - total) >= share * largest)) x = kNone;
}

// One more: a function above, and its row here.
constexpr Filter kFilters[] = {{"top_k", keep_top_k}, {"top_p", keep_top_p}, {"min_p", keep_min_p}};
}  // namespace

const Filter* find_filter(const std::string& name) {
  for (const Filter& filter : kFilters)
    if (name == filter.name) return &filter;
  return nullptr;
}

std::vector<std::string> filter_names() {
  std::vector<std::string> names;
  for (const Filter& filter : kFilters) names.push_back(filter.name);
  return names;
}

double Sampler::draw(int position, int id) const {
  const double u =
      (double(philox(std::uint32_t(position), std::uint32_t(id), config_.seed, config_.choice)) + 0.5) / 4294967296.0;
  return -std::log(-std::log(u));
}

void Sampler::make_noise(ThreadPool& pool, const std::vector<Answer>& answers) {
  if (config_.temperature == 0) return;
  constexpr int kPart = 64;  // vectors that a thread makes at a time
  for (const Answer& answer : answers) {
    const int position = next_position(answer);
    if (noise_.count(position)) continue;
    std::vector<float> row;
    if (!spare_.empty()) {
      row = std::move(spare_.back());
      spare_.pop_back();
    }
    row.resize(std::size_t(round_up(config_.vocab_size, kLanes)));
    const Draw draw{config_.seed, config_.choice, std::uint32_t(position)};
    pool.run([&](Phase& phase) {
      phase.each(int(row.size()) / kLanes, kPart, [&](int begin, int end) {
        kernels_.gumbel(draw, begin * kLanes, (end - begin) * kLanes, row.data() + begin * kLanes);
      });
    });
    noise_[position] = std::move(row);
  }
}

// Positions ascend: earlier noise is not needed again.
void Sampler::forget(int position) {
  for (auto it = noise_.begin(); it != noise_.end();) {
    if (it->first >= position) {
      ++it;
      continue;
    }
    spare_.push_back(std::move(it->second));
    it = noise_.erase(it);
  }
}

bool Sampler::edits() const {
  return !config_.bias.empty() || config_.repetition_penalty != 1 || config_.presence_penalty != 0 ||
         config_.frequency_penalty != 0 || config_.min_new_tokens > 0;
}

bool Sampler::is_plain() const { return config_.temperature > kLeastPlain && !edits() && config_.filters.empty(); }

int Sampler::choose(ThreadPool& pool, const float* logits, const Answer& answer) {
  const int position = next_position(answer);
  forget(position);
  if (is_plain() && !answer.allowed) return choose_plain(pool, logits, position);
  Columns all;
  all.count = config_.vocab_size;
  if (!process(logits, all, answer)) return -1;
  double top = kNone;
  for (const double x : row_) top = std::max(top, x);
  int best = -1;
  double best_score = kNone;
  for (int id = 0; id < config_.vocab_size; ++id) {
    const double x = row_[std::size_t(id)];
    if (!(x >= top - kReach)) continue;
    const double score = config_.temperature > 0 ? x + draw(position, id) : x;
    if (best < 0 || score > best_score) {
      best = id;
      best_score = score;
    }
  }
  return best;
}

// Without processors: scores in float find the few tokens that may win, each thread in its part, which are then drawn exactly.
int Sampler::choose_plain(ThreadPool& pool, const float* logits, int position) {
  const int n = config_.vocab_size, count = pool.threads(), vectors = (n + kLanes - 1) / kLanes;
  scores_.resize(std::size_t(n));
  parts_.resize(std::size_t(count));
  pool.run([&](Phase& phase) {
    phase.each(count, 1, [&](int begin, int end) {
      for (int i = begin; i < end; ++i) {
        const int first = vectors * i / count * kLanes, last = std::min(n, vectors * (i + 1) / count * kLanes);
        score_part(logits, position, first, last - first, parts_[std::size_t(i)]);
      }
    });
  });
  float top = kNever;
  for (const Part& part : parts_) {
    if (!part.sound) return -1;
    top = std::max(top, part.top);
  }
  const float edge = top - noise_error(top);
  int best = -1;
  double best_score = kNone;
  for (const Part& part : parts_) {
    for (const int id : part.able) {
      if (scores_[std::size_t(id)] < edge) continue;
      const double score = double(logits[id]) / config_.temperature + draw(position, id);
      if (best < 0 || score > best_score) {
        best = id;
        best_score = score;
      }
    }
  }
  return best;
}

// Noise that drafting has made is used again; otherwise most of it is never needed.
void Sampler::score_part(const float* logits, int position, int first, int n, Part& part) {
  part = {};
  if (n <= 0) return;
  const int likely = kernels_.argmax(logits + first, n);
  part.sound = likely >= 0;
  if (!part.sound) return;
  const float inverse = float(1.0 / config_.temperature);
  float* scores = scores_.data() + first;
  const auto made = noise_.find(position);
  if (made != noise_.end()) {
    part.top = kernels_.add_noise(logits + first, inverse, made->second.data() + first, n, scores);
  } else {
    const Draw noise{config_.seed, config_.choice, std::uint32_t(position)};
    part.top = kernels_.noisy_scores(logits + first, inverse, noise, first, likely, n, scores);
  }
  const float edge = part.top - noise_error(part.top);
  for (int i = 0; (i = kernels_.next_at_least(scores, i, n, edge)) < n; ++i) part.able.push_back(first + i);
}

bool Sampler::couple(const float* logits, const Columns& columns, const Answer& answer, double scale, int k,
                     std::vector<float>& scores, int* best, double* log_probs) {
  // Without a temperature there is no noise: then tokens are ranked by processed logits.
  const float* drawn = config_.temperature > 0 ? noise_.at(next_position(answer)).data() : nullptr;
  scores.assign(std::size_t(round_up(columns.count, kLanes)), float(kNone));
  const bool is_simple = is_plain() && !answer.allowed;
  const bool sound = is_simple ? score_plain(logits, columns, drawn, scores) : score(logits, columns, answer, drawn, scores);
  if (!sound) return false;
  best_indices(kernels_, scores.data(), columns.count, k, best);
  const float top = scores[std::size_t(best[0])];
  const double total =
      top > float(kNone) ? std::log(double(kernels_.sum_exp(scores.data(), int(scores.size()), top, float(1.0 / scale)))) : 0;
  for (int i = 0; i < k; ++i) {
    const float own = scores[std::size_t(best[i])];
    log_probs[i] = own > float(kNone) ? std::min(0.0, (double(own) - double(top)) / scale - total) : kNone;
  }
  return true;
}

// Scores relative to the best logit's, small whatever the logits are; -infinity for what cannot win.
bool Sampler::score_plain(const float* logits, const Columns& columns, const float* drawn, std::vector<float>& scores) const {
  const int likely = kernels_.argmax(logits, columns.count);
  if (likely < 0) return false;
  const float top = logits[likely], inverse = float(1.0 / config_.temperature);
  for (int c = 0; c < columns.count; ++c) {
    const float x = (logits[c] - top) * inverse;
    scores[std::size_t(c)] = x >= float(-kReach) ? x + drawn[columns.id(c)] : float(kNone);
  }
  return true;
}

bool Sampler::score(const float* logits, const Columns& columns, const Answer& answer, const float* drawn,
                    std::vector<float>& scores) {
  if (!process(logits, columns, answer)) return false;
  double top = kNone;
  for (const double x : row_) top = std::max(top, x);
  for (int c = 0; c < columns.count; ++c) {
    const double x = row_[std::size_t(c)];
    if (x > kNone && (!drawn || x >= top - kReach))
      scores[std::size_t(c)] = float(x - top + (drawn ? double(drawn[columns.id(c)]) : 0.0));
  }
  return true;
}

bool Sampler::process(const float* logits, const Columns& columns, const Answer& answer) {
  row_.resize(std::size_t(columns.count));
  double total = 0;
  for (int c = 0; c < columns.count; ++c) {
    row_[std::size_t(c)] = double(logits[c]);
    total += double(logits[c]);
  }
  if (total != total) return false;
  if (answer.allowed) {
    int left = 0;
    for (int c = 0; c < columns.count; ++c) {
      if (answer.allows(columns.id(c))) {
        ++left;
      } else {
        row_[std::size_t(c)] = kNone;
      }
    }
    if (!left) return true;  // a draft vocabulary may have none of the tokens that may follow
  }
  if (edits()) edit(columns, answer);
  if (config_.temperature == 0) return true;
  for (double& x : row_) x /= config_.temperature;
  for (const auto& [filter, value] : config_.filters) filter->keep(row_, masses_, value);
  return true;
}

void Sampler::edit(const Columns& columns, const Answer& answer) {
  const auto at = [&](int id) -> double* {
    const int column = columns.column(id);
    return column < 0 ? nullptr : &row_[std::size_t(column)];
  };
  for (const auto& [id, bias] : config_.bias)
    if (double* x = at(id)) *x += bias;
  std::unordered_map<int, int> counts;
  for (const int id : answer.ids) ++counts[id];
  if (config_.repetition_penalty != 1) {
    const auto penalise = [&](int id) {
      if (double* x = at(id)) *x = *x < 0 ? *x * config_.repetition_penalty : *x / config_.repetition_penalty;
    };
    for (const int id : config_.prompt_ids) {
      penalise(id);
      counts.emplace(id, 0);
    }
    for (const auto& [id, count] : counts)
      if (count && !std::binary_search(config_.prompt_ids.begin(), config_.prompt_ids.end(), id)) penalise(id);
  }
  for (const auto& [id, count] : counts)
    if (double* x = count ? at(id) : nullptr) *x -= config_.presence_penalty + config_.frequency_penalty * count;
  if (answer.length < config_.min_new_tokens)
    for (const int id : config_.withheld)
      if (double* x = at(id)) *x = kNone;
}

}  // namespace eyas
