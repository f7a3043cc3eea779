// An EAGLE head, and its dynamic draft trees: all levels in one call. eyas/drafters/eagle_head.py explains the pairs that the
// head reads, and drafts the same trees level by level where this cannot.
#pragma once

#include <cstdint>
#include <vector>

#include "network.h"
#include "tree_builder.h"

namespace eyas {

// Committed tokens that the head has not read yet, and the target's feature before each of them.
struct Pairs {
  int count = 0;
  const std::int64_t* token_ids = nullptr;  // (count,)
  const float* features = nullptr;          // (count, H)
};

// Drafting with a sampler's own noise, see Sampler::couple.
struct Coupling {
  Sampler* sampler = nullptr;  // one that does not edit logits
  int answer_length = 0;       // tokens up to and including the root
  std::vector<double> scales;  // of depth 1, 2, ..; the last one serves all deeper levels
};

class EagleHead {
 public:
  // fc: one matrix for [embedding; feature], or one for each of the two, whose results are added in this order. None for a
  // stack that reads embeddings beside the features, as EAGLE-3's does.
  EagleHead(Engine& engine, const Embedding& embedding, std::vector<PackedMatrix> fc, Stack& stack);

  // Reads and commits `waiting`, then adds level after level to `builder`, `k` children of each node, until it has no use for
  // another. The nodes' keys and values stay pending in `cache`. Without `coupling` children are ranked by logit. Returns the
  // number of passes, which is that of the levels; 0 if a logit is not a number.
  int grow(TreeBuilder& builder, Cache& cache, LMHead& lm_head, const Pairs& waiting, int k, const Coupling* coupling);

 private:
  struct Level {  // tokens of a pass
    std::vector<std::int64_t> token_ids;
    std::vector<const float*> features;  // (H,) each
    std::vector<int> parents;
  };

  // Appends the tokens to the cache; their predicted features replace the last pass's. Without parents they are a chain.
  void predict(Cache& cache, const Level& level);
  void project(const Level& level);     // the stack's inputs by fc, in `predicted_`
  void read_apart(const Level& level);  // or the features themselves, and the embeddings in `inputs_`
  void embed(std::int64_t id, float* out) const;
  bool rank(LMHead& lm_head, const float* features, int nodes, int k, const Coupling* coupling, int depth);

  Engine& engine_;
  Embedding embedding_;
  std::vector<PackedMatrix> fc_;
  Stack& stack_;
  Buffer inputs_, predicted_, sums_;
  Best best_;
};

}  // namespace eyas
