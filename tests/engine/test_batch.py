"""The batch: answers join, leave and share a prompt, and none of them can tell (docs/laws.md, L1, L7, L8)."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.drafters.autoregressive import Autoregressive
from eyas.engine.batch import Batch, run_all
from eyas.engine.cycle import Engine
from eyas.engine.prefix_cache import PrefixCache
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.errors import CapacityError, ConfigError
from fake import FakeRuntime, RandomTrees, answer, make_request

VOCAB = 8
prompts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=10)
SHORT = StoppingConfig(max_new_tokens=8, ignore_eos=True)


def request(prompt, stopping=SHORT, *, seed=0, choice=0):
    sampling = SamplingConfig(temperature=1.0, seed=seed)
    return make_request(prompt, sampling, stopping, vocab_size=VOCAB, stops=[2], choice=choice)


def alone(runtime, run):
    """The ids that plain decoding gives to a run's request."""
    asked, sampler = run.request, run.request.sampler
    again = request(list(asked.prompt_ids), seed=sampler.seed, choice=sampler.choice)
    return answer(Engine(runtime, Autoregressive()), again)[0].generated


def finish(batch):
    """Step until all have ended; returns the pieces of each run."""
    pieces = {}
    while len(batch):
        for run, piece in batch.step():
            pieces.setdefault(run, []).append(piece)
    return pieces


@given(
    groups=st.lists(st.tuples(prompts, st.integers(1, 3)), min_size=1, max_size=3),
    seed=st.integers(0, 10**6),
    rows=st.sampled_from([2, 256]),
)
def test_every_answer_is_that_of_its_request_alone(groups, seed, rows):
    """Groups that share a prompt, prompts read in parts while others write, and caches of ended runs."""
    runtime = FakeRuntime(VOCAB, 64, seed=seed)
    engine = Engine(runtime, RandomTrees(VOCAB, seed))
    asked = [[request(prompt, choice=at) for at in range(count)] for prompt, count in groups]
    again = [[request(prompt, seed=1)] for prompt, _ in groups]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eyas.engine.cycle.PREFILL_TOKENS", rows)
        ended = []
        for asked_for, run in run_all(engine, asked + again, 2):
            assert run.request is asked_for
            assert run.cache.tokens == run.token_ids[:-1], "L7"
            run.session.check(run.token_ids)
            ended.append(run.request)
            assert run.generated == alone(runtime, run)
    assert set(ended) == {each for group in asked + again for each in group}


@given(prompt=prompts, count=st.integers(2, 4), seed=st.integers(0, 10**6))
def test_a_group_reads_its_prompt_once(prompt, count, seed):
    runtime = FakeRuntime(VOCAB, 64, seed=seed)
    engine, batch = Engine(runtime, RandomTrees(VOCAB, seed)), Batch()
    batch.admit(engine, [request(prompt, choice=at) for at in range(count)])
    first = batch.step()
    assert runtime.num_forwards == 1
    assert len(first) == count
    pieces = finish(batch)
    for run, piece in first:
        text = "".join(map(str, [piece, *pieces.get(run, [])]))
        assert text == run.text
        assert run.generated == alone(runtime, run)


@given(prompt_list=st.lists(prompts, min_size=1, max_size=3), seed=st.integers(0, 10**6))
def test_requests_may_take_over_the_caches_of_ended_ones(prompt_list, seed):
    """Each prompt three times: the later ones reuse its rows, and answer the same."""
    runtime = FakeRuntime(VOCAB, 64, seed=seed)
    engine = Engine(runtime, RandomTrees(VOCAB, seed))
    seen, reused = [], 0
    for _, run in run_all(engine, ([request(p)] for p in prompt_list * 3), size=2):
        seen.append(tuple(run.request.prompt_ids))
        assert run.generated == alone(runtime, run)
        reused += run.num_reused
    assert len(seen) == 3 * len(prompt_list)
    longest = max(len(prompt) for prompt in prompt_list)
    assert reused or longest < 2 or len(prompt_list) > 1


@given(
    first=prompts,
    second=prompts,
    at=st.integers(0, 5),
    seed=st.integers(0, 10**6),
)
def test_a_cancelled_run_serves_a_later_prompt(first, second, at, seed):
    """Between two steps its tokens and caches agree; the others go on."""
    runtime = FakeRuntime(VOCAB, 64, seed=seed)
    engine, prefixes = Engine(runtime, RandomTrees(VOCAB, seed)), PrefixCache(3)
    batch = Batch(prefixes)
    [left] = batch.admit(engine, [request(first, StoppingConfig(max_new_tokens=40, ignore_eos=True))])
    [other] = batch.admit(engine, [request(second)])
    for _ in range(at):
        batch.step()
    if left.is_finished:
        return
    batch.cancel(left)
    assert left not in finish(batch)
    assert other.generated == alone(runtime, other)
    prompt = [*left.token_ids, *second]
    [later] = batch.admit(engine, [request(prompt)])
    finish(batch)
    assert later.generated == alone(runtime, later)
    if left.tokens:
        assert later.num_reused >= len(left.token_ids) - 1


def test_one_of_a_group_may_be_cancelled_while_the_prompt_is_read(monkeypatch):
    monkeypatch.setattr("eyas.engine.cycle.PREFILL_TOKENS", 4)
    monkeypatch.setattr("eyas.engine.batch.PREFILL_TOKENS", 4)
    runtime = FakeRuntime(VOCAB, 64)
    engine, batch = Engine(runtime, RandomTrees(VOCAB)), Batch()
    first, second, third = batch.admit(engine, [request([1, 3, 4, 5, 6, 7], choice=at) for at in range(3)])
    assert not batch.step()
    batch.cancel(first)
    assert len(batch) == 2
    assert set(finish(batch)) == {second, third}
    assert second.generated == alone(runtime, second)
    assert third.generated == alone(runtime, third)
    batch.admit(engine, [request([1, 3, 4, 5, 6, 7])])
    batch.step()
    batch.cancel(next(iter(batch._reading))[0][0])
    assert not len(batch)
    assert not batch.step()


def test_steps_read_and_write_in_turns(monkeypatch):
    monkeypatch.setattr("eyas.engine.cycle.PREFILL_TOKENS", 4)
    monkeypatch.setattr("eyas.engine.batch.PREFILL_TOKENS", 4)
    runtime = FakeRuntime(VOCAB, 64)
    engine, batch = Engine(runtime, Autoregressive()), Batch()
    [writer] = batch.admit(engine, [request([1, 3])])
    assert [run for run, _ in batch.step()] == [writer]
    [reader] = batch.admit(engine, [request([1, 3, 4, 5, 6, 7, 1, 2, 3, 4])])
    got = [[run for run, _ in batch.step()] for _ in range(7)]
    assert got == [[writer], [], [writer], [], [writer], [reader], [writer, reader]]


def test_an_interrupted_cycle_leaves_nothing_behind():
    runtime = FakeRuntime(VOCAB, 64)
    prefixes = PrefixCache(2)
    engine, batch = Engine(runtime, RandomTrees(VOCAB)), Batch(prefixes)
    [run] = batch.admit(engine, [request([1, 3])])
    batch.step()

    def interrupted(*_):
        raise KeyboardInterrupt

    run.session.extend = interrupted
    with pytest.raises(KeyboardInterrupt):
        batch.step()
    assert not len(batch)
    batch.cancel(run)
    assert not len(prefixes)


def test_an_error_ends_its_own_run_and_is_told():
    runtime = FakeRuntime(VOCAB, 64)

    class Faulty(RandomTrees):
        def open(self):
            session = super().open()
            if len(self.sessions) == 2:
                session.propose = lambda *_: 1 / 0
            return session

    engine = Engine(runtime, Faulty(VOCAB))
    prompt_list = [[1, 3, 0], [1, 3, 1], [VOCAB], [1, 3, 2]]
    ended = {tuple(r.prompt_ids): run for r, run in run_all(engine, [[request(p)] for p in prompt_list], 2)}
    assert isinstance(ended.pop((1, 3, 1)), ZeroDivisionError)
    assert isinstance(ended.pop((VOCAB,)), ConfigError), "it is never admitted"
    for run in ended.values():
        assert run.generated == alone(runtime, run)


def test_impossible_prompts_are_refused_and_take_no_prefix():
    engine, prefixes = Engine(FakeRuntime(VOCAB, 64), Autoregressive()), PrefixCache(2)
    batch = Batch(prefixes)
    batch.admit(engine, [request([1, 3])])
    finish(batch)
    for prompt, error in (([], CapacityError), ([1, 3, VOCAB], ConfigError)):
        with pytest.raises(error):
            batch.admit(engine, [request(prompt)])
    assert len(prefixes) == 1
    assert not len(batch)


def test_the_lock_is_free_between_steps():
    """Another thread that wants the model gets it after a step, not after the whole batch."""
    runtime, lock = FakeRuntime(VOCAB, 64), threading.Lock()
    engine, free = Engine(runtime, Autoregressive()), []
    forward = runtime.forward
    runtime.forward = lambda calls: free.append(lock.locked()) or forward(calls)
    seen = []
    for _ in run_all(engine, [[request([1, at])] for at in range(4)], 2, lock):
        seen.append(lock.locked())
    assert all(free)
    assert not any(seen)


class TestPrefixCache:
    """What it keeps, and for whom."""

    @pytest.fixture
    def engine(self):
        return Engine(FakeRuntime(VOCAB, 64), RandomTrees(VOCAB))

    def run(self, engine, prompt):
        return answer(engine, request(prompt, StoppingConfig(max_new_tokens=4, ignore_eos=True)))[0]

    def test_it_is_bounded_and_drops_the_least_recently_used(self, engine):
        prefixes, runs = PrefixCache(2), [self.run(engine, [at] * 6) for at in (3, 4, 5)]
        for run in runs:
            prefixes.keep(run)
        assert len(prefixes) == 2
        assert prefixes.tokens == 20
        assert prefixes.take(engine, [3] * 7) is None, "dropped"
        assert prefixes.take(engine, [4, 4, 0]).cache.tokens == [4, 4]
        prefixes.keep(runs[0])
        assert prefixes.take(engine, [5] * 7) is None, "used before the other"
        prefixes.shrink(19)
        assert prefixes.tokens == 10

    def test_a_turn_that_goes_on_takes_the_run_and_another_prompt_a_fork(self, engine):
        prefixes, run = PrefixCache(2), self.run(engine, [1, 5, 5, 5])
        prefixes.keep(run)
        other = Engine(engine.runtime, RandomTrees(VOCAB))
        assert prefixes.take(other, [*run.token_ids, 1]) is None, "its sessions are another drafter's"
        assert prefixes.take(engine, [1, 3]) is None, "one common token keeps no row"
        fork = prefixes.take(engine, [1, 5, 5, 3])
        assert fork.cache is not run.cache
        assert fork.session is not run.session
        assert fork.cache.tokens == [1, 5, 5]
        assert prefixes.take(engine, [*run.token_ids, 1]) is run
        assert not len(prefixes)
