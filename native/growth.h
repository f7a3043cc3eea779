// How large a cost-aware tree gets; eyas/drafters/policy/cost_aware.py explains the rules.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace eyas {

// Milliseconds that many cycles share.
struct CycleTimes {
  std::vector<double> cycle;   // [n] counts as the sequence's own if n draft tokens are verified
  std::vector<double> levels;  // [n] of expanding n + 1 nodes
  double root = 0;             // of the first level
};

class Growth {
 public:
  // left_ms: all that drafting and verifying may take; max_nodes: less than there are times of a cycle; other_ms and
  // other_tokens: what the cycle takes for, and is expected to give, the other sequences of the batch.
  Growth(std::shared_ptr<const CycleTimes> times, double left_ms, int max_nodes, double other_ms, double other_tokens)
      : times_(std::move(times)),
        left_ms_(left_ms),
        max_nodes_(std::size_t(max_nodes)),
        other_ms_(other_ms),
        plain_tokens_(1.0 + other_tokens) {}

  // Nodes of these values are there without drafting.
  void expect(const std::vector<double>& values);
  // Whether level 1 pays if the root's best children are worth `share` times `worth`.
  bool begins(double share, const double* worth, int ranks) const;
  // A level of these values was drafted below `expanded` nodes; 0 is level 1.
  void add(const std::vector<double>& values, int expanded);
  // How many nodes of a frontier with these log values, descending, to expand; 0 ends the tree. `worth`: of a node's best
  // children, as shares of its value.
  int wanted(const std::vector<double>& log_values, const double* worth, int ranks) const;

  double spent() const { return spent_; }
  int size() const { return kept_.size; }
  double time() const { return spent_ + times_->cycle[std::size_t(kept_.size)]; }

 private:
  struct BestSize {
    int size;
    double rate;  // tokens a millisecond
  };
  BestSize best_size(const std::vector<double>& best, double spent) const;
  void keep_largest(std::vector<double>& values) const;  // in descending order
  std::vector<double> with(const std::vector<double>& more) const;

  std::shared_ptr<const CycleTimes> times_;
  const double left_ms_;
  const std::size_t max_nodes_;
  const double other_ms_, plain_tokens_;
  double spent_ = 0.0;
  std::vector<double> best_;  // values that were drafted, descending
  std::vector<double> expected_;
  BestSize kept_{0, 0.0};
};

}  // namespace eyas
