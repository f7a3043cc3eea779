// Candidates and growth of draft trees for Python.

#include <algorithm>

#include "bindings.h"
#include "candidates.h"
#include "growth.h"

namespace eyas {

namespace {

constexpr const char* kNoNumber = "the draft gave a confidence that is not a number (docs/laws.md, L5)";

struct PyCandidates {
  using Floats = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
  using Lines = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
  using Children = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

  using Arrays = std::tuple<Out<std::int64_t>, Out<std::int64_t>, Out<double>>;  // token ids, parents, log values

  Candidates candidates;

  static RateMap to_map(const std::optional<Floats>& knots, const std::optional<Lines>& rates) {
    if (!knots || !rates) return {};
    const std::size_t points = knots->shape(0);
    require(points > 0 && knots->data()[0] == 0 && rates->shape(0) > 0 && rates->shape(1) == points,
            "knots from 0 on, and a rate for each");
    return {std::vector<double>(knots->data(), knots->data() + points),
            std::vector<double>(rates->data(), rates->data() + rates->size())};
  }

  PyCandidates(int top_k, std::vector<std::int64_t> terminal, bool by_value, std::optional<Floats> knots,
               std::optional<Lines> rates)
      : candidates(top_k, std::move(terminal), by_value, to_map(knots, rates)) {}

  void expect(std::vector<std::int64_t> token_ids, std::vector<double> rates) {
    const auto is_rate = [](double rate) { return rate > 0 && rate < 1; };
    require(token_ids.size() == rates.size() && std::all_of(rates.begin(), rates.end(), is_rate),
            "a rate in (0, 1) for each token");
    require(candidates.is_empty(), "a chain below the root, before the first level");
    candidates.expect(std::move(token_ids), std::move(rates));
  }

  void grow(const std::vector<int>& parents, const Children& token_ids, const Lines& log_confidences) {
    const std::size_t width = token_ids.shape(1);
    require(
        token_ids.shape(0) == parents.size() && log_confidences.shape(0) == parents.size() && log_confidences.shape(1) == width,
        "a row of children for each parent");
    require(width > 0 && candidates.fits(parents), "children of the root, or of the newest level");
    if (candidates.grow(parents, int(width), token_ids.data(), log_confidences.data())) return;
    PyErr_SetString(PyExc_FloatingPointError, kNoNumber);
    throw nb::python_error();
  }

  std::tuple<std::vector<int>, std::vector<std::int64_t>, std::vector<double>, std::vector<int>> frontier() const {
    const std::vector<int> chosen = candidates.frontier();
    std::vector<std::int64_t> token_ids;
    std::vector<double> log_values;
    std::vector<int> rows;
    for (const int at : chosen) {
      token_ids.push_back(candidates.token_id(at));
      log_values.push_back(candidates.open_value(at));
      rows.push_back(candidates.parent_row(at));
    }
    return {chosen, token_ids, log_values, rows};
  }

  Arrays best(std::int64_t root, int count) const { return to_arrays(candidates.tree(root, candidates.best(count))); }
  Arrays expanded(std::int64_t root, int count) const { return to_arrays(candidates.tree(root, candidates.expanded(count))); }

  static Arrays to_arrays(const TreeArrays& tree) {
    return {to_array(tree.token_ids), to_array(tree.parents), to_array(tree.log_values)};
  }
  template <class T>
  static Out<T> to_array(const std::vector<T>& values) {
    Out<T> out = new_array<T>({values.size()});
    std::copy(values.begin(), values.end(), out.data());
    return out;
  }
};

struct PyGrowth {
  Growth growth;

  PyGrowth(std::vector<double> cycle, std::vector<double> levels, double root_ms, double room, int max_nodes, double other_ms,
           double other_tokens)
      : growth(std::move(cycle), std::move(levels), root_ms, room, max_nodes, other_ms, other_tokens) {
    require(max_nodes >= 0 && growth.knows_size(std::size_t(max_nodes)), "a time for each size");
  }

  void add(const std::vector<double>& values, int expanded) {
    require(expanded >= 0 && growth.knows_level(std::size_t(expanded)), "a time for each number of nodes");
    growth.add(values, expanded);
  }
  int wanted(const std::vector<double>& log_values, const std::vector<double>& worth) const {
    require(growth.knows_level(log_values.size()), "a time for each number of nodes");
    return growth.wanted(log_values, worth);
  }
};

}  // namespace

void bind_drafting(nb::module_& m) {
  nb::class_<PyCandidates>(m, "Candidates")
      .def(nb::init<int, std::vector<std::int64_t>, bool, std::optional<PyCandidates::Floats>,
                    std::optional<PyCandidates::Lines>>(),
           "top_k"_a, "terminal"_a, "by_value"_a, "knots"_a = nb::none(), "rates"_a = nb::none())
      .def("expect", &PyCandidates::expect, "token_ids"_a, "rates"_a)
      .def("add_rest", [](PyCandidates& c) { c.candidates.add_rest(); })
      .def("expected_values", [](const PyCandidates& c) { return c.candidates.expected_values(); })
      .def("grow", &PyCandidates::grow, "parents"_a, "token_ids"_a, "log_confidences"_a)
      .def("frontier", &PyCandidates::frontier)
      .def("newest_values", [](const PyCandidates& c) { return c.candidates.newest_values(); })
      .def("best", &PyCandidates::best, "root"_a, "count"_a)
      .def("expanded", &PyCandidates::expanded, "root"_a, "count"_a);
  nb::class_<PyGrowth>(m, "Growth")
      .def(nb::init<std::vector<double>, std::vector<double>, double, double, int, double, double>(), "cycle"_a, "levels"_a,
           "root_ms"_a, "room"_a, "max_nodes"_a, "other_ms"_a, "other_tokens"_a)
      .def(
          "expect", [](PyGrowth& g, const std::vector<double>& values) { g.growth.expect(values); }, "values"_a)
      .def(
          "begins",
          [](const PyGrowth& g, double share, const std::vector<double>& worth) { return g.growth.begins(share, worth); },
          "share"_a, "worth"_a)
      .def("add", &PyGrowth::add, "values"_a, "expanded"_a)
      .def("wanted", &PyGrowth::wanted, "log_values"_a, "worth"_a)
      .def_prop_ro("spent", [](const PyGrowth& g) { return g.growth.spent(); })
      .def_prop_ro("size", [](const PyGrowth& g) { return g.growth.size(); })
      .def_prop_ro("time", [](const PyGrowth& g) { return g.growth.time(); });
}

}  // namespace eyas
