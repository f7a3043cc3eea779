"""A head to start from: a linear map fitted in closed form, with layers that add nothing yet.

The fc is the ridge solution of [embedding; feature] -> next feature, and the layers' output projections are
zero, so the untrained head already predicts with a quarter of the target's choices right. From random
weights that takes hundreds of steps: embeddings are many times smaller than features, so a token would
hardly be seen. The heads of Medusa and Hydra begin likewise, each with its own map.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from eyas.errors import DataError
from eyas.training.network import HeadNetwork

RIDGE = 0.003  # of the number of rows, in units of the inputs' own variance


def initialise(network: HeadNetwork, rows: Iterable[tuple[Tensor, Tensor, Tensor]], seed: int) -> None:
    """Set all weights.

    Args:
        network: changed in place.
        rows: (embeddings (T, H), features (T, H), next features (T, H)) for the ridge fit; one pass.
        seed: of the random projections.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")) or name.endswith(".bias"):
            nn.init.zeros_(weight)
        elif weight.dim() > 1:
            nn.init.normal_(weight, std=0.02, generator=generator)
    fit_linear(network.fc, (([embeddings, features], following) for embeddings, features, following in rows))


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
