"""Progress of long work on stderr: a bar on a terminal, a line a minute elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

LINE_EVERY = 60.0  # seconds


class Progress(Protocol):
    """A function that is told how far a piece of work is."""

    def __call__(self, label: str, done: int, total: int) -> None:
        """`done` of `total` units of the work called `label`."""
        ...


def silent(label: str, done: int, total: int) -> None:
    """Show nothing."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr if that is a terminal; otherwise a line a minute, and nothing for shorter work."""
    if not sys.stderr.isatty():
        yield progress_lines()
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    bars, tasks = Bars(console=Console(stderr=True), transient=True), {}

    def show(label: str, done: int, total: int) -> None:
        if label not in tasks:
            bars.start()  # not before: libraries have bars of their own
            tasks[label] = bars.add_task(label, total=total)
        bars.update(tasks[label], completed=done, total=total)

    try:
        yield show
    finally:
        bars.stop()


def progress_lines(clock: Callable[[], float] = monotonic) -> Progress:
    """Lines on stderr, the first after a minute and then one a minute: a log shows that the work goes on."""
    began = last = clock()

    def show(label: str, done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if now - last >= LINE_EVERY:
            last = now
            minutes = (now - began) / 60
            sys.stderr.write(f"eyas: {label}: {done} of {total} after {minutes:.0f} min\n")
            sys.stderr.flush()

    return show
