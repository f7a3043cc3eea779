#include "candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace eyas {

namespace {
constexpr double kNever = 1e-300;  // a rate that adds nothing, and has a logarithm
constexpr double kNone = -std::numeric_limits<double>::infinity();

// The `count` first in the order "merit descending, then index ascending".
void keep_best(std::vector<int>& indices, const std::vector<double>& merit, int count) {
  const auto better = [&](int a, int b) {
    const double left = merit[std::size_t(a)], right = merit[std::size_t(b)];
    return left > right || (left == right && a < b);
  };
  const std::size_t kept = std::min(indices.size(), std::size_t(std::max(count, 0)));
  std::partial_sort(indices.begin(), indices.begin() + std::ptrdiff_t(kept), indices.end(), better);
  indices.resize(kept);
}
}  // namespace

double RateMap::log_rate(double log_confidence, int depth) const {
  const double p = std::exp(log_confidence);
  const std::size_t points = knots.size(), lines = rates.size() / points;
  const double* rate = rates.data() + (std::min(std::size_t(depth), lines) - 1) * points;
  const std::size_t at = std::size_t(std::upper_bound(knots.begin(), knots.end(), p) - knots.begin()) - 1;
  double mapped = rate[at];
  if (knots[at] != p && at + 1 < points) mapped += (rate[at + 1] - rate[at]) / (knots[at + 1] - knots[at]) * (p - knots[at]);
  return std::log(std::max(mapped, kNever));
}

bool Candidates::fits(const std::vector<int>& parents) const {
  const int end = depth_ == 0 ? 0 : size();
  return std::all_of(parents.begin(), parents.end(), [&](int at) { return at >= newest_ && at < end; });
}

bool Candidates::grow(const std::vector<int>& parents, int width, const std::int64_t* token_ids, const double* log_confidences) {
  const std::size_t count = parents.size() * std::size_t(width);
  if (std::any_of(log_confidences, log_confidences + count, [](double x) { return std::isnan(x); })) return false;
  const int first = size();
  ++depth_;
  token_ids_.insert(token_ids_.end(), token_ids, token_ids + count);
  for (std::size_t row = 0; row < parents.size(); ++row) {
    const int parent = parents[row];
    const double above = parent < 0 ? 0.0 : log_values_[std::size_t(parent)];
    for (int rank = 0; rank < width; ++rank) {
      double own = std::min(*log_confidences++, 0.0);  // a child never beats its parent
      if (!map_.knots.empty()) own = map_.log_rate(own, depth_);
      parents_.push_back(parent);
      own_.push_back(own);
      log_values_.push_back(own + above);
    }
    if (parent >= 0) expanded_.push_back(parent);
  }
  newest_ = first;
  width_ = width;
  return true;
}

std::vector<int> Candidates::frontier() const {
  std::vector<int> chosen;
  for (int at = std::max(newest_, 0); at < size(); ++at)
    if (log_value(at) > kNone && std::find(terminal_.begin(), terminal_.end(), token_id(at)) == terminal_.end())
      chosen.push_back(at);
  keep_best(chosen, by_value_ ? log_values_ : own_, top_k_);
  return chosen;
}

std::vector<int> Candidates::best(int count) const {
  std::vector<int> kept;
  for (int at = 0; at < size(); ++at)
    if (log_value(at) > kNone) kept.push_back(at);
  keep_best(kept, log_values_, count);
  std::sort(kept.begin(), kept.end());
  return kept;
}

std::vector<int> Candidates::expanded(int count) const {
  std::vector<int> kept = expanded_;
  const std::vector<int> last = frontier();
  kept.insert(kept.end(), last.begin(), last.end());
  kept.resize(std::min(kept.size(), std::size_t(std::max(count, 0))));
  std::sort(kept.begin(), kept.end());
  return kept;
}

TreeArrays Candidates::tree(std::int64_t root, const std::vector<int>& kept) const {
  TreeArrays tree{{root}, {-1}, {0.0}};
  std::vector<std::int64_t> node_of(std::size_t(size()), 0);
  for (const int at : kept) {
    const int parent = parents_[std::size_t(at)];
    node_of[std::size_t(at)] = std::int64_t(tree.parents.size());
    tree.token_ids.push_back(token_id(at));
    tree.parents.push_back(parent < 0 ? 0 : node_of[std::size_t(parent)]);
    tree.log_values.push_back(log_value(at));
  }
  return tree;
}

std::vector<double> Candidates::newest_values() const {
  std::vector<double> values;
  for (int at = std::max(newest_, 0); at < size(); ++at) values.push_back(std::exp(log_value(at)));
  return values;
}

}  // namespace eyas
