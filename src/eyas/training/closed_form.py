"""A linear map fitted in closed form, to start a head from.

The ridge solution from what a head reads to the feature that it predicts already names a quarter of the
target's tokens. From random weights that takes hundreds of steps: embeddings are many times smaller than
features, so a token would hardly be seen.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from eyas.errors import DataError

RIDGE = 0.003  # of the number of rows, in units of the inputs' own variance


@torch.no_grad()
def fit_linear(linear: nn.Linear, rows: Iterable[tuple[Sequence[Tensor], Tensor]]) -> None:
    """Solve (X'X + lambda I) W = X'Y for X = [part; part; ..; 1], each part scaled to unit size.

    Args:
        linear: its weight and bias are set.
        rows: (parts (T, H_i) each, outputs Y (T, H)) in blocks; one pass.
    """
    inputs = linear.in_features
    gram = torch.zeros((inputs + 1, inputs + 1), dtype=torch.float64)
    cross = torch.zeros((inputs + 1, linear.out_features), dtype=torch.float64)
    sizes: Tensor | None = None
    count = 0
    for parts, following in rows:
        x = torch.cat((*parts, torch.ones(len(following), 1)), dim=1).to(torch.float32)
        if sizes is None:  # the first block tells the scale of the parts
            rms = [part.to(torch.float32).square().mean().sqrt().expand(part.shape[1]) for part in parts]
            sizes = torch.cat((*rms, torch.ones(1)))
        x = x / sizes
        gram += (x.T @ x).double()
        cross += (x.T @ following.to(torch.float32)).double()
        count += len(x)
    if sizes is None:
        raise DataError(
            "no answer is long enough for a start in closed form; raise --max-length, distil longer answers, "
            "or start from random weights."
        )
    penalty = RIDGE * count * torch.eye(len(gram), dtype=torch.float64)
    penalty[-1, -1] = 0  # the constant is free
    solution = torch.linalg.solve(gram + penalty, cross).float() / sizes[:, None]
    linear.weight.copy_(solution[:-1].T)
    linear.bias.copy_(solution[-1])
