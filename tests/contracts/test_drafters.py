"""The promise that every drafter keeps on every runtime: the answer is plain decoding's (docs/laws.md, L1).

A new drafter or runtime joins by its name alone, a drafter with every choice among its options. Models are
tiny. On torch they are in float64, where a different shape of the same product cannot flip a choice; on
native every precision keeps the promise bit for bit (L8). So no difference is tolerated anywhere, and on
native none in a log-probability either.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from method_cases import Case, default_cases, each, option_cases

import fake
from eyas.drafters.eagle2 import Eagle2Options
from eyas.drafters.policy import session as policy_session
from eyas.drafters.registry import methods
from eyas.engine.batch_cost import SequenceShare, begin_cycle
from eyas.engine.interfaces import TargetCall, taps_of
from eyas.engine.prefix_cache import PrefixCache
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree_options import TreeOptions
from eyas.errors import ConfigError
from fake import AUTO, FAST, FREE, SLOW, answer
from tiny import VOCAB

STOPS = [2, 7]

PLAIN = Case("autoregressive")
# Methods that grow EAGLE-2's dynamic trees.
DYNAMIC = ("eagle2", "eagle3")
on_each_head = pytest.mark.parametrize(
    "eagle", [case for case in default_cases() if case.method in DYNAMIC], ids=str
)

lossless = each([case for case in default_cases() if case != PLAIN], {"ids"})
# Methods whose trees have no size to choose: they refuse tree="auto" (plain decoding takes both policies).
UNSIZED = {"lookahead"}
# Options that other methods have for their own trees alone.
FIXED_ONLY = {("sps_length", "confidence"), ("expand_by_value", False), ("rerank", False)}
sized = each([case for case in default_cases() if case.method not in {*UNSIZED, PLAIN.method}], {"ids"})
dynamic = each([case for case in default_cases() if case.method in DYNAMIC], {"ids"})
contract_settings = settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def tolerance(runtime, usual):
    """What rounding may do to a number: nothing on native."""
    return 0 if runtime.target.runtime == "native" else usual


def length(runtime, most):
    """Tokens of a long answer; on torch a third, since tiny passes take ten times as long there."""
    return most if runtime.target.runtime == "native" else most // 3


def make_request(case, prompt, sampling, stopping, tree=None, shape=None, **more):
    """A request; `shape` are options of EAGLE-2's tree, for that method."""
    options = case.options
    if shape and isinstance(options, Eagle2Options):
        options = Eagle2Options(**{**shape, **dict(case.given)})
    return fake.make_request(
        prompt, sampling, stopping, tree=tree, options=options, vocab_size=VOCAB, stops=STOPS, **more
    )


def plain_answer(engines, prompt, sampling, stopping, **more):
    """What every method is compared with; computed once for each request."""
    known = repr((prompt, sampling, stopping, more))
    if known not in engines.plain:
        engines.plain[known] = answer(engines(PLAIN), make_request(PLAIN, prompt, sampling, stopping, **more))
    return engines.plain[known]


prompts = st.lists(st.integers(3, VOCAB - 1), min_size=1, max_size=20)
samplings = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.0, 0.6, 1.0]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    logit_bias=st.sampled_from([{}, {5: 3.0}]),
    seed=st.integers(0, 3),
)
stoppings = st.builds(
    StoppingConfig,
    max_new_tokens=st.integers(4, 30),
    min_new_tokens=st.integers(0, 4),
    ignore_eos=st.booleans(),
    stop=st.sampled_from([(), ("5 ",)]),
)
# A tree policy, and options of EAGLE-2's own tree.
trees = st.one_of(
    st.just((TreeOptions(), {})),
    st.sampled_from([(AUTO, {}), (replace(AUTO, draft_sampling="top-k"), {})]),
    st.builds(
        lambda k, depth, share, coupled, precision, by_value, rerank: (
            TreeOptions(draft_sampling=coupled),
            {
                "tree_top_k": k,
                "depth": depth,
                "draft_tokens": max(1, int(share * (k + (depth - 1) * k * k))),
                "score_precision": precision,
                "expand_by_value": by_value,
                "rerank": rerank,
            },
        ),
        st.integers(1, 5),
        st.integers(1, 5),
        st.floats(0, 1),
        st.sampled_from(["coupled", "top-k"]),
        st.sampled_from(["float32", "model"]),
        st.booleans(),
        st.booleans(),
    ),
)


def refuses_auto(case):
    """Whether cost-aware trees are impossible with a method, or with its options."""
    is_sampled = case.options.rule.lossless == "distribution"
    return case.method in UNSIZED or is_sampled or bool(FIXED_ONLY & set(case.given))


def check_same_answer(case, engines, prompt, sampling, stopping, tree):
    tree, shape = tree
    if tree.is_auto and refuses_auto(case):
        with pytest.raises(ConfigError, match="tree is 'auto'"):
            engines(case).start(make_request(case, prompt, sampling, stopping, tree, costs=FREE))
        tree = TreeOptions()
    wanted = make_request(case, prompt, sampling, stopping, tree, shape, num_log_probs=2, costs=FREE)
    plain, plain_text = plain_answer(engines, prompt, sampling, stopping, num_log_probs=2)
    drafted, text = answer(engines(case), wanted)
    assert drafted.generated == plain.generated
    assert text == plain_text
    assert drafted.request.text.finish_reason == plain.request.text.finish_reason
    for ours, theirs in zip(drafted.tokens, plain.tokens, strict=True):
        allowed = tolerance(engines(case).runtime, 1e-9)
        assert abs(ours.log_prob - theirs.log_prob) <= allowed
        assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]


@lossless
@contract_settings
@given(prompt=prompts, sampling=samplings, stopping=stoppings, tree=trees)
def test_the_answer_is_plain_decodings(case, engines, prompt, sampling, stopping, tree):
    check_same_answer(case, engines, prompt, sampling, stopping, tree)


@each(option_cases(), {"ids"})
@settings(contract_settings, max_examples=4)
@given(prompt=prompts, sampling=samplings, stopping=stoppings, tree=trees)
def test_no_option_changes_the_answer(case, engines, prompt, sampling, stopping, tree):
    check_same_answer(case, engines, prompt, sampling, stopping, tree)


@each(default_cases() + option_cases(), {"distribution", "no"})
@settings(contract_settings, max_examples=4)
@given(prompt=prompts, sampling=samplings, stopping=stoppings, tree=trees)
def test_what_keeps_no_ids_says_so_and_keeps_them_where_greedy(
    case, engines, prompt, sampling, stopping, tree
):
    """Other rules apply to draws only; and what they emit still has to be possible."""
    assert methods()[case.method].lossless == "ids", "such a rule is never a default"
    check_same_answer(case, engines, prompt, replace(sampling, temperature=0.0), stopping, tree)
    drawn = replace(sampling, temperature=1.0, top_k=1)  # one token is possible
    check_same_answer(case, engines, prompt, drawn, stopping, tree)


@dynamic
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tree", [(1, 1, 1), (1, 4, 4), (2, 3, 10), (10, 6, 59), (3, 2, 12)], ids=str)
def test_trees_from_smallest_to_largest(case, engines, temperature, tree):
    """K = 1, one draft token, and every candidate kept."""
    k, depth, tokens = tree
    shape = {"tree_top_k": k, "depth": depth, "draft_tokens": tokens}
    sampling = SamplingConfig(temperature=temperature, seed=5)
    stopping = StoppingConfig(max_new_tokens=length(engines(case).runtime, 40), ignore_eos=True)
    plain, _ = plain_answer(engines, [9, 4, 33], sampling, stopping)
    drafted, _ = answer(engines(case), make_request(case, [9, 4, 33], sampling, stopping, shape=shape))
    assert drafted.generated == plain.generated


@sized
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("costs", [FREE, FAST, SLOW], ids=["free", "fast", "slow"])
def test_cost_aware_trees(case, engines, costs, temperature):
    """Large trees, small ones, and long stretches without any: the same answer, and the same again."""
    sampling = SamplingConfig(temperature=temperature, seed=6)
    stopping = StoppingConfig(max_new_tokens=length(engines(case).runtime, 60), ignore_eos=True)
    plain, _ = plain_answer(engines, [9, 4, 33], sampling, stopping)
    seen = []
    for _ in range(2):
        run, _ = engines(case).start(make_request(case, [9, 4, 33], sampling, stopping, AUTO, costs=costs))
        trees = []
        while not run.is_finished:
            engines(case).step([run])
            trees.append((run.last_cycle.tree.token_ids.tolist(), run.last_cycle.tree.parents.tolist()))
        assert run.generated == plain.generated
        seen.append(trees)
    assert seen[0] == seen[1], "a replay with the same table drafts the same trees"
    sizes = [len(parents) - 1 for _, parents in seen[0]]
    # Random EAGLE-3 heads are so sure of themselves at temperature 1 that cheap drafts always pay.
    if case.method in DYNAMIC and not (case.method == "eagle3" and costs is FAST):
        assert max(sizes) > 20 if costs is FREE else 0 in sizes
    assert max(sizes) > 0 or costs is not FREE


@dynamic
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompt_lookup_changes_trees_and_no_ids(case, engines, temperature):
    """A text that repeats itself: the same ids, and cycles without a pass of the draft."""
    sampling = SamplingConfig(temperature=temperature, seed=6, logit_bias={5: 60.0})
    stopping = StoppingConfig(max_new_tokens=60, ignore_eos=True)
    prompt = [9, 4, 33, 5, 5, 9, 4]
    plain, _ = plain_answer(engines, prompt, sampling, stopping)
    runs = {}
    for lookup in (True, False):
        tree = replace(AUTO, lookup=lookup)
        request = make_request(case, prompt, sampling, stopping, tree, costs=FAST)
        runs[lookup], _ = answer(engines(case), request)
        assert runs[lookup].generated == plain.generated
    assert runs[True].session.num_forwards < 0.75 * runs[False].session.num_forwards


@on_each_head
def test_cost_aware_trees_need_a_table(eagle, engines):
    request = make_request(eagle, [3], SamplingConfig(), StoppingConfig(max_new_tokens=5), AUTO)
    with pytest.raises(ConfigError, match="no cost table"):
        engines(eagle).start(request)


@each(default_cases() + option_cases(), {"ids", "distribution", "no"})
@pytest.mark.parametrize("size", [{}, {"tree": AUTO, "costs": FREE}], ids=["fixed", "auto"])
def test_no_cycle_drafts_more_than_the_method_says(case, engines, size):
    """A server keeps so much of its caches free; a text that repeats itself is drafted at full length."""
    if refuses_auto(case):
        size = {}
    sampling = SamplingConfig(temperature=1.0, seed=3, logit_bias={5: 60.0})
    stopping = StoppingConfig(max_new_tokens=length(engines(case).runtime, 60), ignore_eos=True)
    request = make_request(case, [9, 4, 5, 5, 9, 4, 5, 5], sampling, stopping, **size)
    most = case.options.max_draft_tokens(request.tree)
    run, _ = engines(case).start(request)
    drafted = []
    while not run.is_finished:
        engines(case).step([run])
        drafted.append(len(run.last_cycle.tree.rows[0]) - 1)
    assert max(drafted) <= most
    assert most == 0 or max(drafted) > 0


@lossless
def test_the_whole_context_is_used(case, engines):
    """The tree shrinks as the context fills; the last position is still reached."""
    stopping = StoppingConfig(max_new_tokens=96, ignore_eos=True)
    prompt = list(range(3, 63))
    plain, _ = plain_answer(engines, prompt, SamplingConfig(), stopping)
    drafted, _ = answer(engines(case), make_request(case, prompt, SamplingConfig(), stopping))
    assert drafted.generated == plain.generated
    assert len(drafted.token_ids) == 96
    assert drafted.request.text.finish_reason == "length"


@each(default_cases(), {"ids"})
@settings(contract_settings, max_examples=4)
@given(
    first=prompts,
    second=prompts,
    temperature=st.sampled_from([0.0, 1.0]),
    size=st.sampled_from([{}, {"tree": AUTO, "costs": FREE}, {"tree": AUTO, "costs": SLOW}]),
)
def test_a_later_turn_reuses_what_is_common(case, engines, first, second, temperature, size):
    """L7: same answer as from an empty cache, also after a turn whose tokens changed in the middle."""
    size = {} if case.method in UNSIZED else size
    sampling = SamplingConfig(temperature=temperature, seed=1)
    stopping = StoppingConfig(max_new_tokens=8)
    engine = engines(case)
    run, _ = answer(engine, make_request(case, first, sampling, stopping, **size))
    for turn in ([*run.token_ids, *second], [*first, *second]):
        run, _ = answer(engine, make_request(case, turn, sampling, stopping, **size), earlier=run)
        fresh, _ = plain_answer(engines, turn, sampling, stopping)
        assert run.generated == fresh.generated


@each(default_cases(), {"ids"})
@settings(contract_settings, max_examples=3)
@given(
    first=prompts,
    second=prompts,
    temperature=st.sampled_from([0.0, 1.0]),
    size=st.sampled_from([{}, {"tree": AUTO, "costs": FREE}, {"tree": AUTO, "costs": SLOW}]),
)
def test_a_forked_session_and_the_first_one_go_on_apart(case, engines, first, second, temperature, size):
    """L7: answers to one prompt share its prefill, a later prompt forks what is common; same trees."""
    size = {} if case.method in UNSIZED else size
    sampling = SamplingConfig(temperature=temperature, seed=1)
    stopping = StoppingConfig(max_new_tokens=8, ignore_eos=True)
    engine = engines(case)

    def asked(prompt, choice=0):
        return make_request(case, prompt, sampling, stopping, choice=choice, **size)

    def drafted(run):
        trees = []
        while not run.is_finished:
            engine.step([run])
            tree = run.last_cycle.tree
            trees.append((tree.token_ids.tolist(), tree.parents.tolist()))
        return trees

    runs = [engine.open(asked(first, choice)) for choice in range(2)]
    for _ in engine.prefill(runs):
        pass
    prefixes = PrefixCache(1)
    for choice, run in enumerate(runs):
        trees = drafted(run)
        alone, _ = engine.start(asked(first, choice))
        assert drafted(alone) == trees
        assert alone.generated == run.generated
    prefixes.keep(runs[0])
    for prompt in ([*first, *second], [*runs[0].token_ids, *second]):  # a fork, then the run itself
        later, _ = engine.start(asked(prompt), prefixes.take(engine, prompt))
        fresh, _ = engine.start(asked(prompt))
        same_trees = drafted(later) == drafted(fresh)
        assert later.generated == fresh.generated
        assert same_trees or size, "trees of fixed size do not depend on where the rows came from"


@lossless
@settings(contract_settings, max_examples=4)
@given(
    prompt_list=st.lists(prompts, min_size=2, max_size=3),
    temperature=st.sampled_from([0.0, 1.0]),
    size=st.sampled_from([{}, {"tree": AUTO, "costs": FREE}, {"tree": AUTO, "costs": FAST}]),
)
def test_sequences_stepped_together_do_not_disturb_each_other(case, engines, prompt_list, temperature, size):
    size = {} if case.method in UNSIZED else size
    sampling = SamplingConfig(temperature=temperature, seed=2)
    stopping = StoppingConfig(max_new_tokens=10)
    engine = engines(case)
    runs = [engine.start(make_request(case, prompt, sampling, stopping, **size))[0] for prompt in prompt_list]
    while active := [run for run in runs if not run.is_finished]:
        engine.step(active)
    for run, prompt in zip(runs, prompt_list, strict=True):
        alone, _ = plain_answer(engines, prompt, sampling, stopping)
        assert run.generated == alone.generated


@lossless
def test_choices_differ_and_the_first_is_that_of_one(case, engines):
    sampling, stopping = SamplingConfig(temperature=1.0, seed=3), StoppingConfig(max_new_tokens=16)
    answers = [
        answer(engines(case), make_request(case, [8, 9], sampling, stopping, choice=c))[0] for c in range(3)
    ]
    plain = [plain_answer(engines, [8, 9], sampling, stopping, choice=c)[0] for c in range(3)]
    assert [run.generated for run in answers] == [run.generated for run in plain]
    assert len({tuple(run.generated) for run in answers}) > 1


@lossless
def test_abandoned_answers_leave_the_method_usable(case, engines):
    sampling, stopping = SamplingConfig(), StoppingConfig(max_new_tokens=20, ignore_eos=True)
    stream = engines(case).stream(make_request(case, [5, 6], sampling, stopping))
    next(stream)
    next(stream)
    stream.close()
    run, _ = answer(engines(case), make_request(case, [5, 6], sampling, stopping))
    plain, _ = plain_answer(engines, [5, 6], sampling, stopping)
    assert run.generated == plain.generated


@on_each_head
@pytest.mark.parametrize(
    "sampling", [SamplingConfig(), SamplingConfig(temperature=0.8, seed=4)], ids=["greedy", "sampled"]
)
def test_the_heads_cache_is_one_causal_pass_over_true_pairs(eagle, engines, sampling):
    """H.4: after every cycle the head's cached keys equal those computed from scratch (L7)."""
    engine = engines(eagle)
    stopping = StoppingConfig(max_new_tokens=24, ignore_eos=True)
    run, _ = engine.start(make_request(eagle, [11, 12, 13], sampling, stopping))
    while not run.is_finished:
        engine.step([run])
        session = run.session.session
        state = session._state
        fresh = type(session)(state.head)
        fresh.begin(state._context)
        cache = engine.runtime.new_cache()
        ids = np.array(run.token_ids[:-1])
        [rows] = engine.runtime.forward([TargetCall(cache, ids, taps=taps_of(engine.drafter))])
        fresh.extend(rows.features, run.token_ids[1:])
        drafted = fresh.propose(run.token_ids, 5)
        kept = session.propose(run.token_ids, 5)
        assert drafted.token_ids.tolist() == kept.token_ids.tolist()
        allowed = tolerance(engine.runtime, 1e-8)
        np.testing.assert_allclose(drafted.log_values, kept.log_values, rtol=0, atol=allowed)
        # propose read the waiting pairs; put the next cycle on the same footing
        state._waiting = [(rows.features[-1:], np.array(run.token_ids[-1:]))]
        state._cache.truncate(len(run.token_ids) - 2)


@pytest.mark.parametrize(("limit", "others"), [("MOST_READ", 0), ("MOST_READ_IN_BATCH", 1)])
@on_each_head
def test_cost_aware_trees_read_only_the_end_of_what_is_unread(eagle, engines, monkeypatch, limit, others):
    """The head begins again with the last pairs, and a later turn that goes back before them does too."""
    monkeypatch.setattr(policy_session, limit, 4)
    engine, prompt = engines(eagle), list(range(3, 23))
    taps = taps_of(engine.drafter)
    [rows] = engine.runtime.forward([TargetCall(engine.runtime.new_cache(), np.array(prompt), taps=taps)])
    stopping = StoppingConfig(max_new_tokens=12, ignore_eos=True)
    request = make_request(eagle, prompt, SamplingConfig(), stopping, AUTO, costs=FREE)
    context = engine.start(request)[0].session.session._context
    begin_cycle([context.share, *(SequenceShare() for _ in range(others))])

    def drafted(policy, keep, first, last):
        """Below token `last`, from the session's first `keep` pairs and those from `first` on."""
        policy.begin(context, keep)
        policy.extend(rows.features[first:last], prompt[first + 1 : last + 1])
        return policy.propose(prompt[: last + 1], 5).token_ids.tolist()

    whole, end = engine.drafter.open(), engine.drafter.open()
    end.session._state._num_skipped = 15
    assert drafted(whole, 0, 0, 19) == drafted(end, 15, 15, 19)
    assert whole.session._state._cache.length == 4
    back, end = engine.drafter.open(), engine.drafter.open()
    drafted(back, 0, 0, 19)
    end.session._state._num_skipped = 8
    assert drafted(back, 8, 8, 10) == drafted(end, 8, 8, 10), "the first eight were never read"


def test_joined_features_are_their_rows_in_order(runtime):
    """What gathered over several cycles is read in one pass; a runtime has to put it together."""
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), np.array([5, 6, 7, 8]))])
    parts = [rows.features[:1], rows.features[1:3], rows.features[[3]]]
    head = runtime.lm_head()
    joined, whole = head.top_k(runtime.join(parts), 3), head.top_k(rows.features, 3)
    assert joined.token_ids.tolist() == whole.token_ids.tolist()
    np.testing.assert_allclose(joined.log_probs, whole.log_probs, atol=1e-12)


def test_what_is_said_of_a_method_before_it_is_loaded_holds_afterwards(engines):
    """Whether its trees can be sized, which commands ask without loading any networks."""
    for case in default_cases():
        assert methods()[case.method].is_sizable == engines(case).drafter.is_sizable
        assert methods()[case.method].is_sizable == (case.method not in {*UNSIZED, PLAIN.method})
