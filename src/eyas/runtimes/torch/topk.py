"""The best entries of a row of logits in any precision, ties to the lower id.

In bfloat16 equal logits are common, and torch.topk returns them in an unspecified order.
"""

import numpy as np
import torch
from torch import Tensor

from eyas.engine.tree import Floats, Ints


def best_of_rows(logits: Tensor, k: int) -> tuple[Ints, Floats]:
    """(T, k) columns and values of the k largest entries of each row of (T, V), best first.

    A row with NaN gives NaN values. Requires k <= V.
    """
    edges = logits.topk(k, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    # The k best and all that tie with the last of them, row by row, columns ascending.
    rows, columns = (~(logits < edges)).nonzero(as_tuple=True)
    values = -logits[rows, columns].to(torch.float32).cpu().numpy()
    row_ids, column_ids = rows.cpu().numpy(), columns.cpu().numpy()
    order = np.lexsort((column_ids, values, row_ids))
    starts = np.searchsorted(row_ids, np.arange(len(logits)))
    chosen = order[starts[:, None] + np.arange(k)]
    return column_ids[chosen].astype(np.int64), -values[chosen].astype(np.float64)
