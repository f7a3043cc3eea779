"""A model's tensors as Hugging Face's files name and join them, whatever files it comes from.

transformers, fingerprints and conversion speak these names. Fused tensors are joined, and blocks dequantised.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ModelError
from eyas.models.families import families, open_tensors, read_spec
from eyas.models.formats import RawTensor, to_float32
from eyas.models.tensors import ModelTensors, TensorNames


class StockTensors:
    """Tensors by Hugging Face's names.

    Args:
        tensors: of the model, by our names.
        names: of the family in Hugging Face's files.
    """

    def __init__(self, tensors: ModelTensors, names: TensorNames) -> None:
        self._tensors = tensors
        self._parts = names.groups(tensors)
        self._shapes = names.shapes({name: tensors.shape(name) for name in tensors})

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._shapes[name]

    def raw(self, name: str) -> list[RawTensor]:
        """What makes up a tensor, as it is stored, from the top down."""
        return [self._tensors.raw(part) for part in self._parts[name]]

    def values(self, name: str) -> NDArray[np.float32]:
        """A tensor's numbers.

        Raises:
            ModelError: a format that cannot be dequantised, or numbers that are not finite.
        """
        values = []
        for part, raw in zip(self._parts[name], self.raw(name), strict=True):
            try:
                values.append(to_float32(raw))
            except ModelError as error:
                raise ModelError(f"{self._tensors.source.path}: {part} cannot be read ({error}).") from error
            if not np.isfinite(values[-1]).all():
                raise ModelError(
                    f"{self._tensors.source.path}: {part} holds numbers that are not finite; fetch it again."
                )
        whole = values[0] if len(values) == 1 else np.concatenate(values)
        return whole.reshape(self.shape(name))


def open_stock_tensors(model: Path) -> StockTensors:
    """The tensors of a model of a family that eyas describes.

    Raises:
        ModelError: see `read_spec` and `open_tensors`.
    """
    spec = read_spec(model)
    return StockTensors(open_tensors(model, spec), families()[spec.family].tensors)
