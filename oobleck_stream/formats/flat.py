"""Flat `.bin` files: the number of values (int32), then the values (float32), without a shape.

All numbers are little-endian.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.errors import InputError
from oobleck_stream.formats.atomic import atomic_file, refusing_unwritable

SUFFIX = ".bin"
COUNT = np.dtype("<i4")
NUMBER = np.dtype("<f4")
MAX_NUMBERS = 2**31 - 1
"""The largest int32."""


def is_flat(path: Path) -> bool:
    """Return whether a file is flat. There is no magic number: its size must match its count."""
    try:
        with path.open("rb") as file:
            count = int.from_bytes(file.read(COUNT.itemsize), "little", signed=True)
            return count > 0 and file.seek(0, 2) == COUNT.itemsize + NUMBER.itemsize * count
    except OSError:
        return False


def read_flat(path: str | Path) -> FloatArray:
    """Read the numbers of a flat file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    (n,) float32
        A read-only memory map of at least one number. Infinities and NaNs are allowed.

    Raises
    ------
    InputError
        If the file can't be read, or if the count in the file does not match the file's size.
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
    """Write numbers to a flat file atomically.

    Parameters
    ----------
    path : str or Path
    array : array-like of real numbers, of any shape
        The numbers, which are rounded to float32 and written in C order.

    Raises
    ------
    InputError
        If there are no numbers or more than `MAX_NUMBERS` numbers, or if the file can't be written.
    """
    path = Path(path)
    numbers = np.ascontiguousarray(array, NUMBER)
    count_bytes(path, numbers.size)
    with refusing_unwritable(path), atomic_file(path) as file:
        write_numbers(file, path, numbers)


def write_numbers(file: BinaryIO, path: Path, array: npt.ArrayLike) -> None:
    """Write the content of a flat file. An `InputError` about its length names `path`."""
    numbers = np.ascontiguousarray(array, NUMBER)
    file.write(count_bytes(path, numbers.size))
    file.write(numbers.data)


def count_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a flat file, which state how many numbers follow.

    Raise an `InputError` if `count` is out of range.
    """
    if not 1 <= count <= MAX_NUMBERS:
        raise InputError(f"{path}: can't hold {count} numbers, only 1 to {MAX_NUMBERS}")
    return np.array(count, COUNT).tobytes()
