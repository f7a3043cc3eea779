"""EAGLE-2 drafts the same trees in one call of the native engine as level by level."""

import json
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eyas.drafters.eagle2 import Eagle2Options
from eyas.drafters.eagle_head import HeadState
from eyas.drafters.expansion import grow
from eyas.drafters.policy import session as policy_session
from eyas.drafters.registry import methods
from eyas.drafters.tree_builder import TreeRules
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftFiles
from eyas.engine.metrics import Laps
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree_options import TreeOptions
from eyas.errors import ModelError
from eyas.runtimes import load_runtime
from eyas.runtimes.native import is_built
from fake import AUTO, FAST, FREE, SLOW, make_request
from tiny import VOCAB, write_eagle3, write_head, write_llama

pytestmark = pytest.mark.skipif(not is_built(), reason="the native runtime is not built")

MAP = {
    mode: {"confidence": [0.0, 0.5, 1.0], "rate_by_depth": [[0.0, 0.4, 0.9], [0.0, 0.6, 0.8]]}
    for mode in ("greedy", "coupled", "top-k")
}
FEW = list(range(1, VOCAB, 3))
HEADS = {
    "one layer": partial(write_head, coupled_scale=[0.8, 1.1]),
    "two layers, a draft vocabulary, a map": partial(
        write_head, layers=2, bias=False, draft_ids=FEW, acceptance_map=MAP
    ),
    "eagle3": partial(write_eagle3, coupled_scale=[0.8, 1.1]),
    "eagle3, two layers, everything normed": partial(
        write_eagle3, layers=2, draft_ids=FEW, acceptance_map=MAP, norm_before_residual=True,
        fc_norm=True, norm_output=True,
    ),
    "eagle3, the target's LM head": partial(write_eagle3, own_head=False, draft_ids=FEW),
}  # fmt: skip


def load(runtime, head):
    """The drafter of a head."""
    name = "eagle3" if json.loads((head / "config.json").read_text()).get("head_kind") else "eagle2"
    return methods()[name].drafter.load(runtime, DraftFiles(head=lambda: head))


@pytest.fixture(scope="module", params=["float32", "int8"])
def runtime(request, tmp_path_factory):
    directory = write_llama(tmp_path_factory.mktemp("target"), max_positions=96)
    return load_runtime("native", directory, name="tiny", dtype="float32", draft_dtype=request.param)


@pytest.fixture(scope="module", params=list(HEADS))
def engine(request, runtime, tmp_path_factory):
    drafter = load(runtime, HEADS[request.param](tmp_path_factory.mktemp("head")))
    return Engine(runtime, policy_session.TreePolicy(drafter, "eagle2"))


@contextmanager
def patched(owner, name, value):
    """As pytest's monkeypatch, for the examples of one test."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def drafting(engine, make, prompts, at_once, laps=None):
    """Everything about the trees of a batch of answers, and what the heads' caches then hold."""
    found, used, whole = [], [], HeadState.grow

    def grow(*args):
        used.append(at_once and whole(*args))
        return used[-1]

    with patched(HeadState, "grow", grow):
        engine.laps = laps
        runs = [engine.start(make(prompt))[0] for prompt in prompts]
        for run in runs:
            run.session.propose = recorded(run.session.propose, found)
        while any(not run.is_finished for run in runs):
            engine.step([run for run in runs if not run.is_finished])
        engine.laps = None
    for run in runs:
        state = run.session.session._state
        length = state._cache.length
        rows = np.ones((1, engine.runtime.target.hidden_size), dtype=np.float32)
        found.append((run.token_ids, run.session.num_forwards, length, state.num_pending))
        if length < engine.runtime.target.context_limit:
            found.append((state.head.predict(state._cache, np.array([5]), rows, None),))
    return found, used


def recorded(propose, found):
    def record(*args):
        tree = propose(*args)
        found.append((tree.token_ids, tree.parents, tree.log_values, *arrays(tree.best)))
        return tree

    return record


def arrays(best):
    """What rerank dropped is the same, too."""
    more = best(10**4) if best else None
    return () if more is None else (more.token_ids, more.parents, more.log_values)


def same(one, many):
    assert len(one) == len(many)
    for left, right in zip(one, many, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b)


samplings = st.sampled_from(
    [
        {},
        {"temperature": 0.9},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 12},
        {"repetition_penalty": 1.2},
        {"temperature": 0.8, "presence_penalty": 0.4},
    ]
)
policies = st.one_of(
    st.sampled_from([AUTO, replace(AUTO, draft_sampling="top-k"), replace(AUTO, lookup=False)]).map(
        lambda tree: (tree, Eagle2Options())
    ),
    st.builds(
        lambda depth, k, by_value, rerank: (
            TreeOptions(),
            Eagle2Options(
                depth=depth, tree_top_k=k, draft_tokens=min(k, 9), expand_by_value=by_value, rerank=rerank
            ),
        ),
        depth=st.integers(1, 5),
        k=st.integers(1, 6),
        by_value=st.booleans(),
        rerank=st.booleans(),
    ),
)
prompts = st.lists(st.integers(3, VOCAB - 1), min_size=1, max_size=20).map(lambda ids: ids + ids[:6])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    prompts=st.lists(prompts, min_size=1, max_size=3),
    sampling=samplings,
    policy=policies,
    costs=st.sampled_from([FREE, FAST, SLOW]),
    most_read=st.sampled_from([2, 128]),
)
def test_trees_are_those_of_single_levels(engine, prompts, sampling, policy, costs, most_read):
    tree, options = policy
    edits = bool({"repetition_penalty", "presence_penalty"} & sampling.keys())

    def make(prompt):
        return make_request(
            prompt,
            SamplingConfig(seed=3, **sampling),
            StoppingConfig(max_new_tokens=24),
            vocab_size=VOCAB,
            stops=[2, 7],
            tree=tree,
            options=options,
            costs=costs,
        )

    with patched(policy_session, "MOST_READ", most_read), patched(policy_session, "MOST_READ_IN_BATCH", 3):
        one, used = drafting(engine, make, prompts, True)
        many, _ = drafting(engine, make, prompts, False)
    same(one, many)
    is_coupled = bool(sampling.get("temperature")) and tree.draft_sampling == "coupled"
    assert all(used) if not (is_coupled and edits) else not any(used)


def test_a_call_is_a_draft_pass(engine):
    """Its time is the draft's, and each level is a forward of the head."""
    laps, found = Laps(), []

    def make(prompt):
        return make_request(
            prompt, stopping=StoppingConfig(max_new_tokens=20, ignore_eos=True), vocab_size=VOCAB,
            options=Eagle2Options(draft_tokens=9, depth=3, tree_top_k=4),
        )  # fmt: skip

    found, used = drafting(engine, make, [[5, 9, 11]], True, laps)
    assert all(used)
    assert len(used) == len(laps.cycles)
    assert all(cycle["draft"] > 0 for cycle in laps.cycles)
    num_forwards = found[-2][1]
    assert len(used) < num_forwards <= 3 * len(used)


@pytest.mark.parametrize("most_read", [None, 2])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_ctrl_c_interrupts_can_be_drafted_again(engine, monkeypatch, most_read, at_once):
    """It arrives when the call has returned: its rows are in the cache, and nobody knows."""
    from eyas.runtimes.native.blocks import NativeDraftStack, NativeTreeGrower

    def tree(run):
        builder = TreeRules(3).builder(3)
        with run.session.session.expander(run.token_ids, most_read) as expand:
            grow(builder, expand, 3)
        return builder.finish(run.token_ids[-1], 9)

    def interrupted(*args):
        compute(*args)
        raise KeyboardInterrupt

    wanted = make_request([5, 9, 11, 8], vocab_size=VOCAB, options=Eagle2Options())
    one, other = engine.start(wanted)[0], engine.start(wanted)[0]
    if not at_once:
        monkeypatch.setattr(HeadState, "grow", lambda *_: False)
    kind, name = (NativeTreeGrower, "grow") if at_once else (NativeDraftStack, "forward")
    compute = getattr(kind, name)
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            tree(one)
    same([tree(one)], [tree(other)])


def test_scores_in_the_models_precision_go_level_by_level(engine):
    def make(prompt):
        return make_request(prompt, vocab_size=VOCAB, options=Eagle2Options(score_precision="model"))

    _, used = drafting(engine, make, [[5, 9, 11]], True)
    assert used
    assert not any(used)


def test_a_broken_head_is_told(runtime, tmp_path):
    drafter = load(runtime, write_head(tmp_path / "head", scale=1e30))
    engine, options = Engine(runtime, policy_session.TreePolicy(drafter, "eagle2")), Eagle2Options()
    with pytest.raises(ModelError, match="the draft network gave logits"):
        drafting(engine, lambda ids: make_request(ids, vocab_size=VOCAB, options=options), [[5, 9]], True)
