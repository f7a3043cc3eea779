// Networks made of packed matrices: linear layers, the LM head, and a target as a whole.
#pragma once

#include <memory>
#include <vector>

#include "kernels.h"
#include "sampler.h"
#include "stack.h"
#include "team.h"

namespace eyas {

// An instruction set and a team of threads, shared by all networks of a runtime.
class Engine {
 public:
  Engine(const Kernels& kernels, int threads) : kernels(kernels), team(threads) {}

  const Kernels& kernels;
  Team team;

  // y (rows, stride) = W x for rows x of `width` floats, zeros behind k, of which `padded` are readable.
  void multiply(const Packed& w, const float* x, std::size_t width, int rows, float* y, std::size_t stride);

 private:
  OperandBuffer operand_;
};

// The best entries of rows of logits, with log-probabilities over all of a row.
struct Best {
  std::vector<int> columns;       // (T, k)
  std::vector<double> log_probs;  // (T, k)
};

// The LM head of a target, or some of its rows: one matrix, or several whose outputs follow each other (a draft
// vocabulary, and what one prompt adds to it). Its logits stay here until the next call.
class Head {
 public:
  Head(Engine& engine, std::vector<Packed> parts);

  int size() const { return size_; }
  // Logits of rows x as in Engine::multiply.
  void forward(const float* x, std::size_t width, int rows);
  void copy(int t, float* out) const;  // (size,)
  int argmax(int t) const;             // -1 if a logit is no number
  // The tokens that samplers choose after rows; -1 where a logit is no number.
  void choose(const std::vector<int>& rows, const std::vector<Sampler*>& samplers, const std::vector<Answer>& answers,
              std::vector<int>& chosen);
  // Best k <= size() of each row by the samplers' own draws, see Sampler::couple.
  bool couple(int rows, int k, Sampler& sampler, const Columns& columns, const std::vector<Answer>& answers, double scale,
              Best& best);
  // Best k <= size() of each row. False if a logit is no number.
  bool best(int rows, int k, Best& best);

 private:
  const float* row(std::size_t part, int t) const {
    return logits_[part].as<float>() + std::size_t(t) * std::size_t(parts_[part].blocks()) * kBlock;
  }
  double best_of_row(int t, int k, int* columns, double* log_probs) const;

  Engine& engine_;
  std::vector<Packed> parts_;
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
  bool bf16 = false;
  bool round = false;  // float32 values are rounded to bfloat16
  int vocab = 0;
  int hidden = 0;

  void read(int token_id, float* out) const;
};

struct TargetRows {
  Call call;
  const std::int64_t* token_ids = nullptr;
  bool last_only = false;  // logits of the last row only
};

class TargetNetwork {
 public:
  TargetNetwork(Stack& stack, Head& head, const Embedding& embedding) : stack_(stack), head_(head), embedding_(embedding) {}

  // Runs all rows; features (T, hidden) of all, logits of those asked for, one after the other, in the head.
  void forward(const std::vector<TargetRows>& calls, float* features);
  const Embedding& embedding() const { return embedding_; }

 private:
  static constexpr int kMostRows = 256;  // of a pass: what does not fit the caches is not faster together

  void run(const std::vector<Call>& calls, const std::vector<const std::int64_t*>& ids, float* features);

  Stack& stack_;
  Head& head_;
  Embedding embedding_;
  Buffer states_, wanted_;
};

// Packs (n, k) rows of float32 or bfloat16 (as uint16). `scale` (blocks * 32,) is filled for int8.
// Returns the number of weights that are not finite.
std::size_t pack(const void* rows, bool bf16, Kind kind, int n, int k, std::uint8_t* out, float* scale);

}  // namespace eyas
