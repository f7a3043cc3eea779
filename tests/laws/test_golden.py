"""Behaviour that must not change by accident: tests/golden/*.json, made from tests/reference."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from eyas.drafters.eagle2 import Eagle2Options, grow_tree
from eyas.engine.sampling import gumbel
from eyas.engine.tree import DraftTree
from eyas.engine.verification import accept_same_ids
from fake import Says

GOLDEN = Path(__file__).parents[1] / "golden"


def cases(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def path_of(words):
    return tuple(map(int, words.split()))


def test_the_files_are_what_their_script_makes():
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    for name, text in make.documents().items():
        assert (GOLDEN / name).read_text() == text, (
            f"{name}: run tests/golden/make.py, and say why it changed"
        )


@pytest.mark.parametrize("case", cases("expansion"), ids=lambda case: f"top-{case['top_k']}")
def test_expansion(case):
    below = {path_of(words): rows for words, rows in case["confidences"].items()}
    paths = [[()]]

    def draft(frontier, _k):
        if frontier is not None:
            rows = zip(frontier.parent_rows, frontier.token_ids, strict=True)
            paths.append([(*paths[-1][row], token) for row, token in rows])
        children = np.array([below[path][: case["top_k"]] for path in paths[-1]])
        return children[:, :, 0].astype(np.int64), np.log(children[:, :, 1])

    sizes = {"draft_tokens": case["draft_tokens"], "depth": case["depth"], "tree_top_k": case["top_k"]}
    tree = grow_tree(9, Eagle2Options(**sizes), draft, max_depth=99)
    kept = [tree.token_ids[tree.path(node)[1:]].tolist() for node in range(1, len(tree.parents))]
    assert kept == [path for path, _ in case["kept"]]
    np.testing.assert_allclose(np.exp(tree.log_values[1:]), [value for _, value in case["kept"]], rtol=1e-9)


@pytest.mark.parametrize("case", cases("verification"), ids=range(4))
def test_verification(case):
    """Every way that the target's draws can go, weighted: verification's outcomes are the golden ones."""
    nodes = [(), *map(tuple, case["nodes"])]
    tree = DraftTree(
        token_ids=np.array([9, *(path[-1] for path in nodes[1:])]),
        parents=np.array([-1, *(nodes.index(path[:-1]) for path in nodes[1:])]),
        log_values=np.zeros(len(nodes)),
    )
    target = {path_of(words): row for words, row in case["target"].items()}
    for path, bonus, weight in case["outcome"]:
        said = [*path, bonus]
        cycle = accept_same_ids(tree, Says(lambda _, accepted, said=said: said[len(accepted)]))
        assert cycle.token_ids == said
        assert [nodes[node] for node in cycle.path] == [tuple(path[:size]) for size in range(len(path) + 1)]
        chance = np.prod([target[tuple(said[:at])][token] for at, token in enumerate(said)])
        # Probabilities are rounded to four places, so a node's may not add up to 1 exactly.
        assert chance == pytest.approx(weight, rel=2e-3)
    assert sum(weight for *_, weight in case["outcome"]) == pytest.approx(1, abs=1e-3)


def test_draws():
    for seed, choice, position, token, value in cases("draws"):
        [drawn] = gumbel(seed, choice, position, np.array([token]))
        assert drawn == pytest.approx(value, abs=1e-9)
