"""Numbers as files hold them: float64, float32, float16 and bfloat16, little-endian."""

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
    """Bytes that a tensor takes in a file."""
    return math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]


def stored_numbers(tensor: Tensor) -> npt.NDArray[Any]:
    """Read a tensor and round it, half to even, to the dtype that it is to have.

    Parameters
    ----------
    tensor : Tensor
        What its `read` gives may be of another dtype than it says.

    Returns
    -------
    array of the tensor's shape, C-contiguous
        Of `dtype`; for bfloat16 its bits, as uint16.

    Raises
    ------
    ValueError
        When a number is not finite, or beyond the dtype's largest; names the tensor.
    """
    values = tensor.read().reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise ValueError(f"{tensor.name} holds values that are not finite")
    with np.errstate(over="ignore"):
        if tensor.dtype == "BF16":
            stored = _bfloat16(values)
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
    """The upper halves of float32 numbers, rounded half to even."""
    bits = _float32_bits(values)
    odd = bits >> 16
    odd &= 1
    bits += odd
    bits += 0x7FFF
    bits >>= 16
    return bits.astype("<u2")


def _float32_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Numbers as float32; what lies between two becomes the odd one, so that rounding it again to
    fewer bits is as if it had been rounded once.
    """
    numbers = np.array(values, np.float32, order="C")
    bits = numbers.view(np.uint32)
    if values.dtype.itemsize > numbers.dtype.itemsize:
        away, between = np.abs(numbers) > np.abs(values), numbers != values
        bits -= away
        bits |= between
    return bits
