"""NumPy's `.npy` format in files and pipes.

The format is specified at https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from oobleck_stream.errors import InputError
from oobleck_stream.formats.tensors import MAX_DIMENSIONS
from oobleck_stream.memory import memory_shortage

MAGIC = npy_format.MAGIC_PREFIX

_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}
"""The size in bytes of the field that contains the header's length, by format version."""

_MAX_HEADER_BYTES = 10_000
"""Maximum length of a header. NumPy refuses longer headers too."""

_PIECE = 1 << 16
"""Number of bytes that are read at a time."""


class Readable(Protocol):
    """A source of bytes: a file or a pipe."""

    def read(self, size: int = ..., /) -> bytes:
        """Return at most `size` bytes. The result is empty only at the end."""


@dataclass(frozen=True)
class Header:
    """The content of an `.npy` header.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        A dtype of real numbers.
    fortran : bool
        Whether the numbers are stored in Fortran order (first index fastest).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def size_in_bytes(self) -> int:
        """Number of bytes that follow the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def exactly(stream: Readable, size: int) -> bytes:
    """Read `size` bytes, or fewer if the stream ends.

    Memory grows only with the bytes received.
    """
    pieces, missing = [], size
    while missing:
        piece = stream.read(min(_PIECE, missing))
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def read_header(stream: Readable, name: str) -> Header:
    """Read the magic string and the header. The stream is then at the first number.

    Parameters
    ----------
    stream : Readable
    name : str
        The stream's name in error messages.

    Raises
    ------
    InputError
        If the stream does not begin with an `.npy` header, if the header is damaged, or if the
        array's dtype is not a dtype of real numbers.
    """
    start = exactly(stream, len(MAGIC) + 2)
    version, width = start[len(MAGIC) :], _LENGTH_BYTES.get(start[len(MAGIC) :], 0)
    length = exactly(stream, width)
    size = int.from_bytes(length, "little")
    if start[: len(MAGIC)] != MAGIC or len(length) < width or not 0 < size <= _MAX_HEADER_BYTES:
        raise InputError(f"{name}: not a .npy array (its header is not one of NumPy's)")
    header = io.BytesIO(length + exactly(stream, size))
    parse = npy_format.read_array_header_2_0
    if version == b"\1\0":
        parse = npy_format.read_array_header_1_0
    try:
        shape, fortran, dtype = parse(header)
    except Exception as error:  # NumPy parses the header as a Python literal.
        raise InputError(f"{name}: not a .npy array (its header is not one of NumPy's)") from error
    if dtype.hasobject:
        raise InputError(f"{name}: holds pickled objects; an array of real numbers was expected")
    require_real(dtype, name)
    if len(shape) > MAX_DIMENSIONS or any(type(axis) is not int or axis < 0 for axis in shape):
        raise InputError(f"{name}: damaged: its header has an impossible shape")
    if math.prod(max(axis, 1) for axis in shape) * dtype.itemsize >= 2**63:
        raise InputError(f"{name}: damaged: its header has an impossible shape")
    return Header(shape, dtype, fortran)


def write_npy(file: BinaryIO, array: npt.NDArray[Any]) -> None:
    """Write an array as `numpy.save` does, but through `file.write`.

    `numpy.save` itself writes to the file's descriptor, and its errors contain neither a file name
    nor a reason.

    Parameters
    ----------
    file : BinaryIO
    array : C-contiguous array of numbers

    Raises
    ------
    OSError
        If writing to `file` fails.
    """
    npy_format.write_array_header_1_0(file, npy_format.header_data_from_array_1_0(array))
    file.write(array.data)


def read_numbers(stream: Readable, header: Header, name: str) -> npt.NDArray[Any]:
    """Read the numbers that follow a header.

    Memory grows only with the bytes received. It is not allocated for the size that the header
    claims.

    Returns
    -------
    read-only array
        An array with the shape, dtype and order that the header states.

    Raises
    ------
    InputError
        If the array is larger than this machine's memory, or the stream ends too early.
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
    """The error for a file or stream that contains fewer numbers than its header claims."""
    return InputError(
        f"{name}: cut off: {expected} bytes of numbers were expected, {there} are there"
    )


def require_real(dtype: np.dtype[Any], name: str) -> None:
    """Raise an `InputError` unless a dtype is a dtype of real numbers."""
    if dtype.kind not in "fiub":
        raise InputError(f"{name}: an array of real numbers was expected, not of {dtype}")
