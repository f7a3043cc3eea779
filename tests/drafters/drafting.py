"""Drafting by hand: a method on a tiny target, cycle by cycle."""

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

from eyas.drafters.registry import methods
from eyas.engine.cycle import Engine
from eyas.engine.interfaces import DraftFiles
from eyas.engine.sampling import SamplingConfig
from eyas.engine.stopping import StoppingConfig
from fake import make_request
from tiny import VOCAB


def engine_of(method, runtime, directory: Path, model=None) -> Engine:
    files = DraftFiles(head=lambda: directory, model=model)
    return Engine(runtime, methods()[method].drafter.load(runtime, files))


def request(method, prompt, temperature=0.0, new_tokens=24, given=None, **sampling):
    return make_request(
        prompt,
        SamplingConfig(temperature=temperature, seed=4, **sampling),
        StoppingConfig(max_new_tokens=new_tokens, ignore_eos=True),
        options=methods()[method].options(**(given or {})),
        vocab_size=VOCAB,
    )


def cycles(engine, wanted, earlier=None):
    """Each cycle's run, after the cycle."""
    run, _ = engine.start(wanted, earlier)
    while not run.is_finished:
        engine.step([run])
        yield run


def edit_network(directory, change, config):
    """Change arrays of a network's file (None removes one) and entries of its config."""
    path = directory / "model.safetensors"
    weights = {name: array for name, array in (load_file(path) | change).items() if array is not None}
    save_file(weights, path)
    document = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(document | config))
    return directory
