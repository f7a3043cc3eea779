// Linear layers, samplers and LM heads for Python.

#include <algorithm>

#include "bindings.h"

namespace eyas {

namespace {

// Rows side by side, padded: [x1; x2; ..].
std::size_t join(const std::vector<Rows>& inputs, int k, Buffer& buffer, std::size_t* count) {
  *count = inputs.front().shape(0);
  std::size_t width = std::size_t(round_up(k, kBlock)), sum = 0;
  for (const Rows& rows : inputs) {
    require(rows.shape(0) == *count, "as many rows in each input");
    sum += rows.shape(1);
  }
  require(sum == std::size_t(k), "rows as wide as the matrix");
  buffer.reserve(*count * width * sizeof(float));
  for (std::size_t t = 0; t < *count; ++t) {
    float* out = buffer.as<float>() + t * width;
    for (const Rows& rows : inputs) {
      std::memcpy(out, rows.data() + t * rows.shape(1), sizeof(float) * rows.shape(1));
      out += rows.shape(1);
    }
    std::fill(out, buffer.as<float>() + (t + 1) * width, 0.0f);
  }
  return width;
}

struct PyLinear {
  std::shared_ptr<Engine> engine;
  nb::object owner;
  Packed weight;
  Buffer inputs, outputs;

  PyLinear(std::shared_ptr<Engine> engine_, nb::object matrix)
      : engine(std::move(engine_)), owner(std::move(matrix)), weight(nb::cast<const Matrix&>(owner).packed) {}

  Out<float> forward(const std::vector<Rows>& rows) {
    require(!rows.empty(), "rows to multiply");
    const std::size_t n = std::size_t(weight.n), stride = std::size_t(weight.blocks()) * kBlock;
    Out<float> out = new_array<float>({rows.front().shape(0), n});
    float* result = out.data();
    const nb::gil_scoped_release release;
    const auto turn = engine->team.hold();
    std::size_t count = 0;
    const std::size_t width = join(rows, weight.k, inputs, &count);
    outputs.reserve(count * stride * sizeof(float));
    engine->multiply(weight, inputs.as<float>(), width, int(count), outputs.as<float>(), stride);
    for (std::size_t t = 0; t < count; ++t) std::memcpy(result + t * n, outputs.as<float>() + t * stride, sizeof(float) * n);
    return out;
  }
};

std::vector<Answer> to_answers(const PyHead::Generated& generated, int vocab_size) {
  std::vector<Answer> answers;
  for (const auto& [length, ids] : generated) {
    for (const int id : ids) require(id >= 0 && id < vocab_size, "answers of the sampler's vocabulary");
    answers.push_back({length, ids});
  }
  return answers;
}

}  // namespace

PyHead::PyHead(std::shared_ptr<Engine> engine_, std::vector<nb::object> matrices)
    : engine(std::move(engine_)), owners(std::move(matrices)) {
  require(!owners.empty(), "a head needs a matrix");
  std::vector<Packed> parts;
  for (const nb::object& owner : owners) parts.push_back(nb::cast<const Matrix&>(owner).packed);
  k = parts.front().k;
  for (const Packed& part : parts) require(part.k == k, "matrices of the same inputs");
  head = std::make_unique<Head>(*engine, std::move(parts));
}

void PyHead::compute(const Rows& x) {
  std::size_t count = 0;
  const std::size_t width = join({x}, k, inputs, &count);
  head->forward(inputs.as<float>(), width, int(count));
  rows = int(count);
}

void PyHead::forward(const Rows& x) {
  const nb::gil_scoped_release release;
  const auto turn = engine->team.hold();
  compute(x);
}

nb::object PyHead::top_k(const Rows& x, int wanted) {
  require(wanted >= 1, "k must be at least 1");
  const int best_count = std::min(wanted, head->size());
  Best best;
  bool sound;
  {
    const nb::gil_scoped_release release;
    const auto turn = engine->team.hold();
    compute(x);
    sound = head->best(rows, best_count, best);
  }
  return sound ? to_arrays(best, best_count) : nb::none();
}

std::vector<int> PyHead::choose(const std::vector<int>& which, const std::vector<Sampler*>& samplers,
                                const Generated& generated) {
  require(which.size() == samplers.size() && which.size() == generated.size(), "a sampler and an answer per row");
  for (std::size_t i = 0; i < which.size(); ++i) {
    require(samplers[i] && which[i] >= 0 && which[i] < rows && samplers[i]->config().vocab_size == head->size(),
            "samplers, and rows of the last forward, of the whole vocabulary");
    for (std::size_t j = 0; j < i; ++j) require(samplers[i] != samplers[j], "a sampler in two rows");
  }
  const std::vector<Answer> answers = to_answers(generated, head->size());
  std::vector<int> chosen;
  const nb::gil_scoped_release release;
  const auto turn = engine->team.hold();
  head->choose(which, samplers, answers, chosen);
  return chosen;
}

nb::object PyHead::coupled(const Rows& x, int wanted, Sampler& sampler, const Ids& ids, const Generated& generated,
                           double scale) {
  require(wanted >= 1 && scale > 0, "k must be at least 1, and scale above 0");
  const int vocab_size = sampler.config().vocab_size;
  require(ids.shape(0) == std::size_t(head->size()) || (ids.shape(0) == 0 && head->size() <= vocab_size), "an id per column");
  require(generated.size() == x.shape(0), "an answer per row");
  Columns columns;
  columns.count = head->size();
  std::vector<int> index;
  if (ids.shape(0)) {
    for (std::size_t c = 0; c < ids.shape(0); ++c)
      require(ids.data()[c] >= 0 && ids.data()[c] < vocab_size, "ids of the sampler's vocabulary");
    columns.ids = ids.data();
  }
  if (ids.shape(0) && sampler.edits()) {  // nothing else looks a column up
    index.assign(std::size_t(vocab_size), -1);
    for (std::size_t c = 0; c < ids.shape(0); ++c) index[std::size_t(ids.data()[c])] = int(c);
    columns.index = index.data();
  }
  const std::vector<Answer> answers = to_answers(generated, vocab_size);
  Best best;
  bool sound;
  const int count = std::min(wanted, head->size());
  {
    const nb::gil_scoped_release release;
    const auto turn = engine->team.hold();
    compute(x);
    sound = head->couple(rows, count, sampler, columns, answers, scale, best);
  }
  return sound ? to_arrays(best, count) : nb::none();
}

nb::object PyHead::to_arrays(const Best& best, int count) const {
  const std::vector<std::size_t> shape = {std::size_t(rows), std::size_t(count)};
  Out<std::int64_t> columns = new_array<std::int64_t>(shape);
  Out<double> log_probs = new_array<double>(shape);
  std::copy(best.columns.begin(), best.columns.end(), columns.data());
  std::copy(best.log_probs.begin(), best.log_probs.end(), log_probs.data());
  return nb::make_tuple(columns, log_probs);
}

Out<float> PyHead::logits(int row) {
  require(row >= 0 && row < rows, "a row of the last forward");
  Out<float> out = new_array<float>({std::size_t(head->size())});
  head->copy(row, out.data());
  return out;
}

int PyHead::argmax(int row) {
  require(row >= 0 && row < rows, "a row of the last forward");
  return head->argmax(row);
}

void bind_head(nb::module_& m) {
  nb::class_<PyLinear>(m, "Linear")
      .def(nb::init<std::shared_ptr<Engine>, nb::object>(), "engine"_a, "matrix"_a)
      .def("forward", &PyLinear::forward, "inputs"_a);
  nb::class_<Sampler>(m, "Sampler")
      .def(
          "__init__",
          [](Sampler* self, std::shared_ptr<Engine> engine, double temperature, int top_k, double top_p, double min_p,
             double repetition_penalty, double presence_penalty, double frequency_penalty,
             std::vector<std::pair<int, double>> bias, std::uint32_t seed, std::uint32_t choice, std::vector<int> prompt_ids,
             int num_prompt_tokens, int vocab_size, std::vector<int> withheld, int min_new_tokens) {
            const auto known = [&](int id) { return id >= 0 && id < vocab_size; };
            require(std::all_of(prompt_ids.begin(), prompt_ids.end(), known), "prompt ids of the vocabulary");
            require(std::all_of(withheld.begin(), withheld.end(), known), "withheld ids of the vocabulary");
            for (const auto& [id, value] : bias) require(known(id), "biased ids of the vocabulary");
            new (self) Sampler(engine->kernels, {temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
                                                 frequency_penalty, std::move(bias), seed, choice, std::move(prompt_ids),
                                                 num_prompt_tokens, vocab_size, std::move(withheld), min_new_tokens});
          },
          "engine"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "repetition_penalty"_a, "presence_penalty"_a,
          "frequency_penalty"_a, "bias"_a, "seed"_a, "choice"_a, "prompt_ids"_a, "num_prompt_tokens"_a, "vocab_size"_a,
          "withheld"_a, "min_new_tokens"_a, nb::keep_alive<1, 2>())
      .def_prop_ro("edits", &Sampler::edits);
  nb::class_<PyHead>(m, "Head")
      .def(nb::init<std::shared_ptr<Engine>, std::vector<nb::object>>(), "engine"_a, "matrices"_a)
      .def_prop_ro("size", [](const PyHead& h) { return h.head->size(); })
      .def("forward", &PyHead::forward, "x"_a)
      .def("top_k", &PyHead::top_k, "x"_a, "k"_a)
      .def("choose", &PyHead::choose, "rows"_a, "samplers"_a, "generated"_a)
      .def("coupled", &PyHead::coupled, "x"_a, "k"_a, "sampler"_a, "token_ids"_a, "generated"_a, "scale"_a)
      .def("logits", &PyHead::logits, "row"_a)
      .def("argmax", &PyHead::argmax, "row"_a);
}

}  // namespace eyas
