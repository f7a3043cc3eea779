// Seeded sampling by Gumbel noise (docs/laws.md, L2 and L3): the token is the argmax of (processed logit + g(t, v)).
// The reference implementation is eyas/engine/sampling.py; this gives the same ids.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels.h"
#include "thread_pool.h"

namespace eyas {

// A sampling option that cuts a row of logits divided by the temperature: what cannot be chosen becomes -infinity.
// All of them stand in one table of sampler.cpp; each matches a function in eyas.engine.sampling.FILTERS.
struct Filter {
  const char* name;
  void (*keep)(std::vector<double>& row, std::vector<double>& masses, double value);  // `masses` is memory to work in
};
const Filter* find_filter(const std::string& name);  // null for a name that is not in the table
std::vector<std::string> filter_names();

struct SamplerConfig {
  double temperature = 0;
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<const Filter*, double>> filters;  // those that are on, in the order of their use
  std::vector<std::pair<int, double>> bias;
  std::uint32_t seed = 0, choice = 0;
  std::vector<int> prompt_ids;  // each once
  int num_prompt_tokens = 0;
  int vocab_size = 0;
  std::vector<int> withheld;  // ids that cannot be among the first `min_new_tokens`
  int min_new_tokens = 0;
};

// The answer up to and including the token whose successor is sampled.
struct Answer {
  int length = 0;
  std::vector<int> ids;                   // may be empty if the sampler does not edit logits
  const std::uint8_t* allowed = nullptr;  // a bit for each id, lowest first: may it follow? null: all may

  bool allows(int id) const { return allowed[id >> 3] >> (id & 7) & 1; }
};

// What the columns of a row of logits stand for.
struct Columns {
  int count = 0;
  const std::int64_t* ids = nullptr;  // (count,), null: column is id
  const int* index = nullptr;         // (vocab,) column of an id or -1, null: id is column; for samplers that edit

  int id(int column) const { return ids ? int(ids[column]) : column; }
  int column(int id) const { return index ? index[id] : id; }
};

class Sampler {
 public:
  Sampler(const Kernels& kernels, SamplerConfig config) : kernels_(kernels), config_(std::move(config)) {}

  const SamplerConfig& config() const { return config_; }
  // The token after prompt and answer, from the (vocab,) logits; -1 if one of them is not a number.
  int choose(ThreadPool& pool, const float* logits, const Answer& answer);
  // For drafting with the same draws: the k best columns by score, and their log-probabilities of winning,
  // log-softmax(score / scale). Columns that cannot win come last, with -infinity. False if a logit is not a number.
  // Requires `make_noise` for the answer; `scores` is scratch memory. Several threads may call this if the sampler is plain
  // and the answer allows all tokens.
  bool couple(const float* logits, const Columns& columns, const Answer& answer, double scale, int k, std::vector<float>& scores,
              int* best, double* log_probs);
  // Noise for the tokens after these answers, made by all threads; kept until a later token is chosen. None if greedy.
  void make_noise(ThreadPool& pool, const std::vector<Answer>& answers);
  // Whether scores are logits by the temperature plus noise, and nothing else, where the answer allows all tokens.
  bool is_plain() const;
  // Whether an answer's ids matter, not only its length.
  bool edits() const;

 private:
  bool process(const float* logits, const Columns& columns, const Answer& answer);
  void edit(const Columns& columns, const Answer& answer);
  struct Part {  // of the ids, as one thread sees it
    bool sound = true;
    float top = kNever;     // score
    std::vector<int> able;  // ids that may be the best
  };
  int choose_plain(ThreadPool& pool, const float* logits, int position);
  void score_part(const float* logits, int position, int first, int n, Part& part);
  bool score_plain(const float* logits, const Columns& columns, const float* drawn, std::vector<float>& scores) const;
  bool score(const float* logits, const Columns& columns, const Answer& answer, const float* drawn, std::vector<float>& scores);
  double draw(int position, int id) const;
  int next_position(const Answer& answer) const { return config_.num_prompt_tokens + answer.length; }
  void forget(int position);

  const Kernels& kernels_;
  SamplerConfig config_;
  std::vector<double> row_;  // processed logits
  std::vector<double> masses_;
  std::vector<float> scores_;
  std::vector<Part> parts_;
  std::unordered_map<int, std::vector<float>> noise_;  // about g(t, .), within noise_error
  std::vector<std::vector<float>> spare_;              // memory for it
};

}  // namespace eyas
