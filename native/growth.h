// How large a cost-aware tree gets; eyas/drafters/policy/cost_aware.py explains the rules.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace eyas {

class Growth {
 public:
  // cycle: [n] milliseconds that count as the sequence's own if n draft tokens are verified, up to max_nodes; levels: [n]
  // milliseconds of expanding n + 1 nodes, root_ms those of the root; left_ms: all that drafting and verifying may take;
  // other_ms and other_tokens: what the cycle takes for, and is expected to give, the other sequences of the batch.
  Growth(std::vector<double> cycle, std::vector<double> levels, double root_ms, double left_ms, int max_nodes, double other_ms,
         double other_tokens)
      : cycle_(std::move(cycle)),
        levels_(std::move(levels)),
        left_ms_(left_ms),
        max_nodes_(std::size_t(max_nodes)),
        other_ms_(other_ms),
        plain_tokens_(1.0 + other_tokens),
        root_ms_(root_ms) {}

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
  double time() const { return spent_ + cycle_[std::size_t(kept_.size)]; }

 private:
  struct BestSize {
    int size;
    double rate;  // tokens a millisecond
  };
  BestSize best_size(const std::vector<double>& best, double spent) const;
  void keep_largest(std::vector<double>& values) const;  // in descending order
  std::vector<double> with(const std::vector<double>& more) const;

  const std::vector<double> cycle_, levels_;
  const double left_ms_;
  const std::size_t max_nodes_;
  const double other_ms_, plain_tokens_, root_ms_;
  double spent_ = 0.0;
  std::vector<double> best_;  // values that were drafted, descending
  std::vector<double> expected_;
  BestSize kept_{0, 0.0};
};

}  // namespace eyas
