"""Continuous batching on a runtime without a network: same ids, fair turns, errors and limits."""

import threading
from dataclasses import replace

import pytest

from eyas.drafters.autoregressive import Autoregressive, AutoregressiveOptions
from eyas.drafters.pld import PldOptions
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftOptions
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.errors import CapacityError, ConfigError
from eyas.serve.metrics import ServerMetrics
from eyas.serve.queue import DeadlineError, DrainingError, FairQueue, Job, QueueFullError
from eyas.serve.scheduler import Scheduler
from fake import FakeRuntime, RandomTrees, answer, make_request

VOCAB = 8
LONG = StoppingConfig(max_new_tokens=40, ignore_eos=True)


class Reader:
    """Collects the pieces of one job, and the error that ends it."""

    def __init__(self, engine, prompt, sampling=None, stopping=LONG, **more):
        self.pieces, self.error, self.ended, self.on_piece = [], None, threading.Event(), lambda: None
        self.request = make_request(prompt, sampling, stopping, vocab_size=VOCAB, stops=[2])
        self.job = Job(self.request, engine, stopping.max_new_tokens, self.take, **more)

    def take(self, outcome):
        if isinstance(outcome, Exception):
            self.error = outcome
        else:
            self.pieces.append(outcome)
        self.on_piece()
        if self.error or outcome.finish_reason:
            self.ended.set()

    def wait(self):
        """Whether the answer is whole."""
        assert self.ended.wait(30), "the job has ended"
        return self.error is None

    @property
    def token_ids(self):
        return [token.id for piece in self.pieces for token in piece.tokens]


@pytest.fixture
def runtime():
    return FakeRuntime(VOCAB, context_limit=96)


@pytest.fixture
def engine(runtime):
    return Engine(runtime, RandomTrees(VOCAB, size=6))


@pytest.fixture
def serving():
    """Start schedulers; they are closed after the test."""
    started = []

    def start(**limits):
        settings = {"max_concurrent": 4, "max_queue": 100, "limit_tokens": 2000, "keep": 2} | limits
        started.append(Scheduler(ServerMetrics("fake"), **settings))
        started[-1].start()
        return started[-1]

    yield start
    for scheduler in started:
        scheduler.close()


def alone(runtime, reader, prompt, sampling=None, stopping=LONG):
    request = make_request(prompt, sampling, stopping, vocab_size=VOCAB, stops=[2])
    return answer(Engine(runtime, Autoregressive()), request)[0]


def test_idle_moments_are_told_and_survive_errors(serving, monkeypatch):
    monkeypatch.setattr("eyas.serve.scheduler.IDLE_SECONDS", 0.01)
    calls = threading.Semaphore(0)

    def on_idle():
        calls.release()
        raise RuntimeError("a bug")

    scheduler = serving(on_idle=on_idle)
    assert calls.acquire(timeout=30)
    assert calls.acquire(timeout=30)
    assert scheduler.call(lambda: 7).result(30) == 7


def test_every_answer_is_that_of_the_request_alone(runtime, engine, serving):
    scheduler = serving()
    plain = Engine(runtime, Autoregressive())
    cases = [
        (
            [1, 3, at % VOCAB, 5],
            SamplingConfig(temperature=at % 3 / 2, seed=at),
            StoppingConfig(max_new_tokens=1 + 3 * at % 31),
        )
        for at in range(24)
    ]
    readers = [Reader(plain if at % 5 == 0 else engine, *case) for at, case in enumerate(cases)]
    for reader in readers:
        scheduler.submit([reader.job])
    for reader, case in zip(readers, cases, strict=True):
        assert reader.wait()
        whole = alone(runtime, reader, *case)
        assert reader.token_ids == whole.generated
        assert "".join(map(str, reader.pieces)) == whole.text


def test_a_cancelled_job_writes_no_further_cycle(engine, serving):
    scheduler = serving()
    reader, other = Reader(engine, [1, 3]), Reader(engine, [1, 4])

    def cancel():
        if len(reader.pieces) == 3:
            scheduler.cancel([reader.job])

    reader.on_piece = cancel
    scheduler.submit([reader.job])
    scheduler.submit([other.job])
    assert other.wait()
    assert len(other.token_ids) == 40
    assert len(reader.pieces) == 3
    assert scheduler._taken == 0


def test_a_waiting_job_can_be_cancelled(engine, serving):
    scheduler = serving(max_concurrent=1)
    first, second, third = (Reader(engine, [1, at]) for at in range(3))
    first.on_piece = lambda: scheduler.cancel([second.job])
    scheduler.submit([first.job, second.job, third.job])
    third.wait()
    assert not second.pieces


def test_a_full_queue_refuses_whole_requests(engine, serving):
    scheduler = serving(max_concurrent=1, max_queue=2)
    gate = threading.Event()
    first = Reader(engine, [1, 3])
    first.on_piece = lambda: gate.wait(30)
    scheduler.submit([first.job])
    others = [Reader(engine, [1, at]) for at in range(4)]
    with pytest.raises(QueueFullError) as refusal:
        scheduler.submit([reader.job for reader in others[:3]])
    assert 1 <= refusal.value.retry_after <= 60
    scheduler.submit([reader.job for reader in others[:2]])
    with pytest.raises(QueueFullError, match="3 answers"):
        scheduler.submit([others[3].job])
    gate.set()
    assert all(reader.wait() for reader in [first, *others[:2]])
    scheduler.submit([others[3].job])
    assert others[3].wait()


@pytest.mark.parametrize("max_concurrent", [1, 4])
def test_a_deadline_ends_a_job_wherever_it_stands(engine, serving, max_concurrent):
    scheduler = serving(max_concurrent=max_concurrent)
    readers = [Reader(engine, [1, 3], deadline=0.0), Reader(engine, [1, 4], deadline=0.0)]
    other = Reader(engine, [1, 5])
    scheduler.submit([reader.job for reader in [*readers, other]])
    for reader in readers:
        assert not reader.wait()
        assert isinstance(reader.error, DeadlineError)
    assert other.wait()


def test_a_running_job_meets_its_deadline(engine, serving):
    scheduler = serving()
    reader = Reader(engine, [1, 3])
    reader.on_piece = lambda: setattr(reader.job, "deadline", 0.0)
    scheduler.submit([reader.job])
    assert not reader.wait()
    assert isinstance(reader.error, DeadlineError)
    assert len(reader.pieces) == 1, "the prompt's token: it was overdue before the first cycle"


def test_the_cache_budget_is_never_exceeded(engine, serving):
    scheduler = serving(limit_tokens=260)
    peaks = []
    readers = [Reader(engine, [1, 3, at % 8]) for at in range(6)]
    for reader in readers:
        # 3 of prompt, 40 of answer, 64 of tree: two fit, three do not
        assert reader.job.tokens == 107
        reader.on_piece = lambda: peaks.append(
            sum(job.tokens for job in scheduler._jobs.values()) + scheduler._prefixes.tokens
        )
    scheduler.submit([reader.job for reader in readers])
    for reader in readers:
        assert reader.wait()
    assert 214 <= max(peaks) <= 260


def test_the_cache_budget_counts_what_a_method_drafts(engine):
    """What a method says, or as many as a cost-aware tree may have."""
    reader = Reader(engine, [1, 3, 4])
    for options, tree in ((PldOptions(pld_tokens=7), 7), (AutoregressiveOptions(), 0), (DraftOptions(), 63)):
        reader.job.request = replace(reader.request, options=options)
        assert reader.job.tokens == 3 + 40 + 1 + tree


def test_what_could_never_fit_is_refused(engine, serving):
    scheduler = serving(limit_tokens=106)
    with pytest.raises(CapacityError, match="107 tokens"):
        scheduler.submit([Reader(engine, [1, 3, 4]).job])


def test_clients_take_turns(engine, serving):
    scheduler = serving(max_concurrent=1)
    order = []
    readers = [Reader(engine, [1, at % 8], client="many") for at in range(6)]
    readers.append(Reader(engine, [1, 7], client="one"))
    for at, reader in enumerate(readers):
        reader.on_piece = lambda at=at: order.append(at)
    scheduler.submit([reader.job for reader in readers])
    for reader in readers:
        reader.wait()
    assert list(dict.fromkeys(order)) == [0, 6, 1, 2, 3, 4, 5]


def test_an_error_ends_its_own_job_only(runtime, serving):
    class Faulty(RandomTrees):
        def open(self):
            session = super().open()
            if len(self.sessions) == 2:
                session.propose = lambda *_: 1 / 0
            return session

    scheduler = serving()
    faulty = Engine(runtime, Faulty(VOCAB))
    readers = [Reader(faulty, [1, 3, at]) for at in range(3)]
    scheduler.submit([reader.job for reader in readers])
    assert not readers[1].wait()
    assert isinstance(readers[1].error, ZeroDivisionError)
    for reader in (readers[0], readers[2]):
        assert reader.wait()
        assert reader.token_ids == alone(runtime, reader, reader.request.prompt_ids).generated


def test_an_impossible_prompt_ends_with_its_error(engine, serving):
    reader = Reader(engine, [VOCAB])
    serving().submit([reader.job])
    assert not reader.wait()
    assert isinstance(reader.error, ConfigError)


def test_a_bug_of_the_scheduler_does_not_end_it(engine, serving, monkeypatch, caplog):
    scheduler = serving()
    monkeypatch.setattr(scheduler, "_step", lambda: 1 / 0)
    reader = Reader(engine, [1, 3])
    scheduler.submit([reader.job])
    assert not reader.wait()
    assert isinstance(reader.error, ZeroDivisionError)
    assert "a round of the scheduler failed" in caplog.text
    monkeypatch.undo()
    again = Reader(engine, [1, 3])
    scheduler.submit([again.job])
    assert again.wait()


def test_closing_ends_everything_with_an_error(engine, serving):
    scheduler = serving(max_concurrent=1)
    began, may_go_on = threading.Event(), threading.Event()
    readers = [Reader(engine, [1, at]) for at in range(3)]
    readers[0].on_piece = lambda: (
        began.set() or may_go_on.wait(30)
    )  # no answer ends before the scheduler does
    scheduler.submit([reader.job for reader in readers])
    assert began.wait(30)
    scheduler.cut_off()
    may_go_on.set()
    scheduler.close()
    assert not scheduler.is_alive
    assert not any(reader.wait() for reader in readers)
    assert isinstance(readers[2].error, DrainingError)
    with pytest.raises(DrainingError):
        scheduler.submit([Reader(engine, [1, 3]).job])


def test_a_later_turn_reuses_caches_and_writes_the_same(runtime, engine, serving):
    scheduler = serving()
    first = Reader(engine, [1, 3, 4], stopping=StoppingConfig(max_new_tokens=20, ignore_eos=True))
    scheduler.submit([first.job])
    assert first.wait()
    prompt = [1, 3, 4, *first.token_ids, 5, 6]
    second = Reader(engine, prompt, SamplingConfig(temperature=1.0, seed=3))
    scheduler.submit([second.job])
    assert second.wait()
    assert (
        second.pieces[0].num_reused == len(prompt) - 3
    )  # all but the first turn's newest token, and its pair
    assert (
        second.token_ids == alone(runtime, second, prompt, SamplingConfig(temperature=1.0, seed=3)).generated
    )


def test_calls_run_on_the_engines_thread(engine, serving):
    scheduler = serving()
    assert scheduler.call(threading.current_thread).result(30).name == "eyas-engine"
    with pytest.raises(ZeroDivisionError):
        scheduler.call(lambda: 1 / 0).result(30)


def test_answers_to_one_prompt_share_its_prefill(runtime, engine, serving):
    """And leave a place to every other client that waits."""
    scheduler = serving(max_concurrent=3)
    gate, reached = threading.Event(), threading.Event()
    scheduler.call(lambda: reached.set() or gate.wait(30))
    assert reached.wait(30)
    prompt = [1, 3, 4]
    readers = [
        Reader(engine, prompt, SamplingConfig(temperature=1.0, seed=at), client="many") for at in range(4)
    ]
    other = Reader(engine, [1, 7], client="one")
    for reader in readers:
        reader.request = reader.job.request = replace(reader.request, prompt_ids=prompt)
    order = []
    for at, reader in enumerate([*readers, other]):
        reader.on_piece = lambda at=at: order.append(at)
    scheduler.submit([reader.job for reader in readers])
    scheduler.submit([other.job])
    read, forward = [], runtime.forward

    def watching(calls):
        read.extend(call.token_ids.tolist() for call in calls if call.last_only)
        return forward(calls)

    runtime.forward = watching
    gate.set()
    assert all(reader.wait() for reader in [*readers, other])
    assert list(dict.fromkeys(order))[:3] == [0, 1, 4], "two of four, and the other client's"
    assert read.count(prompt) == 1, "the later ones found it in the prefix cache"
    for seed, reader in enumerate(readers):
        assert (
            reader.token_ids
            == alone(runtime, reader, prompt, SamplingConfig(temperature=1.0, seed=seed)).generated
        )


def test_a_fair_queue_keeps_each_clients_order(engine):
    def job(client, prompt):
        return Reader(engine, prompt, client=client).job

    shared = [1, 3]
    jobs = [job("a", [1]), job("a", [2]), job("b", [3]), job("a", [4]), job("c", [5]), job("b", [6])]
    queue = FairQueue()
    for each in jobs:
        queue.push(each)
    assert queue.num_others("a") == 2
    assert queue.remove(lambda each: each is jobs[3]) == [jobs[3]]
    assert queue.first() is jobs[0]
    assert [jobs.index(queue.pop()) for _ in range(len(queue))] == [0, 2, 4, 1, 5]
    assert queue.first() is None
    siblings = [job("a", shared) for _ in range(3)]
    for each in siblings:
        each.request = replace(each.request, prompt_ids=shared)
        queue.push(each)
    queue.push(jobs[0])
    first = queue.pop()
    assert queue.pop_siblings(first, lambda each: each is not siblings[2]) == [siblings[1]]
    assert queue.pop_siblings(first, lambda each: True) == [siblings[2]], "the last has another prompt"
    assert queue.pop() is jobs[0]
    assert not len(queue)
