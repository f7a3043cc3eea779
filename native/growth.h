// Where a tree of measured size stops: the twin of eyas/growth.py, which says what each step is for. The same sums in the
// same order, so the same trees.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace eyas {

class Growth {
 public:
  // cycle: milliseconds by tree size, for all sizes up to max_nodes; levels: by number of expanded nodes, from 1 on, and
  // root_ms for the root.
  Growth(std::vector<double> cycle, std::vector<double> levels, double root_ms, double room, int max_nodes, double other_ms,
         double other_tokens)
      : cycle_(std::move(cycle)),
        levels_(std::move(levels)),
        room_(room),
        max_nodes_(std::size_t(max_nodes)),
        other_ms_(other_ms),
        plain_tokens_(1.0 + other_tokens),
        root_ms_(root_ms) {}

  void expect(const std::vector<double>& values);
  bool begins(double share, const std::vector<double>& worth) const;
  void add(const std::vector<double>& values, int expanded);
  int wanted(const std::vector<double>& log_values, const std::vector<double>& worth) const;

  // Whether there is a price for so many expanded nodes, and for so large a tree.
  bool knows_level(std::size_t expanded) const { return expanded <= levels_.size(); }
  bool knows_size(std::size_t nodes) const { return nodes < cycle_.size(); }

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
  const double room_;
  const std::size_t max_nodes_;
  const double other_ms_, plain_tokens_, root_ms_;
  double spent_ = 0.0;
  std::vector<double> best_;  // values that were drafted, descending
  std::vector<double> expected_;
  BestSize kept_{0, 0.0};
};

}  // namespace eyas
