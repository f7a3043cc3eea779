"""Counts of one cycle: confidences of nodes whose parent was accepted, and positions by rank."""

import numpy as np

from eyas.bench.cycles import CycleCounts, positions
from eyas.engine.tree import DraftTree
from eyas.engine.verification import Cycle

#        0
#      /   \
#     2     1        confidences 0.6, 0.3: node 2 is the first in rank
#    / \
#   3   4            0.5, 0.5: ties to the earlier node
TREE = DraftTree(
    token_ids=np.array([9, 1, 2, 3, 4]),
    parents=np.array([-1, 0, 0, 2, 2]),
    log_values=np.log([1.0, 0.3, 0.6, 0.3, 0.3]),
)


def test_positions_are_ranks_among_siblings():
    assert positions(TREE) == {2: "1", 1: "2", 3: "1.1", 4: "1.2"}


def test_only_near_positions_are_counted():
    chain = DraftTree(np.arange(6), np.arange(-1, 5), np.zeros(6))
    assert list(positions(chain).values()) == ["1", "1.1", "1.1.1"]
    wide = DraftTree(np.arange(6), np.array([-1, 0, 0, 0, 0, 4]), np.array([0.0, -1, -2, -3, -4, -5]))
    assert positions(wide) == {1: "1", 2: "2", 3: "3"}


def test_a_cycle_is_counted():
    counts = CycleCounts()
    counts.see(Cycle(TREE, [0, 2, 4], [2, 4, 7]))
    found = counts.to_dict()
    assert found["positions"] == {"1": [1, 1, 1], "1.1": [1, 1, 0], "1.2": [1, 1, 1], "2": [1, 1, 0]}
    bins = {at: row for at, row in enumerate(found["calibration"]) if row[0]}
    assert set(bins) <= {5, 6, 9, 10, 11, 12}  # 0.3, 0.5 and 0.6, each within rounding of a bin's edge
    assert [sum(row[at] for row in bins.values()) for at in (0, 1)] == [4, 2]
    counts.see(Cycle(TREE, [0], [8]))
    assert counts.to_dict()["positions"]["1.1"] == [2, 1, 0]
    assert sum(row[0] for row in counts.to_dict()["calibration"]) == 6
