"""The engine on a runtime without a network: L1, L4 and L7 for any tree, prompt, sampling and stop."""

import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.drafters.autoregressive import Autoregressive
from eyas.engine import interfaces, verification
from eyas.engine.cycle import Engine, common_prefix
from eyas.engine.interfaces import FINAL
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree import DraftTree, chain
from eyas.errors import CapacityError, ConfigError, DraftError
from fake import FakeRuntime, RandomTrees, answer, make_request

VOCAB = 8


def request(prompt, sampling=None, stopping=None, **more):
    return make_request(prompt, sampling, stopping, vocab_size=VOCAB, stops=[2], **more)


prompts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=10)
samplings = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 3),
)
stoppings = st.builds(
    StoppingConfig,
    max_new_tokens=st.integers(4, 20),
    min_new_tokens=st.integers(0, 4),
    ignore_eos=st.booleans(),
    stop=st.sampled_from([(), ("5 1",), ("3 ", "4 4")]),
    stop_token_ids=st.sampled_from([(), (6,)]),
)


@given(
    prompt=prompts,
    sampling=samplings,
    stopping=stoppings,
    seed=st.integers(0, 10**6),
    context=st.integers(11, 40),
)
def test_any_tree_gives_plain_decodings_answer(prompt, sampling, stopping, seed, context):
    """L1 and L4: ids, text, finish reason and log-probabilities, stops inside paths, full contexts."""
    runtime = FakeRuntime(VOCAB, context, seed=seed)
    drafter = RandomTrees(VOCAB, seed)
    plain, plain_text = answer(
        Engine(runtime, Autoregressive()), request(prompt, sampling, stopping, num_log_probs=2)
    )
    drafted, text = answer(Engine(runtime, drafter), request(prompt, sampling, stopping, num_log_probs=2))
    assert drafted.generated == plain.generated
    assert text == plain_text
    assert drafted.request.text.finish_reason == plain.request.text.finish_reason
    assert [t.at_depth(None) for t in drafted.tokens] == [t.at_depth(None) for t in plain.tokens]
    if stopping.max_new_tokens >= context:
        assert len(drafted.token_ids) <= context
    # L7: after the stop the caches hold exactly the tokens before the last one.
    assert drafted.cache.tokens == drafted.token_ids[:-1]
    assert not drafted.cache.pending
    drafter.sessions[0].check(drafted.token_ids)


@given(prompt=prompts, seed=st.integers(0, 10**6))
def test_counts_agree_with_each_other(prompt, seed):
    runtime = FakeRuntime(VOCAB, 64, seed=seed)
    before = runtime.num_forwards
    run, _ = answer(Engine(runtime, RandomTrees(VOCAB, seed)), request(prompt))
    stats = run.stats()
    assert stats.new_tokens == len(run.generated)
    assert stats.target_forwards == runtime.num_forwards - before == stats.cycles + 1
    assert stats.cycle_tokens == stats.cycles + sum(stats.accepted_by_depth)
    dropped = 1 + stats.cycle_tokens - stats.new_tokens  # cut behind the last token of the answer
    assert 0 <= dropped <= 5
    assert all(a <= d for a, d in zip(stats.accepted_by_depth, stats.drafted_by_depth, strict=True))
    if stats.cycles:
        assert stats.acceptance_length == stats.cycle_tokens / stats.cycles
    else:
        assert stats.acceptance_length is None


def test_plain_decoding_has_acceptance_length_one():
    run, _ = answer(Engine(FakeRuntime(), Autoregressive()), request([1, 3]))
    assert run.stats().acceptance_length == 1.0
    assert run.stats().draft_forwards == 0


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3])
def test_short_answers_end_exactly(max_new_tokens):
    stopping = StoppingConfig(max_new_tokens=max_new_tokens, ignore_eos=True)
    run, _ = answer(Engine(FakeRuntime(), RandomTrees(VOCAB)), request([1], stopping=stopping))
    assert len(run.generated) == max_new_tokens
    assert run.request.text.finish_reason == "length"


taps = st.sampled_from([(FINAL,), (2,), (1, 3, FINAL)])


@given(first=prompts, second=prompts, seed=st.integers(0, 10**6), taps=taps)
def test_a_later_turn_reuses_the_common_prefix(first, second, seed, taps):
    """L7: same answer as from scratch, fewer rows forwarded; the drafter gets the features of its taps."""
    runtime = FakeRuntime(VOCAB, 64, seed=seed)
    engine = Engine(runtime, RandomTrees(VOCAB, seed, taps=taps))
    run, _ = answer(engine, request(first, stopping=StoppingConfig(max_new_tokens=6)))
    turn = [*run.token_ids, *second]
    later, _ = answer(engine, request(turn), earlier=run)
    fresh, _ = answer(Engine(runtime, Autoregressive()), request(turn))
    assert later.generated == fresh.generated
    changed = [(token + 1) % VOCAB for token in turn]
    other, _ = answer(engine, request(changed), earlier=later)
    assert other.generated == answer(Engine(runtime, Autoregressive()), request(changed))[0].generated


@given(prompt_list=st.lists(prompts, min_size=2, max_size=3), seed=st.integers(0, 10**6), taps=taps)
def test_a_set_of_sequences_steps_together(prompt_list, seed, taps):
    """Drafters with other taps may share a pass."""
    runtime = FakeRuntime(VOCAB, 64, seed=seed)
    engine = Engine(runtime, RandomTrees(VOCAB, seed))
    other = Engine(runtime, RandomTrees(VOCAB, seed + 1, taps=taps))
    runs = [(engine, other)[at % 2].start(request(prompt))[0] for at, prompt in enumerate(prompt_list)]
    while active := [run for run in runs if not run.is_finished]:
        engine.step(active)
    for run, prompt in zip(runs, prompt_list, strict=True):
        alone, _ = answer(Engine(runtime, Autoregressive()), request(prompt))
        assert run.generated == alone.generated


class Faulty(RandomTrees):
    """A drafter whose sessions fail where they are told to."""

    def open(self):
        session = super().open()
        self.make_fail(session)
        return session

    def make_fail(self, session):
        if len(self.sessions) == 2:  # the second sequence

            def propose(token_ids, max_depth):
                raise FloatingPointError("no number")

            session.propose = propose


class FaultySettling(Faulty):
    def make_fail(self, session):
        if len(self.sessions) == 2:
            extend, calls = session.extend, []

            def failing(features, token_ids):
                calls.append(1)
                if len(calls) > 1:  # the first is prefill's
                    raise FloatingPointError("no number")
                extend(features, token_ids)

            session.extend = failing


@pytest.mark.parametrize("drafter", [Faulty, FaultySettling])
def test_an_error_ends_its_own_run_only(drafter):
    runtime = FakeRuntime(VOCAB, 64)
    engine = Engine(runtime, drafter(VOCAB))
    stopping = StoppingConfig(max_new_tokens=20, ignore_eos=True)
    runs = [engine.start(request([1, 3, at], stopping=stopping))[0] for at in range(3)]
    first, broken, last = engine.try_step(runs)
    assert isinstance(broken, FloatingPointError)
    assert first.tokens
    assert last.tokens
    left = [runs[0], runs[2]]
    while active := [run for run in left if not run.is_finished]:
        engine.step(active)
    for run in left:
        alone, _ = answer(
            Engine(runtime, Autoregressive()), request(run.request.prompt_ids, stopping=stopping)
        )
        assert run.generated == alone.generated


def broken_trees():
    """(what is wrong, tree below a root) of drafters with a bug."""
    yield "token id 8", lambda root, room: chain(root, [VOCAB])
    yield "token id -1", lambda root, room: chain(root, [1, -1])
    yield "root 4", lambda root, room: chain(4, [])
    yield "levels", lambda root, room: chain(root, [1] * (room + 1))
    yield (
        "before their children",
        lambda root, room: DraftTree(np.array([root, 1]), np.array([-1, 1]), np.zeros(2)),
    )


@pytest.mark.parametrize(("message", "tree"), [*broken_trees()], ids=lambda value: str(value)[:12])
def test_a_broken_tree_ends_its_own_run_only(monkeypatch, message, tree):
    """The target's pass would fail for all."""

    class Broken(Faulty):
        def make_fail(self, session):
            if len(self.sessions) == 2:
                session.propose = lambda token_ids, room: tree(token_ids[-1], room)

    runtime = FakeRuntime(VOCAB, 64)
    forward = runtime.forward

    def strict(calls):
        for call in calls:
            assert 0 <= min(call.token_ids) <= max(call.token_ids) < VOCAB
        return forward(calls)

    monkeypatch.setattr(runtime, "forward", strict)
    engine = Engine(runtime, Broken(VOCAB))
    stopping = StoppingConfig(max_new_tokens=20, ignore_eos=True)
    runs = [engine.start(request([1, 3, at], stopping=stopping))[0] for at in range(3)]
    first, broken, last = engine.try_step(runs)
    assert isinstance(broken, DraftError | AssertionError)
    assert message in str(broken)
    assert first.tokens
    assert last.tokens


def test_the_example_of_the_interfaces_is_plain_decoding():
    """The few lines that explain a cycle are a program."""
    text = interfaces.__doc__
    lines = text[text.index("    def cycle(") : text.index("Shape letters")]
    names = {**vars(interfaces), **vars(verification)}
    exec(textwrap.dedent(lines), names)
    runtime, drafter = FakeRuntime(VOCAB, 64), RandomTrees(VOCAB)
    stopping = StoppingConfig(max_new_tokens=20, ignore_eos=True)
    run, _ = Engine(runtime, drafter).start(request([1, 3], stopping=stopping))
    tokens = run.token_ids
    while len(tokens) < 22:
        names["cycle"](runtime, run.cache, run.session, run.request.sampler, tokens, 2)
    plain, _ = answer(Engine(runtime, Autoregressive()), request([1, 3], stopping=stopping))
    assert tokens[:22] == plain.token_ids


@pytest.mark.slow
def test_the_example_of_the_interfaces_type_checks(tmp_path):
    api = pytest.importorskip("mypy.api")
    text = interfaces.__doc__
    modules = ("interfaces", "sampling", "verification")
    imports = "".join(f"from eyas.engine.{name} import *\n" for name in modules)
    program = tmp_path / "example.py"
    program.write_text(
        imports + textwrap.dedent(text[text.index("    def cycle(") : text.index("Shape letters")])
    )
    out, err, code = api.run(["--strict", str(program)])
    assert code == 0, out + err


def test_an_error_of_the_pass_ends_all_that_share_it(monkeypatch):
    runtime = FakeRuntime(VOCAB, 64)
    engine = Engine(runtime, RandomTrees(VOCAB))
    runs = [engine.start(request([1, 3, at]))[0] for at in range(2)]
    monkeypatch.setattr(runtime, "forward", lambda calls: len(calls) / 0)
    assert [type(outcome) for outcome in engine.try_step(runs)] == [ZeroDivisionError] * 2
    with pytest.raises(ZeroDivisionError):
        engine.step(runs)


@given(prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), seed=st.integers(0, 10**6))
def test_other_runs_may_be_stepped_during_a_prefill(prompt, seed):
    runtime = FakeRuntime(VOCAB, 64, seed=seed)
    engine = Engine(runtime, RandomTrees(VOCAB, seed))
    stopping = StoppingConfig(max_new_tokens=12, ignore_eos=True)
    other, _ = engine.start(request([1, 3], stopping=stopping))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eyas.engine.cycle.PREFILL_TOKENS", 4)
        run = engine.open(request(prompt, stopping=stopping))
        prefill = engine.prefill([run])
        passes = 1
        while True:
            try:
                next(prefill)
            except StopIteration:
                break
            passes += 1
            if not other.is_finished:
                engine.step([other])
    assert passes == -(-len(prompt) // 4)
    while active := [run for run in (run, other) if not run.is_finished]:
        engine.step(active)
    for ended in (run, other):
        alone, _ = answer(
            Engine(runtime, Autoregressive()), request(ended.request.prompt_ids, stopping=stopping)
        )
        assert ended.generated == alone.generated


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], CapacityError, "empty"),
        ([1] * 64, CapacityError, "64 tokens"),
        ([VOCAB], ConfigError, "token id 8, but the model's ids end at 7"),
        ([-1], ConfigError, "token id -1"),
    ],
    ids=["empty", "long", "unknown-id", "negative-id"],
)
def test_impossible_prompts_are_refused(prompt, error, message):
    with pytest.raises(error, match=message):
        Engine(FakeRuntime(), Autoregressive()).start(request(prompt))


def test_the_last_position_of_the_context_is_reached():
    stopping = StoppingConfig(max_new_tokens=60, ignore_eos=True)
    runtime = FakeRuntime(VOCAB, context_limit=12)
    run, _ = answer(Engine(runtime, RandomTrees(VOCAB)), request([1, 2, 3], stopping=stopping))
    assert len(run.token_ids) == 12
    assert run.request.text.finish_reason == "length"


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0
