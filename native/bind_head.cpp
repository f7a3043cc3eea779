// Linear layers, samplers and LM heads for Python.

#include <algorithm>

#include "bindings.h"

namespace eyas {

namespace {

// Inputs of each token side by side, padded: [x1; x2; ..].
std::size_t join(const std::vector<Tokens>& inputs, int k, Buffer& buffer, std::size_t* count) {
  *count = inputs.front().shape(0);
  std::size_t width = std::size_t(round_up(k, kBlock)), sum = 0;
  for (const Tokens& x : inputs) {
    require(x.shape(0) == *count, "as many tokens in each input");
    sum += x.shape(1);
  }
  require(sum == std::size_t(k), "inputs as wide as the matrix");
  buffer.reserve(*count * width * sizeof(float));
  for (std::size_t t = 0; t < *count; ++t) {
    float* out = buffer.as<float>() + t * width;
    for (const Tokens& x : inputs) {
      std::memcpy(out, x.data() + t * x.shape(1), sizeof(float) * x.shape(1));
      out += x.shape(1);
    }
    std::fill(out, buffer.as<float>() + (t + 1) * width, 0.0f);
  }
  return width;
}

struct PyLinear {
  std::shared_ptr<Engine> engine;
  nb::object owner;
  PackedMatrix weight;
  Buffer inputs, outputs;

  PyLinear(std::shared_ptr<Engine> engine_, MatrixHandle matrix)
      : engine(std::move(engine_)), owner(nb::borrow(matrix)), weight(nb::cast<const Matrix&>(owner).packed) {}

  Out<float> forward(const std::vector<Tokens>& x) {
    require(!x.empty(), "inputs to multiply");
    const std::size_t n = std::size_t(weight.n), stride = std::size_t(weight.blocks()) * kBlock;
    Out<float> out = new_array<float>({x.front().shape(0), n});
    float* result = out.data();
    const nb::gil_scoped_release release;
    const auto turn = engine->pool.hold();
    std::size_t count = 0;
    const std::size_t width = join(x, weight.k, inputs, &count);
    outputs.reserve(count * stride * sizeof(float));
    engine->multiply(weight, inputs.as<float>(), width, int(count), outputs.as<float>(), stride);
    for (std::size_t t = 0; t < count; ++t) std::memcpy(result + t * n, outputs.as<float>() + t * stride, sizeof(float) * n);
    return out;
  }
};

std::vector<Answer> to_answers(const PyLMHead::Generated& generated, int vocab_size) {
  std::vector<Answer> answers;
  for (const auto& [length, ids, allowed] : generated) {
    for (const int id : ids) require(id >= 0 && id < vocab_size, "answers of the sampler's vocabulary");
    require(!allowed || allowed->shape(0) * 8 >= std::size_t(vocab_size), "a bit for each token of the vocabulary");
    answers.push_back({length, ids, allowed ? allowed->data() : nullptr});
  }
  return answers;
}

}  // namespace

PyLMHead::PyLMHead(std::shared_ptr<Engine> engine_, const std::vector<MatrixHandle>& matrices, float scale, float softcap,
                   const std::optional<Ids>& token_ids, std::optional<nb::handle_t<PyRowSource>> more,
                   const std::optional<Vector>& norm, float eps)
    : engine(std::move(engine_)) {
  for (const MatrixHandle& matrix : matrices) owners.push_back(nb::borrow(matrix));
  require(!owners.empty(), "a head needs a matrix");
  std::vector<PackedMatrix> parts;
  for (const nb::object& owner : owners) parts.push_back(nb::cast<const Matrix&>(owner).packed);
  k = parts.front().k;
  for (const PackedMatrix& part : parts) require(part.k == k, "matrices of the same inputs");
  require(softcap >= 0, "a softcap of at least 0");
  std::vector<std::int64_t> ids;
  if (token_ids) ids.assign(token_ids->data(), token_ids->data() + token_ids->shape(0));
  require(ids.empty() || *std::min_element(ids.begin(), ids.end()) >= 0, "ids of a vocabulary");
  if (more) {
    owners.push_back(nb::borrow(*more));
    source = &nb::cast<const PyRowSource&>(owners.back()).source;
    require(source->table.k == k, "rows of the same inputs");
    require(!ids.empty() && std::is_sorted(ids.begin(), ids.end()), "ascending ids, which others can join");
  }
  InputNorm input_norm;
  if (norm) {
    require(norm->shape(0) == std::size_t(k), "a norm as wide as what it norms");
    input_norm = {padded(*norm), eps};
  }
  head =
      std::make_unique<LMHead>(*engine, std::move(parts), LogitTransform{scale, softcap}, std::move(ids), std::move(input_norm));
  require(!token_ids || token_ids->shape(0) == std::size_t(head->size()), "an id per column");
}

PyLMHead::PyLMHead(PyLMHead& before, std::unique_ptr<LMHead> grown)
    : engine(before.engine), owners(before.owners), source(before.source), head(std::move(grown)), k(before.k) {
  before.tokens = 0;  // the new head has their memory
}

std::unique_ptr<PyLMHead> PyLMHead::plus(std::vector<std::int64_t> ids) {
  require(source != nullptr, "a head with rows to add");
  const auto known = [&](std::int64_t id) { return id >= 0 && id < source->table.n; };
  require(std::all_of(ids.begin(), ids.end(), known), "ids of the vocabulary");
  std::unique_ptr<LMHead> grown;
  {
    const nb::gil_scoped_release release;
    const auto turn = engine->pool.hold();
    grown = head->plus(*source, std::move(ids));
  }
  return grown ? std::make_unique<PyLMHead>(*this, std::move(grown)) : nullptr;
}

Out<std::int64_t> PyLMHead::token_ids() const {
  const Columns columns = head->columns();
  Out<std::int64_t> ids = new_array<std::int64_t>({std::size_t(columns.count)});
  for (int column = 0; column < columns.count; ++column) ids.data()[column] = columns.id(column);
  return ids;
}

void PyLMHead::compute(const Tokens& x) {
  std::size_t count = 0;
  const std::size_t width = join({x}, k, inputs, &count);
  head->forward(inputs.as<float>(), width, int(count));
  tokens = int(count);
}

void PyLMHead::forward(const Tokens& x) {
  const nb::gil_scoped_release release;
  const auto turn = engine->pool.hold();
  compute(x);
}

PyLMHead::TopK PyLMHead::top_k(const Tokens& x, int wanted) {
  require(wanted >= 1, "k must be at least 1");
  const int best_count = std::min(wanted, head->size());
  Best best;
  bool sound;
  {
    const nb::gil_scoped_release release;
    const auto turn = engine->pool.hold();
    compute(x);
    sound = head->best(tokens, best_count, best);
  }
  return sound ? to_arrays(best, best_count) : std::nullopt;
}

std::vector<int> PyLMHead::choose(const std::vector<int>& which, const std::vector<Sampler*>& samplers,
                                  const Generated& generated) {
  require(which.size() == samplers.size() && which.size() == generated.size(), "a sampler and an answer per token");
  for (std::size_t i = 0; i < which.size(); ++i) {
    require(samplers[i] && which[i] >= 0 && which[i] < tokens && samplers[i]->config().vocab_size == head->size(),
            "samplers, and tokens of the last forward, of the whole vocabulary");
    for (std::size_t j = 0; j < i; ++j) require(samplers[i] != samplers[j], "a sampler of two tokens");
  }
  const std::vector<Answer> answers = to_answers(generated, head->size());
  std::vector<int> chosen;
  const nb::gil_scoped_release release;
  const auto turn = engine->pool.hold();
  head->choose(which, samplers, answers, chosen);
  return chosen;
}

std::pair<std::vector<int>, std::vector<int>> PyLMHead::follow(int first, const Ids& token_ids, const Ids& parents,
                                                               Sampler* sampler, const Generated& generated) {
  const int count = int(token_ids.shape(0));
  require(count > 0 && parents.shape(0) == token_ids.shape(0) && first >= 0 && first + count <= tokens,
          "a parent per node, and nodes that are tokens of the last forward");
  require(!sampler || sampler->config().vocab_size == head->size(), "a sampler of the whole vocabulary");
  require(generated.size() == 1, "one answer");
  std::vector<Answer> answers = to_answers(generated, head->size());
  const nb::gil_scoped_release release;
  const auto turn = engine->pool.hold();
  LMHead::Path path = head->follow(first, count, token_ids.data(), parents.data(), sampler, answers.front());
  return {std::move(path.nodes), std::move(path.token_ids)};
}

PyLMHead::TopK PyLMHead::coupled(const Tokens& x, int wanted, Sampler& sampler, const Generated& generated, double scale) {
  require(wanted >= 1 && scale > 0, "k must be at least 1, and scale above 0");
  const int vocab_size = sampler.config().vocab_size;
  require(head->largest_id() < vocab_size, "ids of the sampler's vocabulary");
  require(generated.size() == x.shape(0), "an answer per token");
  Columns columns = head->columns();
  std::vector<int> index;
  if (columns.ids && sampler.edits()) {  // nothing else looks a column up
    index.assign(std::size_t(vocab_size), -1);
    for (int c = 0; c < columns.count; ++c) index[std::size_t(columns.id(c))] = c;
    columns.index = index.data();
  }
  const std::vector<Answer> answers = to_answers(generated, vocab_size);
  Best best;
  bool sound;
  const int count = std::min(wanted, head->size());
  {
    const nb::gil_scoped_release release;
    const auto turn = engine->pool.hold();
    compute(x);
    sound = head->couple(tokens, count, sampler, columns, answers, scale, best);
  }
  return sound ? to_arrays(best, count) : std::nullopt;
}

PyLMHead::TopK PyLMHead::to_arrays(const Best& best, int count) const {
  const std::vector<std::size_t> shape = {std::size_t(tokens), std::size_t(count)};
  Out<std::int64_t> token_ids = new_array<std::int64_t>(shape);
  Out<double> log_probs = new_array<double>(shape);
  const Columns columns = head->columns();
  std::transform(best.columns.begin(), best.columns.end(), token_ids.data(), [&](int column) { return columns.id(column); });
  std::copy(best.log_probs.begin(), best.log_probs.end(), log_probs.data());
  return std::pair(token_ids, log_probs);
}

Out<float> PyLMHead::logits(int token) {
  require(token >= 0 && token < tokens, "a token of the last forward");
  Out<float> out = new_array<float>({std::size_t(head->size())});
  head->copy(token, out.data());
  return out;
}

int PyLMHead::argmax(int token) {
  require(token >= 0 && token < tokens, "a token of the last forward");
  return head->argmax(token);
}

void bind_head(nb::module_& m) {
  nb::class_<PyLinear>(m, "Linear")
      .def(nb::init<std::shared_ptr<Engine>, MatrixHandle>(), "engine"_a, "matrix"_a)
      .def("forward", &PyLinear::forward, "inputs"_a);
  nb::class_<Sampler>(m, "Sampler")
      .def(
          "__init__",
          [](Sampler* self, std::shared_ptr<Engine> engine, double temperature, double repetition_penalty,
             double presence_penalty, double frequency_penalty, const std::vector<std::pair<std::string, double>>& filters,
             std::vector<std::pair<int, double>> bias, std::uint32_t seed, std::uint32_t choice, std::vector<int> prompt_ids,
             int num_prompt_tokens, int vocab_size, std::vector<int> withheld, int min_new_tokens) {
            const auto known = [&](int id) { return id >= 0 && id < vocab_size; };
            require(std::all_of(prompt_ids.begin(), prompt_ids.end(), known), "prompt ids of the vocabulary");
            require(std::all_of(withheld.begin(), withheld.end(), known), "withheld ids of the vocabulary");
            for (const auto& [id, value] : bias) require(known(id), "biased ids of the vocabulary");
            std::vector<std::pair<const Filter*, double>> used;
            for (const auto& [name, value] : filters) {
              used.emplace_back(find_filter(name), value);
              require(used.back().first != nullptr, "filters of Sampler.filters");
            }
            new (self) Sampler(engine->kernels, {temperature, repetition_penalty, presence_penalty, frequency_penalty,
                                                 std::move(used), std::move(bias), seed, choice, std::move(prompt_ids),
                                                 num_prompt_tokens, vocab_size, std::move(withheld), min_new_tokens});
          },
          "engine"_a, "temperature"_a, "repetition_penalty"_a, "presence_penalty"_a, "frequency_penalty"_a, "filters"_a, "bias"_a,
          "seed"_a, "choice"_a, "prompt_ids"_a, "num_prompt_tokens"_a, "vocab_size"_a, "withheld"_a, "min_new_tokens"_a,
          nb::keep_alive<1, 2>())
      .def_static("filter_names", &filter_names)
      .def_prop_ro("edits", &Sampler::edits);
  nb::class_<PyLMHead>(m, "LMHead",
                       "Logits scale * W x, then softcap * tanh(logits / softcap) unless softcap is 0. Without `token_ids` a\n"
                       "column is its id. With `norm`, the weights of an RMSNorm, x is normed first.")
      .def(nb::init<std::shared_ptr<Engine>, const std::vector<MatrixHandle>&, float, float, const std::optional<Ids>&,
                    std::optional<nb::handle_t<PyRowSource>>, const std::optional<Vector>&, float>(),
           "engine"_a, "matrices"_a, "scale"_a = 1.0f, "softcap"_a = 0.0f, "token_ids"_a = nb::none(), "more"_a = nb::none(),
           "norm"_a = nb::none(), "eps"_a = 0.0f)
      .def("plus", &PyLMHead::plus, "token_ids"_a, nb::sig("def plus(self, token_ids: Sequence[int]) -> LMHead | None"),
           "This head and the rows of `more` for these ids, in ascending order; None if it has them all. It takes\n"
           "over the memory of this head's last forward.")
      .def_prop_ro("size", [](const PyLMHead& h) { return h.head->size(); })
      .def_prop_ro("token_ids", &PyLMHead::token_ids, nb::rv_policy::move)
      .def("forward", &PyLMHead::forward, "x"_a)
      .def("top_k", &PyLMHead::top_k, "x"_a, "k"_a)
      .def("choose", &PyLMHead::choose, "tokens"_a, "samplers"_a, "generated"_a)
      .def("follow", &PyLMHead::follow, "first"_a, "token_ids"_a, "parents"_a, "sampler"_a.none(), "generated"_a,
           "Nodes and tokens of the path that the target's own tokens take through a tree; the last token is no\n"
           "child. Its nodes are the tokens of the last forward from `first` on. Without a sampler the largest\n"
           "logit is the token; -1 where a logit is not a number.")
      .def("coupled", &PyLMHead::coupled, "x"_a, "k"_a, "sampler"_a, "generated"_a, "scale"_a)
      .def("logits", &PyLMHead::logits, "token"_a)
      .def("argmax", &PyLMHead::argmax, "token"_a);
}

}  // namespace eyas
