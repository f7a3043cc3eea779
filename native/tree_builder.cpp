#include "tree_builder.h"

#include <cmath>

namespace eyas {

namespace {
constexpr double kMemory = 0.1;  // weight of the newest level in the mean worth
}

void TreeBuilder::size_by_costs(Growth growth, double* worth) {
  growth_.emplace(std::move(growth));
  worth_ = worth;
  if (candidates_.expects()) growth_->expect(candidates_.expected_values());
}

bool TreeBuilder::begins() const {
  if (!growth_ || !candidates_.expects()) return true;
  const double rate = candidates_.expected_values().front();
  return growth_->begins(1.0 - rate * rate, worth(1), kRanks);
}

bool TreeBuilder::step(int width, const std::int64_t* token_ids, const double* log_confidences) {
  static const Frontier root{-1};
  const int expanded = level_ == 0 ? 0 : int(frontier_.size());
  const double above = expanded ? std::exp(candidates_.open_value(frontier_.front())) : 1.0;
  if (!candidates_.grow(expanded ? frontier_ : root, width, token_ids, log_confidences)) return false;
  ++level_;
  if (growth_) {
    const std::vector<double> values = candidates_.newest_values();
    if (candidates_.expects())  // joined values do not measure the draft alone
      growth_->expect(candidates_.expected_values());
    else
      remember(values, above);
    growth_->add(values, expanded);
  }
  frontier_.clear();
  if (level_ >= depth_) return true;
  frontier_ = candidates_.frontier();
  if (growth_) {
    std::vector<double> log_values;
    for (const int at : frontier_) log_values.push_back(candidates_.open_value(at));
    frontier_.resize(std::size_t(growth_->wanted(log_values, worth(level_ + 1), kRanks)));
  }
  return true;
}

void TreeBuilder::remember(const std::vector<double>& values, double above) {
  double* mean = worth(level_);
  for (int rank = 0; rank < kRanks && rank < int(values.size()); ++rank)
    mean[rank] += kMemory * (values[std::size_t(rank)] / above - mean[rank]);
}

TreeArrays TreeBuilder::finish(std::int64_t root, std::optional<int> count) {
  candidates_.add_rest();
  return candidates_.tree(root, candidates_.best(count.value_or(growth_ ? growth_->size() : 0)));
}

}  // namespace eyas
