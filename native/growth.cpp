#include "growth.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace eyas {

void Growth::add(const std::vector<double>& values, int expanded) {
  if (expanded) spent_ += levels_[std::size_t(expanded) - 1];
  best_ = with(values);
  kept_ = best_size(best_, spent_);
}

int Growth::wanted(const std::vector<double>& log_values, const std::vector<double>& worth) const {
  const double least = kept_.size ? best_[std::size_t(kept_.size) - 1] : std::numeric_limits<double>::infinity();
  std::vector<double> more;
  int count = 0;
  for (const double log_value : log_values) {
    const double value = std::exp(log_value);
    if (value < least) continue;
    ++count;
    for (const double share : worth) more.push_back(value * share);
  }
  if (!count) return 0;
  return best_size(with(more), spent_ + levels_[std::size_t(count) - 1]).rate > kept_.rate ? count : 0;
}

std::vector<double> Growth::with(const std::vector<double>& more) const {
  std::vector<double> all(best_);
  all.insert(all.end(), more.begin(), more.end());
  const std::size_t count = std::min(max_nodes_, all.size());
  std::partial_sort(all.begin(), all.begin() + std::ptrdiff_t(count), all.end(), std::greater<>());
  all.resize(count);
  return all;
}

Growth::BestSize Growth::best_size(const std::vector<double>& best, double spent) const {
  double tokens = plain_tokens_;
  BestSize found{0, tokens / (other_ms_ + cycle_[0] + spent)};
  for (std::size_t count = 0;; ++count) {
    const double time = cycle_[count] + spent;
    if (time > room_) break;
    if (tokens > found.rate * (other_ms_ + time)) found = {int(count), tokens / (other_ms_ + time)};
    if (count == best.size()) break;
    tokens += best[count];
  }
  return found;
}

}  // namespace eyas
