// The candidates of a draft tree, level by level; eyas/drafters/tree_builder.py explains each step.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace eyas {

// From a confidence to the rate at which such nodes are accepted: straight lines between points, one line per depth.
struct RateMap {
  std::vector<double> knots;  // (P,) confidences, ascending from 0 to 1; none: the map is not used
  std::vector<double> rates;  // (D, P); the last line serves all deeper levels

  double log_rate(double log_confidence, int depth) const;
};

// Which nodes a tree may have, by their sibling ranks: the children of shape node s are first[s], first[s] + 1, ..; the root
// is shape node 0. Without nodes the shape is not limited.
struct TreeShape {
  std::vector<int> first, count;

  bool is_limited() const { return !count.empty(); }
  int num_children(int node) const { return node < 0 ? 0 : count[std::size_t(node)]; }
};

// What the trees of an answer have in common.
struct TreeRules {
  int top_k = 1;                       // nodes of a frontier
  std::vector<std::int64_t> terminal;  // tokens that are never expanded
  bool by_value = true;                // false: nodes are expanded by their own confidence
  RateMap map;
  TreeShape shape;
};

// A tree as arrays: the root, then the nodes.
struct TreeArrays {
  std::vector<std::int64_t> token_ids, parents;
  std::vector<double> log_values;
};

class Candidates {
 public:
  explicit Candidates(std::shared_ptr<const TreeRules> rules) : rules_(std::move(rules)) {}

  // Expects a chain below the root; rates inside (0, 1). Before the first level.
  void expect(std::vector<std::int64_t> token_ids, std::vector<double> rates);
  bool expects() const { return !chain_.empty(); }
  // Adds what is left of it: the last step.
  void add_rest();
  // Adds `width` children of each of `parents`. False, and nothing is added, if a confidence is not a number.
  bool grow(const std::vector<int>& parents, int width, const std::int64_t* token_ids, const double* log_confidences);
  // Flat indices of the newest level's best nodes, best first.
  std::vector<int> frontier() const;
  // The best of all levels, or those that were expanded; flat indices, ascending.
  std::vector<int> best(int count) const;
  std::vector<int> expanded(int count) const;
  TreeArrays tree(std::int64_t root, const std::vector<int>& kept) const;
  // Of all of the chain.
  std::vector<double> expected_values() const;
  // Of the newest level's nodes, but for the chain's.
  std::vector<double> newest_values() const;

  std::int64_t token_id(int at) const { return token_ids_[std::size_t(at)]; }
  double log_value(int at) const { return log_values_[std::size_t(at)]; }
  // The same, but of a node whose child is expected without this child: what the draft can add there.
  double open_value(int at) const { return log_value(at) + (is_followed(at) ? std::log1p(-rates_[num_joined_]) : 0.0); }
  int parent_row(int at) const { return (at - newest_) / width_; }  // of a node of the newest level

 private:
  int size() const { return int(token_ids_.size()); }
  bool is_followed(int at) const { return at == chain_end_ && num_joined_ < chain_.size(); }
  void push(std::int64_t token_id, int parent, double own, int shape_node);
  bool can_be_expanded(int at) const;
  int join(int first);

  std::shared_ptr<const TreeRules> rules_;
  int depth_ = 0;    // levels so far
  int newest_ = -1;  // flat index of the newest level's first
  int width_ = 1;
  // The expected chain, how many of its tokens are candidates, their log values, and the last of them; -1 is the root.
  std::vector<std::int64_t> chain_;
  std::vector<double> rates_;
  std::size_t num_joined_ = 0;
  std::vector<double> joined_;
  int chain_end_ = -1;
  // By flat index.
  std::vector<std::int64_t> token_ids_;
  std::vector<int> parents_;
  std::vector<double> log_values_;
  std::vector<double> own_;       // mapped log confidences
  std::vector<int> shape_nodes_;  // -1: outside the shape

  std::vector<int> expanded_;  // parents, level by level, best first
};

}  // namespace eyas
