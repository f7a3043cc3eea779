"""Makes the golden files beside it, from the slow definitions in tests/reference alone.

    PYTHONPATH=tests python tests/golden/make.py

tests/laws/test_golden.py compares eyas with them, and them with what this script would write today.
"""

import json
import random
from pathlib import Path

import reference
from reference.eagle3 import golden_drafts

HERE = Path(__file__).parent
VOCAB = 4
SHAPES = ((1, 3, 3), (2, 3, 5), (2, 2, 6), (3, 2, 7), (3, 3, 12))  # top_k, depth, draft tokens


def confidences(rng):
    """Probabilities of the next token below a path, made as they are asked for; best first."""
    known = {}

    def below(path):
        if path not in known:
            weights = [rng.expovariate(1) ** 2 for _ in range(VOCAB)]
            p = [round(weight / sum(weights), 4) for weight in weights]
            known[path] = sorted(enumerate(p), key=lambda pair: (-pair[1], pair[0]))
        return known[path]

    return known, below


def keyed(table):
    """A table by path as JSON holds it: paths as words."""
    return {" ".join(map(str, path)): value for path, value in table.items()}


def expansion():
    """Kept nodes and values of EAGLE-2 trees."""
    cases = []
    for number, (top_k, depth, draft_tokens) in enumerate(SHAPES):
        known, below = confidences(random.Random(number))
        kept = reference.eagle2_tree(below, top_k, depth, draft_tokens)
        cases.append(
            {
                "top_k": top_k,
                "depth": depth,
                "draft_tokens": draft_tokens,
                "confidences": keyed(known),
                "kept": [[list(path), round(value, 12)] for path, value in kept],
            }
        )
    return cases


def verification():
    """What a walk over a tree emits, with probabilities, under EAGLE-2's own acceptance rule."""
    cases = []
    for number in range(4):
        _, below = confidences(random.Random(100 + number))
        kept = [path for path, _ in reference.eagle2_tree(below, 2, 2, 4)]
        children = {}
        for path in kept:
            children.setdefault(path[:-1], []).append(path[-1])
        known, target = confidences(random.Random(200 + number))

        def probabilities(path, target=target):
            return [p for _, p in sorted(target(path))]

        outcome = reference.rejection_walk(children, probabilities)
        cases.append(
            {
                "nodes": [list(path) for path in kept],
                "target": keyed({path: [p for _, p in sorted(row)] for path, row in known.items()}),
                "outcome": [
                    [list(path), bonus, round(weight, 12)]
                    for (path, bonus), weight in sorted(outcome.items())
                ],
            }
        )
    return cases


def draws():
    """Gumbel numbers by seed, choice, position and token."""
    rng = random.Random(300)
    keys = [
        (rng.randrange(2**32), rng.randrange(4), rng.randrange(5000), rng.randrange(150_000))
        for _ in range(24)
    ]
    return [[*key, round(reference.gumbel(*key), 12)] for key in keys]


def documents():
    """File name -> content."""
    made = {"expansion": expansion(), "verification": verification(), "draws": draws()}
    made["eagle3"] = golden_drafts()
    return {f"{name}.json": json.dumps(cases, indent=1) + "\n" for name, cases in made.items()}


if __name__ == "__main__":
    for name, text in documents().items():
        (HERE / name).write_text(text, encoding="utf-8")
