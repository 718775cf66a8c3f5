"""Containers: files that hold named tensors, known by their headers until they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatingArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a container.

    Parameters
    ----------
    name : str
        As the container spells it.
    shape : tuple of int
    dtype : str
        As safetensors spells it (``"F32"``, ``"BF16"``...).
    read : callable
        Gives the numbers as a float array; only for `FLOAT_DTYPES`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], FloatingArray] = field(repr=False)


@dataclass(frozen=True)
class Container:
    """Tensors by name, whatever text came with them, and the files that hold it all."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    files: tuple[Path, ...]


FLOAT_DTYPES = ("F16", "BF16", "F32", "F64")


def shape_text(shape: tuple[int, ...]) -> str:
    """``2 x 3`` for (2, 3)."""
    return " x ".join(map(str, shape)) if shape else "a single number"
