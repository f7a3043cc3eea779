"""What a list of models says of each: its family and the size of its weights, from headers alone."""

import math
from dataclasses import dataclass
from pathlib import Path

from eyas.models.families import read_family
from eyas.models.formats import FORMATS, row_bytes
from eyas.models.sources import is_gguf, open_source
from eyas.models.weights import read_json, text_config


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model.

    Attributes:
        family: its `model_type`.
        parameters: numbers in all tensors.
        bits: of a number, on average.
    """

    family: str
    parameters: int
    bits: float


def model_facts(model: Path) -> ModelFacts:
    """The facts about a directory or GGUF file.

    Raises:
        ModelError: a model that is not whole, or a GGUF file of an unknown architecture.
    """
    if is_gguf(model):
        family = read_family(model)[0].name
    else:  # of any family: the torch runtime may know it
        family = str(text_config(read_json(model / "config.json")).get("model_type"))
    source = open_source(model)
    numbers = num_bytes = 0
    for name in source.names():
        shape, stored = source.shape(name), source.format(name)
        if stored in FORMATS:
            rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
            numbers += rows * columns
            num_bytes += rows * row_bytes(stored, columns)
    return ModelFacts(family, numbers, 8 * num_bytes / max(1, numbers))
