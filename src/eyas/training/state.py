"""What a training run needs to go on: weights, optimiser, step. Written whole or not at all."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eyas.errors import CheckpointError, DataError
from eyas.training.data import why_unwritten

if TYPE_CHECKING:
    from eyas.training.trainer import Trainer

FILE = "state.pt"


@dataclass
class TrainingState:
    """How far a run is, and what it saw on the way."""

    step: int = 0
    seconds: float = 0.0
    history: list[list[float]] = field(default_factory=list)  # per step: loss, then agreement by step
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # step, acceptance lengths

    def record(self, losses: list[float]) -> None:
        """Remember one step."""
        self.history.append([round(value, 5) for value in losses])

    def last_line(self, count: int = 100) -> str:
        """Means of the last `count` steps, for a log."""
        rows = self.history[-count:]
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        numbers = " ".join(f"{value:.4f}" for value in means)
        return f"step {self.step}, {self.seconds:.0f} s, loss and agreement: {numbers}"


def save_state(folder: Path, trainer: "Trainer[Any, Any]") -> None:
    """Write the run's state into `folder`.

    Raises:
        DataError: it cannot be written.
    """
    temporary = folder / f".{FILE}.tmp"
    whole = {
        "config": asdict(trainer.config),
        "state": asdict(trainer.state),
        "network": trainer.network.state_dict(),
        "average": trainer.average,
        "optimizer": trainer.optimizer.state_dict(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(whole, temporary)
        temporary.replace(folder / FILE)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"{folder / FILE} cannot be written ({why_unwritten(error)}); free some space and run the same "
            "command again: it goes on from the state saved before."
        ) from error


@contextmanager
def whole_step() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, so that no half-made update is ever saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if waiting:
        raise KeyboardInterrupt


def load_state(folder: Path, trainer: "Trainer[Any, Any]") -> bool:
    """Go on from what `folder` holds; False if it holds nothing.

    Raises:
        CheckpointError: the file is broken, or belongs to another recipe.
    """
    path = folder / FILE
    if not path.is_file():
        return False
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location=trainer.device)
    except Exception as error:  # unpickling raises nearly anything
        raise CheckpointError(f"{path} cannot be read ({error}); remove it to start again.") from error
    now = asdict(trainer.config)
    changed = sorted(name for name in now if saved["config"].get(name) != now[name])
    if changed:
        name = changed[0]
        raise CheckpointError(
            f"{path} was made with {name}={saved['config'].get(name)}, not {now[name]}; use "
            "another --out, or the same recipe."
        )
    trainer.network.load_state_dict(saved["network"])
    trainer.optimizer.load_state_dict(saved["optimizer"])
    trainer.average = saved["average"]
    trainer.state = TrainingState(**saved["state"])
    return True
