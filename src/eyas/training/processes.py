"""Several processes that train one head, each on a part of every batch (data parallel).

A launcher (`torchrun`, `accelerate launch`) starts them and says so in the environment. All hold the same
weights: gradients are averaged before each step. The losses of a batch are means over its tokens by weight,
so each process divides by the weights of the whole batch; then the steps are those of one process with the
whole batch.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyas.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process among those of a run; `Processes()` is alone.

    Attributes:
        rank: from 0; the first one writes files and measures.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and measures."""
        return self.rank == 0

    def part(self, batch: Sequence[int]) -> list[int]:
        """This process's part of a batch; empty where there are fewer samples than processes."""
        return list(batch[self.rank :: self.count])

    def total(self, weights: Tensor) -> Tensor:
        """What to divide a sum over this process's tokens by, so that the processes' mean is the batch's."""
        return self._mean(weights.sum())

    def means(self, values: Sequence[float]) -> list[float]:
        """Means of numbers over all processes."""
        means: list[float] = self._mean(torch.tensor(values, dtype=torch.float64)).tolist()
        return means

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over all processes; parameters without one stay so if all are."""
        if self.count == 1:
            return
        known = list(parameters)
        has_any = any(parameter.grad is not None for parameter in known)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in known]
        flat = torch.cat([*(part.ravel() for part in parts), parts[0].new_tensor([float(has_any)])])
        *means, share = torch.split(self._mean(flat), [*(part.numel() for part in parts), 1])
        for parameter, mean in zip(known, means, strict=True):
            parameter.grad = mean.view_as(parameter) if share > 0 else None

    def share_weights(self, network: nn.Module) -> None:
        """Give all processes the weights of the first one."""
        if self.count > 1:
            from accelerate.utils import broadcast

            broadcast(list(network.state_dict().values()))

    def _mean(self, tensor: Tensor) -> Tensor:
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        mean: Tensor = reduce(tensor.detach(), reduction="mean")
        return mean


ALONE = Processes()


def find_processes(device: str = "cpu") -> Processes:
    """The processes of this run, as a launcher has started them; they meet here.

    Raises:
        ConfigError: there are several, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ConfigError(
            "several processes need the package accelerate; install it with `pip install accelerate`."
        ) from error
    state = PartialState(cpu=device == "cpu")
    return Processes(state.process_index, state.num_processes)
