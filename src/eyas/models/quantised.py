"""Tensors quantised when they are asked for: a model in a mix of block formats, from files with more bits.

The native module quantises (`native/quantise.cpp`): GGUF's blocks by the published rules. The blocks of a row
depend on that row alone, and are the same bytes on every machine.
"""

from collections.abc import Iterator
from functools import cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ConfigError, ModelError
from eyas.models.compiled import native
from eyas.models.formats import FORMATS, RawTensor, row_bytes, stored_array
from eyas.models.machine import usable_cores
from eyas.models.mixes import tensor_formats
from eyas.models.tensors import ModelTensors
from eyas.models.weights import BFLOAT16

_NUMBERS = 1 << 24  # quantised at a time: an interrupt waits for no more of them


class QuantisedTensors(ModelTensors):
    """The tensors of a model as blocks of a mix.

    Attributes:
        mix: its name.
        original: the tensors with the weights of the files.

    Args:
        tensors: with floating-point weights.
        mix: a name in `eyas.models.mixes.MIXES`.
        threads: that quantise; None is one for each core.

    Raises:
        ConfigError: weights that are quantised already.
    """

    def __init__(self, tensors: ModelTensors, mix: str, threads: int | None = None) -> None:
        super().__init__(tensors.source, tensors.spec, tensors.names)
        self.mix = mix
        self.original = tensors
        self._formats = tensor_formats(mix, tensors.spec)
        self._threads = usable_cores() if threads is None else threads
        for name in self._formats:
            stored = tensors.format(name)
            if FORMATS[stored].block > 1:
                raise ConfigError(
                    f"dtype is {mix!r}, but {self.source.path} is quantised already ({name} is {stored}); "
                    "use auto, which runs it as it is."
                )

    @property
    def block_formats(self) -> set[str]:
        """The formats of its matrices."""
        return set(self._formats.values())

    def format(self, name: str) -> str:
        """The format of a tensor in the mix."""
        return self._formats.get(name) or super().format(name)

    def raw(self, name: str) -> RawTensor:
        """A tensor's blocks, or as it is stored where the mix leaves it as it is.

        Raises:
            ModelError: weights that are not finite, or too large for any format.
        """
        raw = super().raw(name)
        weight_format = self._formats.get(name)
        if weight_format is None:
            return raw
        return quantise(raw, weight_format, f"{self.source.path}: {name}", self._threads)


def quantise(raw: RawTensor, weight_format: str, what: str, threads: int = 1) -> RawTensor:
    """Blocks of a tensor's rows.

    Args:
        raw: of rows that `weight_format`'s blocks divide.
        weight_format: a block format in `FORMATS`.
        what: names the tensor in messages.
        threads: that quantise.

    Raises:
        ModelError: weights that are not finite, or too large for any format.
    """
    columns = raw.shape[-1]
    blocks = np.empty((*raw.shape[:-1], row_bytes(weight_format, columns)), dtype=np.uint8)
    flat = blocks.reshape(-1, blocks.shape[-1])
    bad = 0
    for start, rows in _in_parts(raw):
        flat[start : start + len(rows)], found = native.quantise(rows, weight_format, threads)
        bad += found
    if bad:
        raise ModelError(
            f"{what} holds {bad} weights that are not finite numbers of at most 65504, the most that blocks "
            "can hold; fetch the model again, or choose another dtype."
        )
    return RawTensor(blocks, weight_format, raw.shape)


def _in_parts(raw: RawTensor) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """First row and numbers of some rows at a time, as the module takes them."""
    columns = raw.shape[-1]
    data = raw.data.reshape(-1, raw.data.shape[-1])
    count = max(1, _NUMBERS // columns)
    for start in range(0, len(data), count):
        part = data[start : start + count]
        numbers = np.ascontiguousarray(stored_array(RawTensor(part, raw.format, (len(part), columns))))
        yield start, numbers.view(np.uint16) if numbers.dtype == BFLOAT16 else numbers


@cache
def quantiser_key(weight_format: str) -> str:
    """8 hexadecimal digits that change whenever weights are quantised to other blocks."""
    probe = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
    blocks, _ = native.quantise(probe, weight_format)
    return sha256(blocks.tobytes()).hexdigest()[:8]
