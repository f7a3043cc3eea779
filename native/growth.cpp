#include "growth.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace eyas {

void Growth::expect(const std::vector<double>& values) {
  expected_ = values;
  kept_ = best_size(with({}), spent_);
}

bool Growth::begins(double share, const double* worth, int ranks) const {
  std::vector<double> more;
  for (int rank = 0; rank < ranks; ++rank) more.push_back(share * worth[rank]);
  return best_size(with(more), times_->root).rate > kept_.rate;
}

void Growth::add(const std::vector<double>& values, int expanded) {
  spent_ += expanded ? times_->levels[std::size_t(expanded) - 1] : times_->root;
  best_.insert(best_.end(), values.begin(), values.end());
  keep_largest(best_);
  kept_ = best_size(with({}), spent_);
}

int Growth::wanted(const std::vector<double>& log_values, const double* worth, int ranks) const {
  const double least = kept_.size ? with({})[std::size_t(kept_.size) - 1] : std::numeric_limits<double>::infinity();
  std::vector<double> more;
  int count = 0;
  for (const double log_value : log_values) {
    const double value = std::exp(log_value);
    if (value < least) continue;
    ++count;
    for (int rank = 0; rank < ranks; ++rank) more.push_back(value * worth[rank]);
  }
  if (!count) return 0;
  return best_size(with(more), spent_ + times_->levels[std::size_t(count) - 1]).rate > kept_.rate ? count : 0;
}

std::vector<double> Growth::with(const std::vector<double>& more) const {
  std::vector<double> all(best_);
  all.insert(all.end(), expected_.begin(), expected_.end());
  all.insert(all.end(), more.begin(), more.end());
  keep_largest(all);
  return all;
}

void Growth::keep_largest(std::vector<double>& values) const {
  const std::size_t count = std::min(max_nodes_, values.size());
  std::partial_sort(values.begin(), values.begin() + std::ptrdiff_t(count), values.end(), std::greater<>());
  values.resize(count);
}

Growth::BestSize Growth::best_size(const std::vector<double>& best, double spent) const {
  double tokens = plain_tokens_;
  BestSize found{0, tokens / (other_ms_ + times_->cycle[0] + spent)};
  for (std::size_t count = 0;; ++count) {
    const double time = times_->cycle[count] + spent;
    if (time > left_ms_) break;
    if (tokens > found.rate * (other_ms_ + time)) found = {int(count), tokens / (other_ms_ + time)};
    if (count == best.size()) break;
    tokens += best[count];
  }
  return found;
}

}  // namespace eyas
