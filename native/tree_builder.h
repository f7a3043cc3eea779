// A dynamic draft tree under construction: candidates, and by costs its size. One call for each level.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "candidates.h"
#include "growth.h"

namespace eyas {

class TreeBuilder {
 public:
  static constexpr int kRanks = 3;  // siblings whose worth is remembered, by depth

  // The nodes to expand next, best first: flat indices.
  using Frontier = std::vector<int>;

  TreeBuilder(Candidates candidates, int depth) : candidates_(std::move(candidates)), depth_(depth) {}

  // Lets costs decide how deep and how large the tree gets. Before the first level, after the candidates' chain.
  // worth: (depth + 1, kRanks) of children, as shares of their parent's value, by their depth; kept up to date.
  void size_by_costs(Growth growth, double* worth);
  // Whether level 1 pays, besides the expected chain.
  bool begins() const;
  // Whether a level of this many rows can be added now.
  bool fits(std::size_t rows) const { return rows > 0 && rows == (level_ == 0 ? 1 : frontier_.size()); }
  // Adds a level: `width` children of each frontier node. False if a confidence is not a number.
  bool step(int width, const std::int64_t* token_ids, const double* log_confidences);
  // What to expand next; empty at the end of the tree.
  const Frontier& frontier() const { return frontier_; }
  const Candidates& candidates() const { return candidates_; }
  // The tree of the `count` best candidates; without a count the size that costs decide.
  TreeArrays finish(std::int64_t root, std::optional<int> count);
  // The nodes that were expanded, and the best of the last level: without rerank.
  TreeArrays expanded(std::int64_t root, int count) const { return candidates_.tree(root, candidates_.expanded(count)); }

  double spent_ms() const { return growth_ ? growth_->spent() : 0.0; }  // drafting
  double cycle_ms() const { return growth_ ? growth_->time() : 0.0; }   // the pass over the kept nodes included

 private:
  double* worth(int level) const { return worth_ + level * kRanks; }
  void remember(const std::vector<double>& values, double above);

  Candidates candidates_;
  const int depth_;
  int level_ = 0;
  Frontier frontier_;
  std::optional<Growth> growth_;
  double* worth_ = nullptr;
};

}  // namespace eyas
