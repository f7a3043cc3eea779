"""A drafter of one file gets both tree policies, all commands and plain ids (docs/add-a-method.md)."""

from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from commands import runner
from eyas.drafters import registry
from eyas.drafters.ranked import RankedSession, TreeLimits
from eyas.drafters.registry import find_method, register_drafter
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftFiles
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from eyas.engine.tree import chain
from fake import AUTO, FREE, SLOW, answer, make_request
from tiny import VOCAB
from tiny_chat import write_chat_model


class BigramSession(RankedSession):
    """Children of a token are those that followed it in the text, by how often they did."""

    num_forwards = 0

    def begin(self, context, keep=0):
        pass

    def fork(self):
        return BigramSession()

    def extend(self, features, token_ids):
        pass

    def limits(self, token_ids):
        return TreeLimits(draft_tokens=30, depth=6, top_k=3)

    def propose(self, token_ids, max_depth):
        """Its own tree: a chain of the most frequent successors."""
        counts, tokens = successors(token_ids), [token_ids[-1]]
        while len(tokens) <= min(4, max_depth) and counts[tokens[-1]]:
            tokens.append(counts[tokens[-1]].most_common(1)[0][0])
        return chain(tokens[0], tokens[1:])

    @contextmanager
    def expander(self, token_ids, most_read=None):
        counts = successors(token_ids)

        def expand(frontier, k):
            nodes = token_ids[-1:] if frontier is None else frontier.token_ids.tolist()
            rows = [(counts[node] + Counter(range(k))).most_common(k) for node in nodes]
            children = np.array([[token for token, _ in row] for row in rows])
            seen = np.array([[counts[node].total()] for node in nodes])
            return children, np.log(np.array([[count for _, count in row] for row in rows]) / (seen + 3))

        yield expand


def successors(token_ids):
    counts = defaultdict(Counter)
    for token, following in pairwise(token_ids):
        counts[token][following] += 1
    return counts


class Bigram:
    """Repeats what followed each token most often."""

    @classmethod
    def load(cls, runtime, files):
        return cls()

    def open(self) -> BigramSession:
        return BigramSession()


@pytest.fixture(autouse=True)
def _bigram(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry.methods()))
    register_drafter("bigram")(Bigram)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("lookup", [True, False])
def test_it_gets_sizes_that_follow_costs(runtime, temperature, lookup):
    files = DraftFiles(head=lambda: None)
    engine = Engine(runtime, find_method("bigram").load(runtime, files))
    plain = Engine(runtime, find_method("autoregressive").load(runtime, files))
    sampling = SamplingConfig(temperature=temperature, seed=3, logit_bias={5: 20.0, 6: 19.0})
    stopping = StoppingConfig(max_new_tokens=50, ignore_eos=True)

    def made(engine, **tree):
        return make_request([9, 4, 5, 9, 4], sampling, stopping, vocab_size=VOCAB, **tree)

    wanted, _ = answer(plain, made(plain))
    mean_size = {}
    for name, given in {
        "fixed": {},
        "free": {"tree": replace(AUTO, lookup=lookup), "costs": FREE},
        "slow": {"tree": replace(AUTO, lookup=lookup), "costs": SLOW},
    }.items():
        run, _ = answer(engine, made(engine, **given))
        assert run.generated == wanted.generated
        mean_size[name] = run.stats().draft_tokens / run.stats().cycles
    assert mean_size["free"] > 2 * mean_size["slow"]
    assert mean_size["free"] <= 30


def test_commands_measure_it_and_generate_with_both_policies(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("eyas.drafters.policy.calibration.ROUNDS", (1, 1))
    monkeypatch.setattr("eyas.drafters.policy.calibration.CONTEXT", 16)
    eyas, model = runner(capsys), write_chat_model(tmp_path / "model")
    words = ("--model", model, "--runtime", "torch", "--dtype", "float32", "--threads", 1, "--json")
    table = eyas("calibrate", *words, "--method", "bigram").document
    assert (table["method"], [nodes for nodes, _ in table["draft_ms"]]) == ("bigram", [1, 2])
    words = ("generate", "Hello", *words, "--max-new-tokens", 12)
    plain = eyas(*words, "--method", "autoregressive").document
    for tree in ("fixed", "auto"):
        made = eyas(*words, "--method", "bigram", "--tree", tree).document
        assert made["token_ids"] == plain["token_ids"]
        assert (made["config"]["cost_table"] == table["digest"]) == (tree == "auto")
