"""Headers of NumPy's `.npy` format, in files and in pipes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as npy_format

from oobleck_stream.files.errors import InputError

MAGIC = npy_format.MAGIC_PREFIX


class Readable(Protocol):
    """Something that bytes are read from."""

    def read(self, size: int = ..., /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True)
class Header:
    """What an `.npy` header says: shape, dtype, and whether the first axis runs fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def size_in_bytes(self) -> int:
        """Bytes of the numbers behind the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: Readable, name: str) -> Header:
    """Read magic and header; the numbers follow in the stream.

    Raises
    ------
    InputError
        When it is no `.npy` header, or one of something else than real numbers.
    """
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = npy_format.read_array_header_1_0(stream)
        else:
            shape, fortran, dtype = npy_format.read_array_header_2_0(stream)
    except (ValueError, OverflowError, SyntaxError) as error:
        raise InputError(f"{name}: not a .npy array (its header is not one of NumPy's)") from error
    if dtype.hasobject:
        raise InputError(f"{name}: holds pickled objects; an array of real numbers was expected")
    require_real(dtype, name)
    return Header(shape, dtype, fortran)


def require_real(dtype: np.dtype[Any], name: str) -> None:
    """Raise `InputError` unless a dtype is of real numbers."""
    if dtype.kind not in "fiub":
        raise InputError(f"{name}: an array of real numbers was expected, not of {dtype}")
