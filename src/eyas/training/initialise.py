"""A head to start from: a linear map fitted in closed form, with layers that add nothing yet.

The fc is the ridge solution of [embedding; feature] -> next feature, and the layers' output projections are
zero, so the untrained head already predicts with a quarter of the target's choices right. From random
weights that takes hundreds of steps: embeddings are many times smaller than features, so a token would
hardly be seen.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

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
    fit_fc(network, rows)


@torch.no_grad()
def fit_fc(network: HeadNetwork, rows: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Solve (X'X + lambda I) W = X'Y for X = [embedding; feature; 1], each half scaled to unit size."""
    hidden = network.fc.out_features
    gram = torch.zeros((2 * hidden + 1, 2 * hidden + 1), dtype=torch.float64)
    cross = torch.zeros((2 * hidden + 1, hidden), dtype=torch.float64)
    sizes: Tensor | None = None
    count = 0
    for embeddings, features, following in rows:
        inputs = torch.cat((embeddings, features, torch.ones(len(features), 1)), dim=1).to(torch.float32)
        if sizes is None:  # the first block tells the scale of the two halves
            rms = [half.to(torch.float32).square().mean().sqrt() for half in (embeddings, features)]
            sizes = torch.cat((*(r.expand(hidden) for r in rms), torch.ones(1)))
        inputs = inputs / sizes
        gram += (inputs.T @ inputs).double()
        cross += (inputs.T @ following.to(torch.float32)).double()
        count += len(inputs)
    assert sizes is not None, "at least one block of rows"
    penalty = RIDGE * count * torch.eye(len(gram), dtype=torch.float64)
    penalty[-1, -1] = 0  # the constant is free
    solution = torch.linalg.solve(gram + penalty, cross).float() / sizes[:, None]
    network.fc.weight.copy_(solution[:-1].T)
    network.fc.bias.copy_(solution[-1])
