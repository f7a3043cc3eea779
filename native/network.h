// Networks made of packed matrices: linear layers, the LM head, and a target as a whole.
#pragma once

#include <memory>
#include <vector>

#include "added_rows.h"
#include "kernels.h"
#include "sampler.h"
#include "stack.h"
#include "thread_pool.h"

namespace eyas {

// An instruction set and a pool of threads, shared by all networks of a runtime.
class Engine {
 public:
  Engine(const Kernels& kernels, int threads) : kernels(kernels), pool(threads) {}

  const Kernels& kernels;
  ThreadPool pool;

  // y (tokens, stride) = W x for tokens x of `width` floats, zeros behind k; results of several matrices follow each other.
  void multiply(const MatrixGroup& w, const float* x, std::size_t width, int tokens, float* y, std::size_t stride);

 private:
  ActivationBuffer activations_;
};

// The best entries of tokens' logits, with log-probabilities over all of a token's.
struct Best {
  std::vector<int> columns;       // (T, k)
  std::vector<double> log_probs;  // (T, k)
};

// Logits are softcap * tanh(scale * W x / softcap); a softcap of 0 is none.
struct LogitTransform {
  float scale = 1.0f;
  float softcap = 0;
  bool is_plain() const { return scale == 1.0f && softcap == 0; }
};

// An RMSNorm of what an LM head reads.
struct InputNorm {
  std::vector<float> weight;  // (H,), padded to 32; none leaves it as it is
  float eps = 0;
};

// The LM head of a target, or some of its rows: one matrix, or several whose outputs follow each other, and the rows that a
// text adds to a draft vocabulary. Its logits stay here until the next call.
class LMHead {
 public:
  // ids: (size,) of the columns; none where a column is its id.
  LMHead(Engine& engine, std::vector<PackedMatrix> parts, LogitTransform transform, std::vector<std::int64_t> ids = {},
         InputNorm norm = {});

  // This head and rows of `source` by their ids, behind its own and in ascending order, unless it has them; null if it has
  // them all. Needs ids that ascend. The memory of the logits goes on to the new head.
  std::unique_ptr<LMHead> plus(const RowSource& source, std::vector<std::int64_t> ids);
  int size() const { return size_; }
  Columns columns() const;
  std::int64_t largest_id() const { return largest_id_; }
  // Logits of tokens x as in Engine::multiply.
  void forward(const float* x, std::size_t width, int tokens);
  void copy(int t, float* out) const;  // (size,)
  int argmax(int t) const;             // -1 if a logit is not a number
  // The tokens that samplers choose after those numbered `which`; -1 where a logit is not a number.
  void choose(const std::vector<int>& which, const std::vector<Sampler*>& samplers, const std::vector<Answer>& answers,
              std::vector<int>& chosen);
  // The path that the target's own tokens take through a tree, whose nodes have the logits from number `first` on: nodes from
  // the root, and the token after each, by the sampler or the largest logit. The last token is no child of the last node, or
  // -1 where a logit is not a number. `answer` ends with the root, and grows.
  struct Path {
    std::vector<int> nodes, token_ids;
  };
  Path follow(int first, int count, const std::int64_t* token_ids, const std::int64_t* parents, Sampler* sampler, Answer& answer);
  // Best k <= size() of each token by the samplers' own draws, see Sampler::couple.
  bool couple(int tokens, int k, Sampler& sampler, const Columns& columns, const std::vector<Answer>& answers, double scale,
              Best& best);
  // Best k <= size() of each token. False if a logit is not a number.
  bool best(int tokens, int k, Best& best);

 private:
  float* logits(std::size_t part, int t) const { return logits_.as<float>() + std::size_t(t) * stride_ + places_[part]; }
  bool has(std::int64_t id) const;
  void append(const PackedMatrix& part);
  void add(const std::vector<std::int64_t>& ids);
  void order_added(int tokens);
  double best_of_token(int t, int k, int* columns, double* log_probs) const;

  Engine& engine_;
  std::vector<PackedMatrix> parts_;
  LogitTransform transform_;
  InputNorm norm_;
  std::vector<std::int64_t> ids_;
  std::int64_t largest_id_ = -1;
  std::vector<int> starts_;          // column of each part's first output
  std::vector<std::size_t> places_;  // where its logits begin in those of a token
  int size_ = 0;
  std::size_t stride_ = 0;            // floats of a token's logits
  std::shared_ptr<AddedRows> added_;  // the last part, if there are any; heads that grow from each other share them
  std::vector<int> order_;            // where the last part's columns stand among them
  Buffer normed_, logits_;
  struct Scratch {  // of one thread
    std::vector<float> logits, scores;
  };
  std::vector<Scratch> scratch_;
};

// The input embeddings.
struct Embedding {
  StoredTable table;   // (V, H)
  bool round = false;  // float32 values are rounded to bfloat16
  float scale = 1.0f;  // of its values (Gemma: sqrt(H))

  int vocab() const { return table.n; }
  int hidden() const { return table.k; }
  void read(int token_id, float* out) const;
};

struct TargetCall {
  Call call;
  const std::int64_t* token_ids = nullptr;
  bool last_only = false;  // logits of the last token only
};

class TargetNetwork {
 public:
  TargetNetwork(Stack& stack, LMHead& head, const Embedding& embedding) : stack_(stack), head_(head), embedding_(embedding) {}

  // Runs all tokens. Features (T, hidden) of all, and what the taps ask for; logits of those asked for, one after the
  // other, in the head.
  void forward(const std::vector<TargetCall>& calls, float* features, std::vector<Tap> taps = {});
  const Embedding& embedding() const { return embedding_; }

 private:
  static constexpr int kMostTokens = 256;  // of a pass: what does not fit the caches is not faster together

  void run(const std::vector<Call>& calls, const std::vector<const std::int64_t*>& ids, float* features,
           const std::vector<Tap>& taps);

  Stack& stack_;
  LMHead& head_;
  Embedding embedding_;
  Buffer states_, wanted_;
};

}  // namespace eyas
