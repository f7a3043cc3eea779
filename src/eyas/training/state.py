"""What a training run needs to go on: weights, optimiser, step. Written whole or not at all."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eyas.errors import CheckpointError

if TYPE_CHECKING:
    from eyas.training.head import HeadTrainer

FILE = "state.pt"


@dataclass
class TrainingState:
    """How far a run is, and what it saw on the way."""

    step: int = 0
    seconds: float = 0.0
    history: list[list[float]] = field(default_factory=list)  # per step: loss, then agreement by step

    def record(self, losses: list[float]) -> None:
        """Remember one step."""
        self.history.append([round(value, 5) for value in losses])

    def last_line(self, num_steps: int, count: int = 100) -> str:
        """Means of the last `count` steps, for a log."""
        rows = self.history[-count:]
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        numbers = " ".join(f"{value:.4f}" for value in means)
        return f"step {self.step}/{num_steps}, {self.seconds:.0f} s, loss and agreement: {numbers}"


def save_state(folder: Path, trainer: "HeadTrainer") -> None:
    """Write the run's state into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{FILE}.tmp"
    torch.save(
        {
            "config": asdict(trainer.config),
            "state": asdict(trainer.state),
            "network": trainer.network.state_dict(),
            "average": trainer.average,
            "optimizer": trainer.optimizer.state_dict(),
        },
        temporary,
    )
    temporary.replace(folder / FILE)


def load_state(folder: Path, trainer: "HeadTrainer") -> bool:
    """Go on from what `folder` holds; False if it holds nothing.

    Raises:
        CheckpointError: the file is broken, or belongs to another recipe.
    """
    path = folder / FILE
    if not path.is_file():
        return False
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
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
