"""A third engine confirms what is exported: llama.cpp drafts the tokens that eyas drafts.

What llama.cpp drafted is kept in tests/golden; llama_cpp_eagle3.py there asks it.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from llama_cpp_case import DEPTH, PROMPTS, write_case

from eyas.drafters.eagle3 import Eagle3Head
from eyas.drafters.eagle_head import HeadState
from eyas.drafters.ranked import Frontier
from eyas.engine.interfaces import DraftContext, TargetCall
from eyas.engine.sampling import Sampler, SamplingConfig
from eyas.engine.tree_options import TreeOptions
from eyas.runtimes import load_runtime
from eyas.runtimes.native import is_built

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/eagle3_llama_cpp.json").read_text())
RUNTIMES = ["torch", *(["native"] if is_built() else [])]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    write_case(folder)
    return folder


def test_the_files_are_those_that_llama_cpp_read(case):
    for name, digest in GOLDEN["files"].items():
        assert hashlib.sha256((case / name).read_bytes()).hexdigest() == digest, f"make {name}'s golden again"


def drafted(runtime, head, prompt):
    """The target's next token, and the head's greedy chain behind it."""
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), np.array(prompt), taps=head.taps)])
    root = int(rows.logits(len(prompt) - 1).argmax())
    tokens = [*prompt, root]
    state = HeadState(head)
    sampler = Sampler(SamplingConfig(), prompt_ids=prompt, vocab_size=runtime.target.vocab_size)
    state.begin(DraftContext(prompt_ids=prompt, sampler=sampler, tree=TreeOptions()), 0)
    state.extend(rows.features, tokens[1:])
    chain = [root]
    with state.expander(tokens, None) as expand:
        frontier = None
        for _ in range(DEPTH):
            chain.append(int(expand(frontier, 1)[0][0, 0]))
            frontier = Frontier(np.array(chain[-1:]), np.array([0]))
    return chain


@pytest.mark.parametrize("source", ["head", "head.gguf"])
@pytest.mark.parametrize("name", RUNTIMES)
def test_llama_cpp_drafts_the_same_tokens(case, name, source):
    dtypes = {"dtype": "float32"} | ({"draft_dtype": "float32"} if name == "native" else {})
    runtime = load_runtime(name, case / "target.gguf", name="tiny", threads=1, **dtypes)
    head = Eagle3Head.load(runtime, case / source)
    assert [drafted(runtime, head, prompt) for prompt in PROMPTS] == [
        found["chain"] for found in GOLDEN["chains"]
    ]
    assert min(lead for found in GOLDEN["chains"] for lead in found["leads"]) > 1e-3, "no near ties"
