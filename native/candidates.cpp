#include "candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace eyas {

namespace {
constexpr double kNever = 1e-300;  // a rate that adds nothing, and has a logarithm
constexpr double kNone = -std::numeric_limits<double>::infinity();

// How the rate of an expected token and the draft's confidence in it combine, in odds; fitted: docs/log.md, 2026-11-28.
constexpr double kDoubt = 0.32, kTrust = 2.3;
constexpr double kMostJoint = 1.0 - 1e-15;  // what is left for siblings has a logarithm

double joint_rate(double rate, double seen) {
  if (seen >= kMostJoint) return kMostJoint;
  const double odds = rate / (1.0 - rate);
  const double joint = kDoubt * odds + kTrust * std::sqrt(odds) * (seen / (1.0 - seen));
  return std::min(kMostJoint, joint / (1.0 + joint));
}

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

void Candidates::expect(std::vector<std::int64_t> token_ids, std::vector<double> rates) {
  chain_ = std::move(token_ids);
  rates_ = std::move(rates);
}

void Candidates::push(std::int64_t token_id, int parent, double own, int shape_node) {
  token_ids_.push_back(token_id);
  parents_.push_back(parent);
  own_.push_back(own);
  shape_nodes_.push_back(shape_node);
  log_values_.push_back(own + (parent < 0 ? 0.0 : log_value(parent)));
}

bool Candidates::grow(const std::vector<int>& parents, int width, const std::int64_t* token_ids, const double* log_confidences) {
  const std::size_t count = parents.size() * std::size_t(width);
  if (std::any_of(log_confidences, log_confidences + count, [](double x) { return std::isnan(x); })) return false;
  const TreeShape& shape = rules_->shape;
  const int first = size();
  int joined = -1;
  ++depth_;
  for (const int parent : parents) {
    const int row = size();
    const int above = !shape.is_limited() ? -1 : parent < 0 ? 0 : shape_nodes_[std::size_t(parent)];
    const int allowed = shape.is_limited() ? shape.num_children(above) : width;
    for (int rank = 0; rank < width; ++rank) {
      double own = std::min(*log_confidences++, 0.0);  // a child never beats its parent
      if (!rules_->map.knots.empty()) own = rules_->map.log_rate(own, depth_);
      if (rank >= allowed) own = kNone;
      push(*token_ids++, parent, own, above >= 0 && rank < allowed ? shape.first[std::size_t(above)] + rank : -1);
    }
    if (is_followed(parent)) joined = join(row);
    if (parent >= 0) expanded_.push_back(parent);
  }
  if (joined >= 0) {
    chain_end_ = joined;
    ++num_joined_;
    joined_.push_back(log_value(joined));
  }
  newest_ = first;
  width_ = width;
  return true;
}

// The chain's next token joins the children from `first` on, the last ones so far. Its flat index.
int Candidates::join(int first) {
  const auto found = std::find(token_ids_.begin() + first, token_ids_.end(), chain_[num_joined_]);
  const bool is_there = found != token_ids_.end();
  const int at = is_there ? int(found - token_ids_.begin()) : size() - 1;
  const double seen = is_there ? own_[std::size_t(at)] : kNone;
  token_ids_[std::size_t(at)] = chain_[num_joined_];
  const double joint = joint_rate(rates_[num_joined_], std::exp(seen));
  if (std::log(joint) <= seen) return at;
  const double loss = std::log1p(-joint) - std::log1p(-std::exp(seen));
  const double above = chain_end_ < 0 ? 0.0 : log_value(chain_end_);
  for (int child = first; child < size(); ++child) {
    double& own = own_[std::size_t(child)];
    own = child == at ? std::log(joint) : own + loss;
    log_values_[std::size_t(child)] = own + above;
  }
  return at;
}

std::vector<double> Candidates::expected_values() const {
  std::vector<double> values;
  for (const double joined : joined_) values.push_back(std::exp(joined));
  double value = values.empty() ? 1.0 : values.back();
  for (std::size_t at = num_joined_; at < chain_.size(); ++at) values.push_back(value *= rates_[at]);
  return values;
}

void Candidates::add_rest() {
  for (; num_joined_ < chain_.size(); ++num_joined_) {
    push(chain_[num_joined_], chain_end_, std::log(rates_[num_joined_]), -1);
    chain_end_ = size() - 1;
  }
}

bool Candidates::can_be_expanded(int at) const {
  const TreeShape& shape = rules_->shape;
  const std::vector<std::int64_t>& terminal = rules_->terminal;
  if (shape.is_limited() && !shape.num_children(shape_nodes_[std::size_t(at)])) return false;
  return log_value(at) > kNone && std::find(terminal.begin(), terminal.end(), token_id(at)) == terminal.end();
}

std::vector<int> Candidates::frontier() const {
  std::vector<int> chosen;
  for (int at = std::max(newest_, 0); at < size(); ++at)
    if (can_be_expanded(at)) chosen.push_back(at);
  if (!rules_->by_value) {
    keep_best(chosen, own_, rules_->top_k);
    return chosen;
  }
  std::vector<double> merit(log_values_);
  if (chain_end_ >= 0) merit[std::size_t(chain_end_)] = open_value(chain_end_);
  keep_best(chosen, merit, rules_->top_k);
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
  for (int at = std::max(newest_, 0); at < size(); ++at)
    if (at != chain_end_) values.push_back(std::exp(log_value(at)));
  return values;
}

}  // namespace eyas
