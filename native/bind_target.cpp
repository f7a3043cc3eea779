// Whole targets for Python.

#include "bindings.h"

namespace eyas {

namespace {

struct PyTarget {
  nb::object stack_owner, head_owner, embedding_owner;
  PyStack& stack;
  PyHead& head;
  std::unique_ptr<TargetNetwork> network;

  PyTarget(nb::object stack_, nb::object head_, nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> table, bool round)
      : stack_owner(std::move(stack_)),
        head_owner(std::move(head_)),
        embedding_owner(nb::cast(table)),
        stack(nb::cast<PyStack&>(stack_owner)),
        head(nb::cast<PyHead&>(head_owner)) {
    Embedding embedding;
    embedding.data = table.data();
    embedding.bf16 = table.dtype() == nb::dtype<std::uint16_t>();
    require(embedding.bf16 || table.dtype() == nb::dtype<float>(), "float32, or bfloat16 as uint16");
    embedding.round = round;
    embedding.vocab = int(table.shape(0));
    embedding.hidden = int(table.shape(1));
    const int hidden = stack.stack->shape().hidden;
    require(embedding.hidden == hidden && head.k == hidden, "an embedding and a head of the stack's hidden size");
    network = std::make_unique<TargetNetwork>(*stack.stack, *head.head, embedding);
  }

  void check_ids(const Ids& ids) const {
    for (std::size_t i = 0; i < ids.shape(0); ++i)
      require(ids.data()[i] >= 0 && ids.data()[i] < network->embedding().vocab, "a token id outside the vocabulary");
  }

  // calls: (cache, token ids, parents or None, last row only). Returns the features of all rows.
  Out<float> forward(const std::vector<std::tuple<PyCache*, Ids, std::optional<Ids>, bool>>& calls) {
    std::vector<TargetRows> rows;
    std::vector<std::vector<int>> parents;
    std::size_t total = 0;
    int wanted = 0;
    for (const auto& [cache, ids, above, last_only] : calls) {
      require(cache != nullptr && ids.shape(0) > 0, "a call needs a cache and rows");
      check_ids(ids);
      parents.push_back(to_parents(above, ids.shape(0)));
      TargetRows call;
      call.call = {&cache->cache, int(ids.shape(0)), above ? parents.back().data() : nullptr};
      call.token_ids = ids.data();
      call.last_only = last_only;
      cache->admit(stack.stack->cache_shape(0), call.call.count, call.call.parents);
      for (const TargetRows& other : rows) require(other.call.cache != call.call.cache, "a cache in two calls");
      rows.push_back(call);
      total += ids.shape(0);
      wanted += last_only ? 1 : int(ids.shape(0));
    }
    Out<float> features = new_array<float>({total, std::size_t(network->embedding().hidden)});
    float* out = features.data();
    {
      const nb::gil_scoped_release release;
      const auto turn = stack.engine->team.hold();
      network->forward(rows, out);
      head.rows = wanted;
    }
    return features;
  }

  Out<float> embed(const Ids& ids) {
    check_ids(ids);
    const std::size_t hidden = std::size_t(network->embedding().hidden);
    Out<float> out = new_array<float>({ids.shape(0), hidden});
    for (std::size_t i = 0; i < ids.shape(0); ++i) network->embedding().read(int(ids.data()[i]), out.data() + i * hidden);
    return out;
  }
};

}  // namespace

void bind_target(nb::module_& m) {
  nb::class_<PyTarget>(m, "Target")
      .def(nb::init<nb::object, nb::object, nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>, bool>(), "stack"_a,
           "head"_a, "embedding"_a, "round"_a)
      .def("forward", &PyTarget::forward, "calls"_a)
      .def("embed", &PyTarget::embed, "token_ids"_a);
}

}  // namespace eyas
