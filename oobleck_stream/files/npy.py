"""Headers of NumPy's `.npy` format, in files and in pipes."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from oobleck_stream.errors import InputError
from oobleck_stream.memory import memory_shortage

MAGIC = npy_format.MAGIC_PREFIX

_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}
"""Bytes that a header's length takes, by the version of the format."""

_LONGEST = 10_000
"""Bytes of a header; NumPy refuses longer ones too."""

_MOST_DIMENSIONS = 32
_PIECE = 1 << 16


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


def exactly(stream: Readable, size: int) -> bytes:
    """`size` bytes, or fewer where the stream ends before; no more is held than has come."""
    pieces, missing = [], size
    while missing:
        piece = stream.read(min(_PIECE, missing))
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def read_header(stream: Readable, name: str) -> Header:
    """Read magic and header; the numbers follow in the stream.

    Raises
    ------
    InputError
        When it is no `.npy` header, or one of something else than real numbers.
    """
    start = exactly(stream, len(MAGIC) + 2)
    version, width = start[len(MAGIC) :], _LENGTH_BYTES.get(start[len(MAGIC) :], 0)
    length = exactly(stream, width)
    size = int.from_bytes(length, "little")
    if start[: len(MAGIC)] != MAGIC or len(length) < width or not 0 < size <= _LONGEST:
        raise InputError(f"{name}: not a .npy array (its header is not one of NumPy's)")
    header = io.BytesIO(length + exactly(stream, size))
    parse = npy_format.read_array_header_2_0
    if version == b"\1\0":
        parse = npy_format.read_array_header_1_0
    try:
        shape, fortran, dtype = parse(header)
    except Exception as error:  # whatever a damaged header makes Python's own parser raise
        raise InputError(f"{name}: not a .npy array (its header is not one of NumPy's)") from error
    if dtype.hasobject:
        raise InputError(f"{name}: holds pickled objects; an array of real numbers was expected")
    require_real(dtype, name)
    if len(shape) > _MOST_DIMENSIONS or any(type(axis) is not int or axis < 0 for axis in shape):
        raise InputError(f"{name}: damaged: has a shape that can't be")
    if math.prod(max(axis, 1) for axis in shape) * dtype.itemsize >= 2**63:
        raise InputError(f"{name}: damaged: has a shape that can't be")
    return Header(shape, dtype, fortran)


def write_npy(file: BinaryIO, array: npt.NDArray[Any]) -> None:
    """Write an array as `numpy.save` does, but with errors that say what is wrong and where.

    Parameters
    ----------
    file : BinaryIO
    array : C-contiguous array of numbers

    Raises
    ------
    OSError
        As `file` raises it.
    """
    npy_format.write_array_header_1_0(file, npy_format.header_data_from_array_1_0(array))
    file.write(array.data)


def read_numbers(stream: Readable, header: Header, name: str) -> npt.NDArray[Any]:
    """Read the numbers behind a header.

    Memory is taken as the bytes come, not for what the header claims.

    Returns
    -------
    read-only array
        Of the header's shape, dtype and order.

    Raises
    ------
    InputError
        When the header claims more than this machine's memory, or the stream ends before.
    """
    size = header.size_in_bytes
    shortage = memory_shortage(size)
    if shortage:
        raise InputError(f"{name}: an array that {shortage}")
    data = bytearray()
    while len(data) < size:
        piece = stream.read(min(_PIECE, size - len(data)))
        if not piece:
            raise cut_off(name, size, len(data))
        data += piece
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    array: npt.NDArray[Any] = np.ndarray(header.shape, header.dtype, data, order=order)
    array.flags.writeable = False
    return array


def cut_off(name: str, expected: int, there: int) -> InputError:
    """The error of a file or a stream that has fewer bytes of numbers than its header claims."""
    return InputError(
        f"{name}: cut off: {expected} bytes of numbers were expected, {there} are there"
    )


def require_real(dtype: np.dtype[Any], name: str) -> None:
    """Raise `InputError` unless a dtype is of real numbers."""
    if dtype.kind not in "fiub":
        raise InputError(f"{name}: an array of real numbers was expected, not of {dtype}")
