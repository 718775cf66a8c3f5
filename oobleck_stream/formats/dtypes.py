"""Defines the dtypes of tensors in files, and rounds values to them.

A dtype is identified by its name in safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatingArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Float:
    """A floating-point dtype that is read and written.

    Parameters
    ----------
    name : str
        The name of the dtype in NumPy and torch.
    stored : numpy.dtype
        The dtype of the elements in a file. NumPy has no bfloat16, so the bits of bfloat16 are
        stored as uint16.
    """

    name: str
    stored: np.dtype[Any]


FLOATS: Mapping[str, Float] = {
    "F16": Float("float16", np.dtype("<f2")),
    "BF16": Float("bfloat16", np.dtype("<u2")),
    "F32": Float("float32", np.dtype("<f4")),
    "F64": Float("float64", np.dtype("<f8")),
}

BITS: Mapping[str, int] = {
    **{name: 8 * dtype.stored.itemsize for name, dtype in FLOATS.items()},
    **dict.fromkeys(("U64", "I64", "C64"), 64),
    **dict.fromkeys(("U32", "I32"), 32),
    **dict.fromkeys(("U16", "I16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits per element of every dtype of safetensors, including the dtypes that are not read."""

_BFLOAT16_EXPONENT = 0x7F80


def code_of(name: str) -> str | None:
    """The name in safetensors of a NumPy or torch dtype; None if the dtype is not in `FLOATS`."""
    return next((code for code, dtype in FLOATS.items() if dtype.name == name), None)


def from_stored(data: npt.NDArray[np.uint8], dtype: str) -> FloatingArray:
    """Interpret bytes as numbers of a dtype of `FLOATS`. Bfloat16 is converted to float32."""
    numbers = data.view(FLOATS[dtype].stored)
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32, so the conversion is exact.
        numbers = (numbers.astype("<u4") << 16).view("<f4")
    return numbers


def to_stored(values: FloatingArray, dtype: str, name: str) -> npt.NDArray[Any]:
    """Round values to a dtype of `FLOATS`, half to even.

    Parameters
    ----------
    values : array of floating-point numbers
    dtype : str
    name : str
        The name of the values in messages.

    Returns
    -------
    array of the same shape, C-contiguous
        The elements as a file stores them. For bfloat16, these are the bits as uint16.

    Raises
    ------
    ValueError
        If a value is not finite, or overflows in `dtype`.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            stored = _bfloat16(values)
            # An exponent of all ones means infinity, so the value was rounded beyond the maximum.
            finite = ((stored & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT).all()
        else:
            stored = np.ascontiguousarray(values, FLOATS[dtype].stored)
            finite = np.isfinite(stored).all()
    if not finite:
        largest = np.abs(values).max()
        raise ValueError(f"{name} holds {largest:g}, too large for {FLOATS[dtype].name}")
    return stored


def _bfloat16(values: FloatingArray) -> npt.NDArray[np.uint16]:
    """Round float32 values to bfloat16, half to even; return the bits.

    The bits of a bfloat16 are the upper half of the bits of a float32.
    """
    bits = _float32_bits(values)
    # The lowest kept bit is worth 2**16. Adding just under half of that, plus 1 if the lowest kept
    # bit is set, makes the shift round half to even.
    odd = bits >> 16
    odd &= 1
    bits += odd
    bits += 0x7FFF
    bits >>= 16
    return bits.astype("<u2")


def _float32_bits(values: FloatingArray) -> npt.NDArray[np.uint32]:
    """The bits of values as float32. Values in float64 are rounded to odd.

    Rounding to odd avoids double rounding: if the result is rounded again, to fewer bits, the
    outcome is the same as if the float64 value had been rounded once (Boldo and Melquiond 2008,
    https://doi.org/10.1109/TC.2007.70819).
    """
    numbers = np.array(values, np.float32, order="C")
    bits = numbers.view(np.uint32)
    if values.dtype.itemsize > numbers.dtype.itemsize:
        away, inexact = np.abs(numbers) > np.abs(values), numbers != values
        # Truncate. As an integer, the next float32 towards zero is smaller by 1.
        bits -= away
        bits |= inexact
    return bits
