"""Represents named tensors in files.

Opening a container parses its index. Each tensor is read on demand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from oobleck_stream.formats.dtypes import BITS, FloatingArray, to_stored

PACKED = "oobleck_stream packed"
"""The metadata entry ``format`` of a packed network begins with this text, in every version."""

MAX_DIMENSIONS = 32
"""Maximum number of dimensions of an array in NumPy before version 2."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a container.

    Parameters
    ----------
    name : str
        The name in the container.
    shape : tuple of int
    dtype : str
        The name of the dtype in safetensors (``"F32"``, ``"BF16"``, ...).
    read : callable
        A function that returns the values as a float array. Call it only if `dtype` is one of
        `dtypes.FLOATS`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], FloatingArray] = field(repr=False)

    @property
    def size_in_bytes(self) -> int:
        """The size of the tensor in a file, in bytes."""
        return math.prod(self.shape) * BITS[self.dtype] // 8

    def read_stored(self) -> npt.NDArray[Any]:
        """Read the values and round them to `dtype`.

        Rounding is needed because `read` may return another dtype.

        Returns
        -------
        array of the tensor's shape, C-contiguous
            The elements as a file stores them. For bfloat16, these are the bits as uint16.

        Raises
        ------
        ValueError
            If a value is not finite, or overflows in `dtype`. The message names the tensor.
        """
        return to_stored(self.read().reshape(self.shape), self.dtype, self.name)


@dataclass(frozen=True)
class Container:
    """Named tensors, the metadata stored with them, and the files that contain both.

    Parameters
    ----------
    path : Path
        The file or folder that was opened.
    tensors : mapping of str to Tensor
    metadata : mapping of str to str
    files : tuple of Path
        All files from which the tensors are read, including an index.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    files: tuple[Path, ...]


def is_packed(container: Container) -> bool:
    """Whether a container is a packed network, of any version of the format."""
    return container.metadata.get("format", "").startswith(PACKED)


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for messages: ``2 x 3`` for (2, 3)."""
    return " x ".join(map(str, shape)) if shape else "a single number"
