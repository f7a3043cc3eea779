// Draft trees for Python.

#include <algorithm>

#include "bindings.h"
#include "eagle_head.h"
#include "tree_builder.h"

namespace eyas {

namespace {

constexpr const char* kNoNumber = "the draft gave a confidence that is not a number (docs/laws.md, L5)";

using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Worth = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Children = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

RateMap to_map(const std::optional<Doubles>& knots, const std::optional<Table>& rates) {
  if (!knots || !rates) return {};
  const std::size_t points = knots->shape(0);
  require(points > 0 && knots->data()[0] == 0 && rates->shape(0) > 0 && rates->shape(1) == points,
          "knots from 0 on, and a rate for each");
  return {std::vector<double>(knots->data(), knots->data() + points),
          std::vector<double>(rates->data(), rates->data() + rates->size())};
}

TreeShape to_shape(std::vector<int> first, std::vector<int> count) {
  const int nodes = int(count.size());
  require(first.size() == count.size(), "a first child for each number of children");
  for (int node = 0; node < nodes; ++node) {
    const int begin = first[std::size_t(node)], children = count[std::size_t(node)];
    require(children >= 0 && (!children || (begin > node && begin <= nodes - children)), "children are later nodes of the shape");
  }
  return {std::move(first), std::move(count)};
}

template <class T>
Out<T> to_array(const std::vector<T>& values) {
  Out<T> out = new_array<T>({values.size()});
  std::copy(values.begin(), values.end(), out.data());
  return out;
}

using Arrays = std::tuple<Out<std::int64_t>, Out<std::int64_t>, Out<double>>;  // token ids, parents, log values
using Expanded = std::tuple<Out<std::int64_t>, Out<std::int64_t>>;             // token ids, parent rows

Arrays to_arrays(const TreeArrays& tree) { return {to_array(tree.token_ids), to_array(tree.parents), to_array(tree.log_values)}; }

TreeRules make_rules(int top_k, std::vector<std::int64_t> terminal, bool by_value, const std::optional<Doubles>& knots,
                     const std::optional<Table>& rates, std::vector<int> first_child, std::vector<int> num_children) {
  require(top_k > 0, "at least one node a level");
  return {top_k, std::move(terminal), by_value, to_map(knots, rates), to_shape(std::move(first_child), std::move(num_children))};
}

struct PyTreeBuilder {
  const int top_k, depth;
  TreeBuilder builder;
  std::optional<Worth> worth;  // kept alive: the builder writes to it

  PyTreeBuilder(const std::shared_ptr<TreeRules>& rules, int depth, std::vector<std::int64_t> chain,
                std::vector<double> chain_rates)
      : top_k(rules->top_k), depth(depth), builder(candidates(rules, std::move(chain), std::move(chain_rates)), depth) {
    require(depth >= 0, "levels from 0 on");
  }

  static Candidates candidates(const std::shared_ptr<TreeRules>& rules, std::vector<std::int64_t> chain,
                               std::vector<double> rates) {
    const auto is_rate = [](double rate) { return rate > 0 && rate < 1; };
    require(chain.size() == rates.size() && std::all_of(rates.begin(), rates.end(), is_rate), "a rate in (0, 1) for each token");
    Candidates made(rules);
    made.expect(std::move(chain), std::move(rates));
    return made;
  }

  void size_by_costs(const std::shared_ptr<CycleTimes>& times, double left_ms, int max_nodes, double other_ms,
                     double other_tokens, const Worth& means) {
    require(max_nodes >= 0 && std::size_t(max_nodes) < times->cycle.size(), "a time for each size");
    require(std::size_t(top_k) <= times->levels.size(), "a time for each number of expanded nodes");
    require(means.shape(0) > std::size_t(depth) && means.shape(1) == std::size_t(TreeBuilder::kRanks),
            "the worth of children for each depth");
    worth = means;
    builder.size_by_costs(Growth(times, left_ms, max_nodes, other_ms, other_tokens), worth->data());
  }

  std::optional<Expanded> step(const Children& token_ids, const Table& log_confidences) {
    const std::size_t rows = token_ids.shape(0), width = token_ids.shape(1);
    require(log_confidences.shape(0) == rows && log_confidences.shape(1) == width, "a confidence for each child");
    require(width > 0 && builder.fits(rows), "a row of children for each node of the frontier");
    if (!builder.step(int(width), token_ids.data(), log_confidences.data())) {
      PyErr_SetString(PyExc_FloatingPointError, kNoNumber);
      throw nb::python_error();
    }
    const TreeBuilder::Frontier& frontier = builder.frontier();
    if (frontier.empty()) return std::nullopt;
    std::vector<std::int64_t> tokens, parent_rows;
    for (const int at : frontier) {
      tokens.push_back(builder.candidates().token_id(at));
      parent_rows.push_back(builder.candidates().parent_row(at));
    }
    return Expanded{to_array(tokens), to_array(parent_rows)};
  }
};

struct PyEagleHead {
  nb::object target_owner, stack_owner;
  std::vector<nb::object> matrix_owners;
  PyStack& stack;
  std::unique_ptr<EagleHead> head;

  PyEagleHead(nb::handle_t<PyTarget> target, const std::vector<MatrixHandle>& fc, nb::handle_t<PyStack> stack_)
      : target_owner(nb::borrow(target)), stack_owner(nb::borrow(stack_)), stack(nb::cast<PyStack&>(stack_owner)) {
    for (const MatrixHandle& matrix : fc) matrix_owners.push_back(nb::borrow(matrix));
    std::vector<PackedMatrix> matrices;
    for (const nb::object& owner : matrix_owners) matrices.push_back(nb::cast<const Matrix&>(owner).packed);
    const Embedding& embedding = nb::cast<const PyTarget&>(target_owner).network->embedding();
    const int hidden = stack.stack->shape().hidden;
    require(matrices.size() <= 2, "one matrix for embedding and feature, or one for each");
    require(matrices.empty() == stack.stack->reads_embeddings(), "matrices, or a stack that reads embeddings");
    for (const PackedMatrix& matrix : matrices)
      require(matrix.n == hidden && matrix.k * int(matrices.size()) == 2 * hidden, "matrices of the stack's hidden size");
    require(embedding.hidden() == hidden, "an embedding of the stack's hidden size");
    head = std::make_unique<EagleHead>(*stack.engine, embedding, std::move(matrices), *stack.stack);
  }

  int grow(PyTreeBuilder& builder, PyCache& cache, PyLMHead& lm_head, const Ids& token_ids, const Tokens& features, int k,
           Sampler* sampler, int answer_length, std::vector<double> scales) {
    const int hidden = stack.stack->shape().hidden;
    require(k >= 1 && builder.depth >= 1 && builder.builder.fits(1), "at least one child and one level of a new tree");
    require(features.shape(0) > 0 && features.shape(0) == token_ids.shape(0) && features.shape(1) == std::size_t(hidden),
            "a feature before each token");
    require(lm_head.k == hidden, "an LM head of the stack's hidden size");
    if (sampler) {
      require(!sampler->edits(), "a sampler that does not edit logits");
      require(lm_head.head->largest_id() < sampler->config().vocab_size, "ids of the sampler's vocabulary");
      require(!scales.empty() && *std::min_element(scales.begin(), scales.end()) > 0, "scales above 0");
    }
    const Pairs waiting{int(token_ids.shape(0)), token_ids.data(), features.data()};
    const Coupling coupling{sampler, answer_length, std::move(scales)};
    cache.admit(stack.stack->cache_shape(0), waiting.count, nullptr);
    lm_head.tokens = 0;  // its logits are those of the last level
    const nb::gil_scoped_release release;
    const auto turn = stack.engine->pool.hold();
    return head->grow(builder.builder, cache.cache, *lm_head.head, waiting, k, sampler ? &coupling : nullptr);
  }
};

}  // namespace

void bind_drafting(nb::module_& m) {
  using Ids = std::vector<std::int64_t>;
  using Ints = std::vector<int>;
  nb::class_<CycleTimes>(m, "CycleTimes", "Milliseconds by which trees are sized.")
      .def(
          "__init__",
          [](CycleTimes* self, std::vector<double> cycle_ms, std::vector<double> level_ms, double root_ms) {
            new (self) CycleTimes{std::move(cycle_ms), std::move(level_ms), root_ms};
          },
          "cycle_ms"_a, "level_ms"_a, "root_ms"_a);
  nb::class_<TreeRules>(m, "TreeRules")
      .def(
          "__init__",
          [](TreeRules* self, int top_k, Ids terminal, bool by_value, const std::optional<Doubles>& knots,
             const std::optional<Table>& rates, Ints first_child, Ints num_children) {
            new (self) TreeRules(
                make_rules(top_k, std::move(terminal), by_value, knots, rates, std::move(first_child), std::move(num_children)));
          },
          "top_k"_a, "terminal"_a, "by_value"_a, "knots"_a = nb::none(), "rates"_a = nb::none(), "first_child"_a = Ints{},
          "num_children"_a = Ints{});
  nb::class_<PyTreeBuilder>(m, "TreeBuilder")
      .def(nb::init<const std::shared_ptr<TreeRules>&, int, Ids, std::vector<double>>(), "rules"_a, "depth"_a, "chain"_a = Ids{},
           "chain_rates"_a = std::vector<double>{})
      .def("size_by_costs", &PyTreeBuilder::size_by_costs, "times"_a, "left_ms"_a, "max_nodes"_a, "other_ms"_a, "other_tokens"_a,
           "worth"_a.noconvert())
      .def("begins", [](const PyTreeBuilder& b) { return b.builder.begins(); })
      .def("step", &PyTreeBuilder::step, "token_ids"_a, "log_confidences"_a)
      .def(
          "finish",
          [](PyTreeBuilder& b, std::int64_t root, std::optional<int> count) { return to_arrays(b.builder.finish(root, count)); },
          "root"_a, "count"_a = nb::none())
      .def(
          "expanded",
          [](const PyTreeBuilder& b, std::int64_t root, int count) { return to_arrays(b.builder.expanded(root, count)); },
          "root"_a, "count"_a)
      .def_prop_ro("spent_ms", [](const PyTreeBuilder& b) { return b.builder.spent_ms(); })
      .def_prop_ro("cycle_ms", [](const PyTreeBuilder& b) { return b.builder.cycle_ms(); });
  nb::class_<PyEagleHead>(m, "EagleHead")
      .def(nb::init<nb::handle_t<PyTarget>, const std::vector<MatrixHandle>&, nb::handle_t<PyStack>>(), "target"_a, "fc"_a,
           "stack"_a)
      .def("grow", &PyEagleHead::grow, "builder"_a, "cache"_a, "lm_head"_a, "token_ids"_a, "features"_a, "k"_a,
           "sampler"_a.none() = nb::none(), "answer_length"_a = 0, "scales"_a = std::vector<double>{},
           "Read and commit the pairs of token ids (T,) and features (T, H), then grow the tree level by level.\n"
           "With a sampler children are chosen by its draws. Returns the number of levels, each a pass of the\n"
           "head; 0 if a logit is not a number.");
}

}  // namespace eyas
