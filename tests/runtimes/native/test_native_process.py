"""Forks, Ctrl-C, memory, and what generation imports."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fake
from eyas.drafters.eagle2 import Eagle2Options
from eyas.drafters.registry import methods
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftFiles, TargetCall
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.runtimes.native import load_native_runtime
from eyas.runtimes.native.blocks import NativeDraftStack, NativeTreeGrower
from eyas.runtimes.native.runtime import NativeRuntime
from tiny import write_head, write_llama

GUARD = 120  # seconds after which a hang is certain


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("process") / "model")


def run(code, *arguments):
    """A fresh interpreter's answer, in JSON."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


FORK = """
import json, os, signal, sys, threading
from pathlib import Path
import numpy as np
from eyas.engine.interfaces import TargetCall
from eyas.runtimes.native import load_native_runtime

runtime = load_native_runtime(Path(sys.argv[1]), dtype="float32", threads=int(sys.argv[2]))
other = load_native_runtime(Path(sys.argv[1]), dtype="float32", threads=int(sys.argv[2]))

def answer(runtime):
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), np.arange(40))])
    return rows.logits(39).tolist()

wanted = answer(runtime)
stop = threading.Event()

def work():
    while not stop.is_set():
        answer(runtime)

worker = threading.Thread(target=work)
worker.start()
results = []
for _ in range(20):
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang ends here
        same = answer(other) == wanted and answer(runtime) == wanted
        os.write(theirs, b"1" if same else b"0")
        os._exit(0)
    os.close(theirs)
    results.append(os.read(ours, 1).decode())
    os.close(ours)
    os.waitpid(child, 0)
stop.set()
worker.join()
results.append("1" if answer(runtime) == wanted else "0")
print(json.dumps(results))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_children_forked_during_a_forward_can_forward(model, threads):
    """With the runtime that was at work, and with one that was not; the parent goes on."""
    assert run(FORK, model, threads) == ["1"] * 21


INTERRUPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from eyas.engine.interfaces import TargetCall
from eyas.runtimes.native import load_native_runtime

runtime = load_native_runtime(Path(sys.argv[1]), dtype="float32", threads=2)

def logits(cache, ids):
    [rows] = runtime.forward([TargetCall(cache, np.array(ids))])
    return rows.logits(len(ids) - 1).tolist()

wanted = logits(runtime.new_cache(), [1, 2, 3, 4])
same = []
for delay in (0.05, 0.06, 0.08, 0.11):
    cache = runtime.new_cache()
    logits(cache, [1, 2, 3])
    cache.commit([0, 1, 2])
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            logits(cache, np.arange(100) % 60)
            cache.commit([])
    except KeyboardInterrupt:
        cache.commit([])
    same.append(cache.length == 3 and logits(cache, [4]) == wanted)
print(json.dumps(same))
"""


CALLERS = """
import json, sys, threading
from pathlib import Path
import numpy as np
from eyas.engine.interfaces import TargetCall
from eyas.runtimes.native import load_native_runtime

runtime = load_native_runtime(Path(sys.argv[1]), dtype="float32", threads=int(sys.argv[2]))

def features(ids):
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), ids)])
    return rows.features

def work(seed):
    generator = np.random.default_rng(seed)
    for _ in range(60):
        ids = generator.integers(0, 60, size=generator.integers(1, 120))
        made.append((ids, features(ids)))
        runtime.lm_head().top_k(made[-1][1], 3)

made = []
callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print(json.dumps([len(made), sum(not np.array_equal(features(ids), found) for ids, found in made)]))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_callers_on_several_threads_wait_for_each_other(model, threads):
    assert run(CALLERS, model, threads) == [240, 0]


BUSY = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from eyas.engine.interfaces import TargetCall
from eyas.runtimes.native import load_native_runtime

alone, many = (load_native_runtime(Path(sys.argv[1]), dtype="float32", threads=n) for n in (1, 8))
loops = []
for _ in range(len(os.sched_getaffinity(0)) + 1):
    loops.append(os.fork())
    if loops[-1] == 0:
        signal.alarm(60)
        while True:
            pass

def features(runtime, ids):
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), ids)])
    return rows.features

generator = np.random.default_rng(0)
same = []
for count in (1, 2, 3, 5, 8, 13, 60, 1, 100, 4):
    ids = generator.integers(0, 60, size=count)
    same.append(np.array_equal(features(alone, ids), features(many, ids)))
for loop in loops:
    os.kill(loop, signal.SIGKILL)
    os.waitpid(loop, 0)
print(json.dumps(same))
"""


def test_more_threads_than_cores_beside_endless_loops_change_nothing(model):
    """Threads lose their cores in the middle of phases, and come back to others."""
    assert run(BUSY, model) == [True] * 10


TOO_MANY_THREADS = """
import json, resource, sys
from pathlib import Path
import numpy as np
from eyas.engine.interfaces import TargetCall
from eyas.runtimes.native import load_native_runtime

runtime = load_native_runtime(Path(sys.argv[1]), dtype="float32", threads=64)
cache, results = runtime.new_cache(), []
room = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (100 << 20)
for limit in (room, resource.RLIM_INFINITY):
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        runtime.forward([TargetCall(cache, np.arange(5))])
    except RuntimeError:
        results.append("refused")
    results.append(cache.num_pending)
print(json.dumps(results))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux")
def test_threads_that_the_system_refuses_are_an_error_and_no_hang(model):
    assert run(TOO_MANY_THREADS, model) == ["refused", 0, 5]


def test_ctrl_c_during_a_forward_leaves_everything_usable(model):
    assert run(INTERRUPT, model) == [True] * 4


STOPPED = {  # what returns when Ctrl-C arrives, and options with which it is called
    "target": (NativeRuntime, "forward", {}),
    "draft": (NativeTreeGrower, "grow", {}),
    "level": (NativeDraftStack, "forward", {"score_precision": "model"}),
}


@pytest.mark.parametrize("where", STOPPED)
def test_an_engine_whose_answer_was_stopped_goes_on(model, monkeypatch, tmp_path, where):
    """Ctrl-C arrives when the forward has returned: its tokens are pending, and no caller got the result."""
    runtime = load_native_runtime(model, dtype="float32", threads=1)
    head = write_head(tmp_path / "head")
    engine = Engine(runtime, methods()["eagle2"].drafter.load(runtime, DraftFiles(head=lambda: head)))
    kind, name, options = STOPPED[where]

    def request(prompt):
        return fake.make_request(
            prompt,
            SamplingConfig(),
            StoppingConfig(max_new_tokens=12, ignore_eos=True),
            vocab_size=64,
            options=Eagle2Options(**options),
        )

    wanted, _ = fake.answer(engine, request([5, 6, 7]))
    stream = engine.stream(request([5, 6, 7]))
    run_, _ = next(stream)
    compute = getattr(kind, name)

    def interrupted(*arguments):
        compute(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    again, _ = fake.answer(engine, request([5, 6, 7]))
    assert again.generated == wanted.generated
    later, _ = fake.answer(engine, request([*run_.token_ids, 9]), earlier=run_)
    fresh, _ = fake.answer(engine, request([*run_.token_ids, 9]))
    assert later.generated == fresh.generated


IMPORTS = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import eyas
import fake
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftFiles
from eyas.drafters.registry import methods
from eyas.runtimes import load_runtime

runtime = load_runtime("auto", Path(sys.argv[2]), name="tiny", threads=1)
answers = []
for method in ("autoregressive", "eagle2"):
    drafter = methods()[method].drafter.load(runtime, DraftFiles(head=lambda: Path(sys.argv[3])))
    for temperature in (0.0, 1.0):
        request = fake.make_request(
            [5, 6, 7], SamplingConfig(temperature=temperature, seed=1),
            StoppingConfig(max_new_tokens=16, ignore_eos=True), vocab_size=64, num_log_probs=2,
            options=methods()[method].options(),
        )
        answers.append(fake.answer(Engine(runtime, drafter), request)[0].generated)
print(json.dumps([runtime.target.runtime, answers, sorted({"torch", "transformers"} & set(sys.modules))]))
"""


def test_generation_imports_no_framework(model, tmp_path):
    head = write_head(tmp_path / "head")
    runtime, answers, found = run(IMPORTS, Path(__file__).parents[2], model, head)
    assert runtime == "native"
    assert found == []
    assert answers[:2] == answers[2:]
    assert len(answers[0]) == 16


LOADS = """
import gc, json, sys
from pathlib import Path
import numpy as np
from eyas.engine.interfaces import TargetCall
from eyas.runtimes.native import load_native_runtime

def resident():
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmRSS"))
    return int(line.split()[1]) * 1024

for count in range(1000):
    runtime = load_native_runtime(Path(sys.argv[1]), dtype=sys.argv[2], threads=1 + count % 2)
    if count % 10 == 0:
        runtime.forward([TargetCall(runtime.new_cache(), np.arange(20))])
    del runtime
    if count == 99:
        gc.collect()
        before = resident()
gc.collect()
print(json.dumps(resident() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc/self/status here")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_thousand_loads_leak_nothing(model, dtype):
    assert run(LOADS, model, dtype) < 5e6


def test_threads_of_a_caller_may_have_another_floating_point_mode(model):
    """Results are those of denormals kept, and the caller's mode is given back."""
    torch = pytest.importorskip("torch")
    runtime = load_native_runtime(model, dtype="float32", threads=2)

    def logits():
        [rows] = runtime.forward([TargetCall(runtime.new_cache(), np.arange(30))])
        return rows.logits(29)

    wanted = logits()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor always keeps denormals")
    try:
        np.testing.assert_array_equal(logits(), wanted)
        assert (np.float32(1e-40) * np.ones(1, dtype="f4"))[0] == 0, "flushed again"
    finally:
        torch.set_flush_denormal(False)
