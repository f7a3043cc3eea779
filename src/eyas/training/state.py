"""What a training run needs to continue: weights, optimiser, step. Written whole or not at all."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eyas.errors import CheckpointError, DataError
from eyas.training.data import why_unwritten

FILE = "state.pt"


class Resumable(Protocol):
    """What of a training run is saved."""

    config: Any  # a dataclass
    inputs: dict[str, str]
    device: torch.device
    average: dict[str, Tensor]
    state: "TrainingState"

    @property
    def network(self) -> nn.Module:
        """The last weights."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """With its moments."""
        ...


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
        # A batch of short answers has none at the deepest levels.
        means = [sum(column) / len(rows) for column in zip(*rows, strict=False)]
        numbers = " ".join(f"{value:.4f}" for value in means)
        return f"step {self.step}, {self.seconds:.0f} s, loss and agreement: {numbers}"


def save_state(folder: Path, trainer: Resumable) -> None:
    """Write the run's state into `folder`.

    Raises:
        DataError: it cannot be written.
    """
    temporary = folder / f".{FILE}.tmp"
    whole = {
        "config": asdict(trainer.config),
        "inputs": trainer.inputs,
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
        with suppress(OSError):
            temporary.unlink()
        raise DataError(
            f"{folder / FILE} cannot be written ({why_unwritten(error)}); free some space and run the same "
            "command again: it continues from the state saved before."
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


def load_state(folder: Path, trainer: Resumable) -> bool:
    """Continue from the state in `folder`; False if there is none.

    Raises:
        CheckpointError: the file is broken, or belongs to a run of another recipe or of other inputs.
    """
    path = folder / FILE
    if not path.exists():
        return False
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location=trainer.device)
        config, inputs = dict(saved["config"]), dict(saved["inputs"])
    except Exception as error:  # unpickling raises nearly anything
        raise _unusable(path, error) from error
    _check_same(path, inputs, trainer.inputs)
    _check_same(path, config, asdict(trainer.config))
    try:
        state = TrainingState(**saved["state"])
        trainer.network.load_state_dict(saved["network"])
        trainer.optimizer.load_state_dict(saved["optimizer"])
        trainer.average = {name: saved["average"][name] for name in trainer.average}
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _unusable(path, error) from error
    trainer.state = state
    return True


def _check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue with other inputs or another recipe."""
    for name, value in now.items():
        if before.get(name) != value:
            raise CheckpointError(
                f"{path} was made with {name}={before.get(name)}, not {value}; use another --work, or the "
                f"same {name}."
            )


def _unusable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a state from which this version can continue ({type(error).__name__}: "
        f"{why_unwritten(error)}); use another --work, or remove the file to start again."
    )
