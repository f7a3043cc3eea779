// Whole targets for Python.

#include "bindings.h"

namespace eyas {

PyTarget::PyTarget(nb::handle_t<PyStack> stack_, nb::handle_t<PyLMHead> head_, const StoredRows& table, bool round, float scale,
                   const std::optional<std::string>& format)
    : stack_owner(nb::borrow(stack_)),
      head_owner(nb::borrow(head_)),
      embedding_owner(nb::cast(table)),
      stack(nb::cast<PyStack&>(stack_owner)),
      head(nb::cast<PyLMHead&>(head_owner)) {
  Embedding embedding;
  embedding.table = to_table(table, format);
  embedding.round = round && table.dtype() == nb::dtype<float>();
  embedding.scale = scale;
  const int hidden = stack.stack->shape().hidden;
  require(embedding.hidden() == hidden && head.k == hidden, "an embedding and a head of the stack's hidden size");
  require(!stack.stack->reads_embeddings(), "layers of a target, which read no embeddings beside what they get");
  network = std::make_unique<TargetNetwork>(*stack.stack, *head.head, embedding);
}

void PyTarget::check_ids(const Ids& ids) const {
  for (std::size_t i = 0; i < ids.shape(0); ++i)
    require(ids.data()[i] >= 0 && ids.data()[i] < network->embedding().vocab(), "a token id outside the vocabulary");
}

std::pair<Out<float>, std::vector<Out<float>>> PyTarget::forward(const Calls& calls, const std::vector<int>& taps) {
  std::vector<TargetCall> ready;
  std::vector<std::vector<int>> parents;
  std::size_t total = 0;
  int wanted = 0;
  for (const int layer : taps) require(layer >= 0 && layer <= stack.stack->num_layers(), "a tap at one of the layers");
  for (const auto& [cache, ids, above, last_only] : calls) {
    require(cache != nullptr && ids.shape(0) > 0, "a call needs a cache and tokens");
    check_ids(ids);
    parents.push_back(to_parents(above, ids.shape(0)));
    TargetCall call;
    call.call = {&cache->cache, int(ids.shape(0)), above ? parents.back().data() : nullptr};
    call.token_ids = ids.data();
    call.last_only = last_only;
    cache->admit(stack.stack->cache_shape(0), call.call.count, call.call.parents);
    for (const TargetCall& other : ready) require(other.call.cache != call.call.cache, "a cache in two calls");
    ready.push_back(call);
    total += ids.shape(0);
    wanted += last_only ? 1 : int(ids.shape(0));
  }
  const std::size_t hidden = std::size_t(network->embedding().hidden());
  std::pair<Out<float>, std::vector<Out<float>>> out{new_array<float>({total, hidden}), {}};
  std::vector<Tap> kept;
  for (const int layer : taps) {
    out.second.push_back(new_array<float>({total, hidden}));
    kept.push_back({layer, out.second.back().data()});
  }
  {
    const nb::gil_scoped_release release;
    const auto turn = stack.engine->pool.hold();
    network->forward(ready, out.first.data(), std::move(kept));
    head.tokens = wanted;
  }
  return out;
}

Out<float> PyTarget::embed(const Ids& ids) const {
  check_ids(ids);
  Embedding table = network->embedding();
  table.scale = 1.0f;
  const std::size_t hidden = std::size_t(table.hidden());
  Out<float> out = new_array<float>({ids.shape(0), hidden});
  for (std::size_t i = 0; i < ids.shape(0); ++i) table.read(int(ids.data()[i]), out.data() + i * hidden);
  return out;
}

void bind_target(nb::module_& m) {
  nb::class_<PyTarget>(m, "Target")
      .def(nb::init<nb::handle_t<PyStack>, nb::handle_t<PyLMHead>, const StoredRows&, bool, float,
                    const std::optional<std::string>&>(),
           "stack"_a, "head"_a, "embedding"_a, "round"_a, "embedding_scale"_a = 1.0f, "embedding_format"_a.none() = nb::none(),
           "The embedding is (V, H) float32, bfloat16 as uint16, or (V, bytes of a row) in `embedding_format`.")
      .def("forward", &PyTarget::forward, "calls"_a, "taps"_a = std::vector<int>(),
           "Run calls (cache, token ids, parents or None, logits of the last token only). Returns the\n"
           "features (T, H) of all tokens, and for each tap the states (T, H) that enter that layer; the\n"
           "number of layers stands for what leaves the last one, before the final norm.")
      .def("embed", &PyTarget::embed, "token_ids"_a);
}

}  // namespace eyas
