"""Continuous batching on a runtime without a network: same ids, fair turns, errors and limits."""

import threading

import pytest

from eyas.drafters.autoregressive import Autoregressive
from eyas.engine.cycle import Engine
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.errors import CapacityError
from eyas.serve.jobs import DeadlineError, DrainingError, Job, QueueFullError
from eyas.serve.kept import KeptRuns
from eyas.serve.metrics import ServerMetrics
from eyas.serve.scheduler import Scheduler
from eyas.serve.waiting import FairQueue
from fake import FakeRuntime, RandomTrees, answer, make_request

VOCAB = 8
LONG = StoppingConfig(max_new_tokens=40, ignore_eos=True)


class Reader:
    """Collects the updates of one job."""

    def __init__(self, engine, prompt, sampling=None, stopping=LONG, **more):
        self.updates, self.ended, self.on_update = [], threading.Event(), lambda: None
        self.request = make_request(prompt, sampling, stopping, vocab_size=VOCAB, stops=[2])
        self.job = Job(self.request, engine, stopping.max_new_tokens, self.take, **more)

    def take(self, update):
        self.updates.append(update)
        self.on_update()
        if update.is_last:
            self.ended.set()

    def wait(self):
        assert self.ended.wait(30), "the job has ended"
        return self.updates[-1]

    @property
    def token_ids(self):
        return [token.id for update in self.updates for token in update.piece.tokens]


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
    return answer(Engine(runtime, Autoregressive()), request)[0].generated


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
        last = reader.wait()
        assert last.error is None
        assert reader.token_ids == list(last.answer.token_ids) == alone(runtime, reader, *case)
        assert "".join(update.piece.text for update in reader.updates) == last.answer.text


def test_a_cancelled_job_writes_no_further_cycle(engine, serving):
    scheduler = serving()
    reader, other = Reader(engine, [1, 3]), Reader(engine, [1, 4])

    def cancel():
        if len(reader.updates) == 3:
            scheduler.cancel([reader.job])

    reader.on_update = cancel
    scheduler.submit([reader.job])
    scheduler.submit([other.job])
    assert len(other.wait().answer.token_ids) == 40
    assert len(reader.updates) == 3
    assert scheduler._taken == 0


def test_a_waiting_job_can_be_cancelled(engine, serving):
    scheduler = serving(max_concurrent=1)
    first, second, third = (Reader(engine, [1, at]) for at in range(3))
    first.on_update = lambda: scheduler.cancel([second.job])
    scheduler.submit([first.job, second.job, third.job])
    third.wait()
    assert not second.updates


def test_a_full_queue_refuses_whole_requests(engine, serving):
    scheduler = serving(max_concurrent=1, max_queue=2)
    gate = threading.Event()
    first = Reader(engine, [1, 3])
    first.on_update = lambda: gate.wait(30)
    scheduler.submit([first.job])
    others = [Reader(engine, [1, at]) for at in range(4)]
    with pytest.raises(QueueFullError) as refusal:
        scheduler.submit([reader.job for reader in others[:3]])
    assert 1 <= refusal.value.retry_after <= 60
    scheduler.submit([reader.job for reader in others[:2]])
    with pytest.raises(QueueFullError, match="3 answers"):
        scheduler.submit([others[3].job])
    gate.set()
    assert all(reader.wait().answer for reader in [first, *others[:2]])
    scheduler.submit([others[3].job])
    assert others[3].wait().answer


@pytest.mark.parametrize("max_concurrent", [1, 4])
def test_a_deadline_ends_a_job_wherever_it_stands(engine, serving, max_concurrent):
    scheduler = serving(max_concurrent=max_concurrent)
    readers = [Reader(engine, [1, 3], deadline=0.0), Reader(engine, [1, 4], deadline=0.0)]
    other = Reader(engine, [1, 5])
    scheduler.submit([reader.job for reader in [*readers, other]])
    for reader in readers:
        assert isinstance(reader.wait().error, DeadlineError)
    assert other.wait().answer


def test_a_running_job_meets_its_deadline(engine, serving):
    scheduler = serving()
    reader = Reader(engine, [1, 3])
    reader.on_update = lambda: setattr(reader.job, "deadline", 0.0)
    scheduler.submit([reader.job])
    assert isinstance(reader.wait().error, DeadlineError)
    assert len(reader.updates) == 3  # the prompt's token, the cycle of that round, the error


def test_the_cache_budget_is_never_exceeded(engine, serving):
    scheduler = serving(limit_tokens=260)
    peaks = []
    readers = [Reader(engine, [1, 3, at % 8]) for at in range(6)]
    for reader in readers:
        # 3 of prompt, 40 of answer, 60 of tree: two fit, three do not
        assert reader.job.tokens == 103
        reader.on_update = lambda: peaks.append(
            sum(job.tokens for job in scheduler._writing)
            + sum(job.tokens for job, _ in scheduler._reading)
            + scheduler._kept.tokens
        )
    scheduler.submit([reader.job for reader in readers])
    for reader in readers:
        assert reader.wait().answer
    assert 206 <= max(peaks) <= 260


def test_what_could_never_fit_is_refused(engine, serving):
    scheduler = serving(limit_tokens=102)
    with pytest.raises(CapacityError, match="103 tokens"):
        scheduler.submit([Reader(engine, [1, 3, 4]).job])


def test_clients_take_turns(engine, serving):
    scheduler = serving(max_concurrent=1)
    order = []
    readers = [Reader(engine, [1, at % 8], client="many") for at in range(6)]
    readers.append(Reader(engine, [1, 7], client="one"))
    for at, reader in enumerate(readers):
        reader.on_update = lambda at=at: order.append(at)
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
    assert isinstance(readers[1].wait().error, ZeroDivisionError)
    for reader in (readers[0], readers[2]):
        assert list(reader.wait().answer.token_ids) == alone(runtime, reader, reader.request.prompt_ids)


def test_an_impossible_prompt_ends_with_its_error(engine, serving):
    reader = Reader(engine, [VOCAB])
    serving().submit([reader.job])
    assert isinstance(reader.wait().error, CapacityError)


def test_a_bug_of_the_scheduler_does_not_end_it(engine, serving, monkeypatch, caplog):
    scheduler = serving()
    monkeypatch.setattr(scheduler, "_write", lambda: 1 / 0)
    reader = Reader(engine, [1, 3])
    scheduler.submit([reader.job])
    assert isinstance(reader.wait().error, ZeroDivisionError)
    assert "a round of the scheduler failed" in caplog.text
    monkeypatch.undo()
    again = Reader(engine, [1, 3])
    scheduler.submit([again.job])
    assert again.wait().answer


def test_closing_ends_everything_with_an_error(engine, serving):
    scheduler = serving(max_concurrent=1)
    gate = threading.Event()
    readers = [Reader(engine, [1, at]) for at in range(3)]
    readers[0].on_update = gate.set
    scheduler.submit([reader.job for reader in readers])
    assert gate.wait(30)
    scheduler.close()
    assert not scheduler.is_alive
    assert all(reader.wait().is_last for reader in readers)
    assert isinstance(readers[2].updates[-1].error, DrainingError)
    with pytest.raises(DrainingError):
        scheduler.submit([Reader(engine, [1, 3]).job])


def test_a_later_turn_reuses_caches_and_writes_the_same(runtime, engine, serving):
    scheduler = serving()
    first = Reader(engine, [1, 3, 4], stopping=StoppingConfig(max_new_tokens=20, ignore_eos=True))
    scheduler.submit([first.job])
    prompt = [1, 3, 4, *first.wait().answer.token_ids, 5, 6]
    second = Reader(engine, prompt, SamplingConfig(temperature=1.0, seed=3))
    scheduler.submit([second.job])
    last = second.wait()
    assert last.num_reused == len(prompt) - 3  # all but the newest token of the first turn, and its pair
    assert list(last.answer.token_ids) == alone(
        runtime, second, prompt, SamplingConfig(temperature=1.0, seed=3)
    )


def test_calls_run_on_the_engines_thread(engine, serving):
    scheduler = serving()
    assert scheduler.call(threading.current_thread).result(30).name == "eyas-engine"
    with pytest.raises(ZeroDivisionError):
        scheduler.call(lambda: 1 / 0).result(30)


def test_kept_runs_are_bounded_and_chosen_by_prefix(runtime):
    engine, other = (Engine(runtime, Autoregressive()) for _ in range(2))
    short = StoppingConfig(max_new_tokens=4, ignore_eos=True)

    def run(prompt):
        return answer(engine, make_request(prompt, stopping=short, vocab_size=VOCAB))[0]

    kept, runs = KeptRuns(2), [run([1, at, at, at, at, at]) for at in (3, 4, 5)]
    for finished in runs:
        kept.keep(engine, finished)
    assert len(kept) == 2
    assert kept.take(engine, [1, 3, 3, 3, 3, 3, 3]) is None, "dropped: the least recently used"
    assert kept.take(other, [*runs[2].token_ids, 1]) is None, "another engine's"
    assert kept.take(engine, [1, 5, 0]) is None, "too little in common"
    assert kept.take(engine, [*runs[2].token_ids, 1]) is runs[2]
    assert kept.take(engine, [*runs[2].token_ids, 1]) is None, "taken"
    assert kept.tokens == 10
    kept.shrink(9)
    assert not len(kept)


def test_a_fair_queue_keeps_each_clients_order():
    queue = FairQueue()
    for client, job in [("a", 1), ("a", 2), ("b", 3), ("a", 4), ("c", 5), ("b", 6)]:
        queue.push(client, job)
    assert queue.remove(lambda job: job == 4) == [4]
    assert queue.first() == 1
    assert [queue.pop() for _ in range(len(queue))] == [1, 3, 5, 2, 6]
    assert queue.first() is None
