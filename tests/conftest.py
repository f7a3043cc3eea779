"""Shared set-up: hypothesis profiles, one thread, a cache folder of its own for every test."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # tests/reference.py and tests/tiny.py

# The hub's cache of this machine is neither seen nor changed; the hub's package reads its place at import.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="eyas-hub-")

# As `eyas.training` asks, but before any other test has used the library.
os.environ["MKL_CBWR"] = "AUTO,STRICT"

# A runner that was started in the background ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray and a minute of its own: `make test-ray`.
collect_ignore = [] if os.environ.get("EYAS_TEST_RAY") else ["serve/ray"]

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test sees or changes the user's cache."""
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path_factory.mktemp("cache")))


def pytest_configure():
    """One thread: tiny products gain nothing from more, and tests may run beside other work."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


def pytest_report_header():
    try:
        import torch
    except ImportError:
        return "torch: absent"
    return f"torch: {torch.__version__}, {torch.get_num_threads()} thread"
