"""The ceiling of uncoupled drafting: trees grown from the target's own distribution, on answers it has given.

    python benchmarks/oracle.py --answers answers.jsonl --limit 32 --max-new-tokens 96

Each line is one temperature and tree. At temperature 0 the best path is always right, so the ceiling is the
depth; above 0 no tree that does not know the sampler's noise can do better than this.
"""

import argparse
from pathlib import Path

from eyas.engine.tree_options import TreeOptions
from eyas.drafters.eagle2 import Eagle2Options
from eyas.engine.metrics import mean_acceptance_length
from eyas.models import resolve_model
from eyas.runtimes import load_runtime
from eyas.training.data import Sample, read_samples, split_held_out
from eyas.training.features import FeatureSource
from eyas.training.oracle import Oracle
from eyas.training.simulate import simulate

UNCOUPLED = TreeOptions(draft_sampling="top-k")
TREES = {
    "60 rows": Eagle2Options(),
    "16 rows": Eagle2Options(draft_tokens=15),
    "8 rows": Eagle2Options(draft_tokens=7, depth=3),
}


def main() -> None:
    """Print a line per temperature and tree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--answers", type=Path, nargs="+", required=True, help="lines from `eyas train distil`"
    )
    parser.add_argument("--model", help="the target; without it the default one")
    parser.add_argument("--limit", type=int, default=32, help="held-out answers per temperature")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="of an answer")
    args = parser.parse_args()
    directory = resolve_model(args.model)
    runtime = load_runtime("torch", directory, name=directory.name, dtype="bfloat16", threads=1)
    features = FeatureSource(runtime, 2048)
    _, held_out = split_held_out(read_samples(args.answers), 24)
    for temperature in sorted({sample.temperature for sample in held_out}):
        found = [s for s in held_out if s.temperature == temperature and len(s.response_ids) > 16]
        for name, options in TREES.items():
            rows = []
            for full in found[: args.limit]:
                answer = full.response_ids[: args.max_new_tokens]
                sample = Sample(full.id, full.prompt_ids, answer, temperature)
                [feature] = features.get([sample])
                rows.append(simulate(runtime, Oracle(runtime), sample, feature, UNCOUPLED, options))
            print(f"T={temperature:g}, {name}: {mean_acceptance_length(rows):.3f} ({len(rows)} answers)")


if __name__ == "__main__":
    main()
