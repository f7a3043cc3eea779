"""Microseconds of Python in one cycle: the engine and EAGLE-2 on blocks that cost nothing.

    PYTHONPATH=src:tests python benchmarks/overhead.py [--profile]

Everything but the networks is real: expansion, rerank, the tree, verification, stopping, counts. The answer
accepts two draft tokens per cycle. Prints the median over cycles, and with --profile where the time goes.
"""

import argparse
import cProfile
import pstats
import statistics
from dataclasses import replace
from time import perf_counter

from eyas.engine.tree_options import TreeOptions
from eyas.drafters.eagle2 import Eagle2, Eagle2Options
from eyas.drafters.policy.session import TreePolicy
from eyas.engine.cycle import Engine, Request
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.stopping import AnswerText, StoppingConfig
from fake import AUTO, FAST, FreeRuntime, free_head

CYCLES = 2000
FIXED = TreeOptions()
TREES = {
    "7 draft tokens, 3 levels, top 4": (FIXED, Eagle2Options(draft_tokens=7, depth=3, tree_top_k=4)),
    "7 draft tokens, 3 levels, top 10": (FIXED, Eagle2Options(draft_tokens=7, depth=3, tree_top_k=10)),
    "15 draft tokens, 4 levels, top 10": (FIXED, Eagle2Options(draft_tokens=15, depth=4, tree_top_k=10)),
    "59 draft tokens, 6 levels, top 10": (FIXED, Eagle2Options(draft_tokens=59, depth=6, tree_top_k=10)),
    "auto, with a fast target's costs": (
        replace(AUTO, lookup=False),  # this text would be looked up whole
        Eagle2Options(),
    ),
}


class Bytes:
    """A decoder as cheap as that of a byte-level tokenizer."""

    def push(self, token_id):
        return chr(97 + token_id % 26)

    def flush(self):
        return ""


def cycles(tree, options, temperature):
    """Microseconds of each cycle of one long answer."""
    runtime = FreeRuntime(context_limit=10**6)
    engine = Engine(runtime, TreePolicy(Eagle2(free_head(runtime)), "eagle2"))
    sampling = SamplingConfig(temperature=temperature)
    prompt = list(range(100))
    request = Request(
        prompt_ids=prompt,
        sampler=Sampler(sampling, prompt_ids=prompt, vocab_size=runtime.target.vocab_size),
        text=AnswerText(StoppingConfig(max_new_tokens=10**6), Bytes()),
        tree=tree,
        options=options,
        costs=FAST,
    )
    run, _ = engine.start(request)
    times = []
    for _ in range(CYCLES):
        began = perf_counter()
        engine.step([run])
        times.append(1e6 * (perf_counter() - began))
    return times


def main():
    parser = argparse.ArgumentParser(description="Microseconds of Python in one cycle.")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--temperature", type=float, default=0.0)
    args = parser.parse_args()
    for name, (tree, options) in TREES.items():
        times = cycles(tree, options, args.temperature)
        print(
            f"{name:<36} first 200: {statistics.median(times[:200]):7.1f} us   all: {statistics.median(times):7.1f} us"
        )
        if args.profile:
            with cProfile.Profile() as profile:
                cycles(tree, options, args.temperature)
            pstats.Stats(profile).sort_stats("tottime").print_stats(22)


if __name__ == "__main__":
    main()
