"""Reference files: a count, then so many numbers, and no word of their shape.

The count is an int32, the numbers are float32, all little-endian.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.errors import InputError
from oobleck_stream.files.errors import refusing_unwritable
from oobleck_stream.formats.atomic import atomic_file

SUFFIX = ".bin"
COUNT = np.dtype("<i4")
NUMBER = np.dtype("<f4")
MOST = 2**31 - 1
"""Numbers that the count can count."""


def read_flat(path: str | Path) -> FloatArray:
    """The numbers of a reference file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    (n,) float32
        A read-only memory map; at least one number, any of which may be infinite or NaN.

    Raises
    ------
    InputError
        When it can't be read, or its count is not that of the numbers behind it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(COUNT.itemsize)
            size = file.seek(0, 2)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(start) < COUNT.itemsize:
        raise InputError(f"{path}: has {len(start)} bytes; a count and its numbers were expected")
    count = int(np.frombuffer(start, COUNT)[0])
    there = size - COUNT.itemsize
    if count < 1:
        raise InputError(f"{path}: begins with a count of {count}; at least 1 was expected")
    if there != count * NUMBER.itemsize:
        what = "cut off" if there < count * NUMBER.itemsize else "too long"
        raise InputError(
            f"{path}: {what}: its count says {count} float32 numbers, which are "
            f"{count * NUMBER.itemsize} bytes; {there} are there"
        )
    try:
        numbers: FloatArray = np.memmap(path, NUMBER, "r", COUNT.itemsize, (count,))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read: {error}") from error
    return numbers.view(np.ndarray)


def write_flat(path: str | Path, array: npt.ArrayLike) -> None:
    """Write numbers as a reference file, which appears when it is whole.

    Parameters
    ----------
    path : str or Path
    array : array-like of real numbers, of any shape
        Written in C order, rounded to float32.

    Raises
    ------
    InputError
        When there is no number, there are more than the count can count, or the file can't be
        written.
    """
    path = Path(path)
    numbers = np.ascontiguousarray(array, NUMBER)
    count_bytes(path, numbers.size)
    with refusing_unwritable(path), atomic_file(path) as file:
        write_numbers(file, path, numbers)


def write_numbers(file: BinaryIO, path: Path, array: npt.ArrayLike) -> None:
    """Write the content of a reference file, which errors call `path`; errors as `write_flat`'s."""
    numbers = np.ascontiguousarray(array, NUMBER)
    file.write(count_bytes(path, numbers.size))
    file.write(numbers.data)


def count_bytes(path: Path, count: int) -> bytes:
    """What a reference file of so many numbers begins with; `InputError` where it can't."""
    if not 1 <= count <= MOST:
        raise InputError(f"{path}: can't hold {count} numbers, only 1 to {MOST}")
    return np.array(count, COUNT).tobytes()
