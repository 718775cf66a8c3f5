"""Containers of named tensors: opening one parses its index; each tensor is read on demand."""

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
        The name in the container.
    shape : tuple of int
    dtype : str
        The name of the dtype in safetensors (``"F32"``, ``"BF16"``, ...).
    read : callable
        Returns the values as a float array. Call it only if `dtype` is one of `FLOAT_DTYPES`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], FloatingArray] = field(repr=False)


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
        All files that the tensors are read from, including an index.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    files: tuple[Path, ...]


FLOAT_DTYPES = ("F16", "BF16", "F32", "F64")


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for messages: ``2 x 3`` for (2, 3)."""
    return " x ".join(map(str, shape)) if shape else "a single number"
