"""Rounding of tensors to their stored, little-endian float64, float32, float16 or bfloat16."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.checkpoints.containers import Tensor

DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_BFLOAT16_EXPONENT = 0x7F80


def stored_bytes(tensor: Tensor) -> int:
    """Size of a tensor in a file, in bytes."""
    return math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]


def stored_numbers(tensor: Tensor) -> npt.NDArray[Any]:
    """Read a tensor and round its values to `tensor.dtype`, half to even.

    Parameters
    ----------
    tensor : Tensor
        Its `read` may return another dtype than `tensor.dtype`.

    Returns
    -------
    array of the tensor's shape, C-contiguous
        In `tensor.dtype`; the bits as uint16 for bfloat16.

    Raises
    ------
    ValueError
        If a value is not finite, or overflows in `tensor.dtype`; names the tensor.
    """
    values = tensor.read().reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise ValueError(f"{tensor.name} holds values that are not finite")
    with np.errstate(over="ignore"):
        if tensor.dtype == "BF16":
            stored = _bfloat16(values)
            # An exponent of all ones is infinity: the value was rounded beyond the maximum.
            whole = ((stored & _BFLOAT16_EXPONENT) != _BFLOAT16_EXPONENT).all()
        else:
            stored = np.ascontiguousarray(values, _NUMPY[tensor.dtype])
            whole = np.isfinite(stored).all()
    if not whole:
        raise ValueError(
            f"{tensor.name} holds {np.abs(values).max():g}, beyond {DTYPE_NAMES[tensor.dtype]}"
        )
    return stored


def _bfloat16(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """The bits of bfloat16 values, which are the upper halves of float32, rounded half to even."""
    bits = _float32_bits(values)
    # Adding just under half of the last kept place, plus 1 if that place is odd, makes the shift
    # round half to even.
    odd = bits >> 16
    odd &= 1
    bits += odd
    bits += 0x7FFF
    bits >>= 16
    return bits.astype("<u2")


def _float32_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """The bits of values as float32; float64 is rounded to odd.

    Rounding to odd avoids double rounding: rounding the result again, to fewer bits, gives the same
    as rounding the float64 value once (Boldo and Melquiond 2008,
    https://doi.org/10.1109/TC.2007.70819).
    """
    numbers = np.array(values, np.float32, order="C")
    bits = numbers.view(np.uint32)
    if values.dtype.itemsize > numbers.dtype.itemsize:
        away, between = np.abs(numbers) > np.abs(values), numbers != values
        bits -= away  # Truncate: the next float32 towards zero has the next smaller bits.
        bits |= between  # An inexact result becomes odd.
    return bits
