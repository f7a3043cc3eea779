// Networks made of packed matrices: linear layers, the LM head, and a target as a whole.
#pragma once

#include <memory>
#include <vector>

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

  // y (tokens, stride) = W x for tokens x of `width` floats, zeros behind k, of which `padded` are readable.
  void multiply(const PackedMatrix& w, const float* x, std::size_t width, int tokens, float* y, std::size_t stride);

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

// The LM head of a target, or some of its rows: one matrix, or several whose outputs follow each other (a draft
// vocabulary, and what one prompt adds to it). Its logits stay here until the next call.
class LMHead {
 public:
  LMHead(Engine& engine, std::vector<PackedMatrix> parts, LogitTransform transform);

  int size() const { return size_; }
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
  const float* logits(std::size_t part, int t) const {
    return logits_[part].as<float>() + std::size_t(t) * std::size_t(parts_[part].blocks()) * kBlock;
  }
  double best_of_token(int t, int k, int* columns, double* log_probs) const;

  Engine& engine_;
  std::vector<PackedMatrix> parts_;
  LogitTransform transform_;
  std::vector<int> starts_;  // column of each part's first output
  int size_ = 0;
  std::vector<Buffer> logits_;
  struct Scratch {  // of one thread
    std::vector<float> logits, scores;
  };
  std::vector<Scratch> scratch_;
};

// The table of input embeddings, as it lies in the model's file.
struct Embedding {
  const void* data = nullptr;
  const WeightFormat* format = nullptr;  // of its rows in the file; null for float32 and bfloat16
  bool bf16 = false;
  bool round = false;  // float32 values are rounded to bfloat16
  float scale = 1.0f;  // of its values (Gemma: sqrt(H))
  int vocab = 0;
  int hidden = 0;

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
