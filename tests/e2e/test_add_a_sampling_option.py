"""The function that docs/add-a-sampling-option.md shows is a whole option."""

import numpy as np
import pytest

from eyas.api.options import GenerationOptions
from eyas.cli.app import build_parser
from eyas.engine import processors
from eyas.engine.sampling import FILTERS, Sampler
from eyas.runtimes.native import is_built
from eyas.serve.schemas import ChatRequest, with_options
from pages import ROOT, blocks

PAGE = ROOT / "docs/add-a-sampling-option.md"


@pytest.fixture(autouse=True)
def top_a(monkeypatch):
    monkeypatch.setattr(processors, "_PROCESSORS", dict(processors._PROCESSORS))
    [source] = blocks(PAGE, "python")
    assert len(source.splitlines()) < 40
    exec(compile(source, str(PAGE), "exec"), {"__name__": "top_a"})


def test_it_is_an_option_everywhere_and_cuts_the_distribution():
    options = GenerationOptions.from_names({"temperature": 1.0, "top_a": 0.8})
    sampler = Sampler(options.sampling, prompt_ids=[0], vocab_size=4)
    probs = np.exp(sampler.log_probs(np.log([0.5, 0.3, 0.15, 0.05]), []))
    assert np.allclose(probs, [0.625, 0.375, 0, 0])
    assert build_parser("generate").parse_args(["generate", "--top-a", "0.8"]).top_a == 0.8
    chat = with_options(ChatRequest)
    body = {"messages": [{"role": "user", "content": "Hi"}], "top_a": 0.8}
    assert chat.model_validate(body).options["top_a"] == 0.8


@pytest.mark.skipif(not is_built(), reason="needs the compiled module")
def test_the_filters_of_the_page_are_compiled():
    from eyas import _native

    assert _native.Sampler.filter_names() == list(FILTERS)
