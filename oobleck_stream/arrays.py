"""Array types, conversion of other libraries' arrays, and page-aligned memory."""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

HUGE_PAGES_FROM = 2**22
"""Minimum size, in bytes, for which huge pages are requested, as in NumPy."""

HOST_DEVICES = (1, 3, 13)
"""DLPack's device types for the CPU, and for CUDA memory that the CPU can read."""


def aligned_zeros(*shape: int) -> FloatArray:
    """Return an array of zeros in its own pages, which the system gets back when it is freed.

    Memory from `malloc` may stay with the allocator even after hundreds of arrays have been freed.
    A page starts at a cache line, so no vector of sixteen floats spans two cache lines.
    """
    count = math.prod(shape)
    pages = _anonymous_pages(max(1, 4 * count))
    return np.frombuffer(pages, np.float32, count).reshape(shape)


def _anonymous_pages(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    # With the default, MAP_SHARED, a forked child would write into its parent's memory.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice: Any = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None and size >= HUGE_PAGES_FROM:
        with contextlib.suppress(OSError):  # the kernel may be built without huge pages
            pages.madvise(advice)
    return pages


def as_array(values: Any) -> npt.NDArray[Any]:
    """Convert numbers of any library to a NumPy array, if possible without a copy.

    The libraries are not imported. Tensors of torch are recognized by their methods, and other
    arrays by ``__array__`` or ``__dlpack__``.

    Parameters
    ----------
    values : array_like
        An array, or a sequence of arrays. Tensors of torch may be on any device, may require
        gradients, and may have a dtype that NumPy lacks. Such a dtype, for example bfloat16,
        becomes float32.

    Raises
    ------
    ValueError
        If `values` has no numbers that NumPy can hold, for example if it is a tensor on torch's
        device ``meta``.
    """
    if isinstance(values, list | tuple) and values and is_foreign(values[0]):
        values = [as_array(value) for value in values]
    if not is_foreign(values):
        return np.asarray(values)
    try:
        if hasattr(values, "detach"):
            return _from_torch(values)
        return _from_protocols(values)
    except (TypeError, RuntimeError, BufferError) as error:
        kind = f"{type(values).__module__}.{type(values).__qualname__}"
        raise ValueError(f"a {kind} can't be converted to a NumPy array: {error}") from error


def is_foreign(values: Any) -> bool:
    """Whether `values` is an array of a library other than NumPy."""
    if isinstance(values, np.ndarray | np.generic):
        return False
    return any(hasattr(values, name) for name in ("detach", "__array__", "__dlpack__"))


def _from_torch(tensor: Any) -> npt.NDArray[Any]:
    """Convert a torch tensor, even one on another device or of a dtype that NumPy lacks."""
    try:
        array: npt.NDArray[Any] = tensor.numpy(force=True)
    except TypeError:
        if tensor.is_complex():
            raise
        array = tensor.float().numpy(force=True)
    return array


def _from_protocols(values: Any) -> npt.NDArray[Any]:
    """Convert with ``__array__`` or else ``__dlpack__``, even from another device."""
    refused: Exception | None = None
    if hasattr(values, "__array__"):
        try:
            return np.asarray(values)
        except TypeError as error:  # CuPy copies from the GPU only on explicit request.
            refused = error
    if not hasattr(values, "__dlpack__"):
        raise refused or TypeError("it has neither __array__ nor __dlpack__")
    if values.__dlpack_device__()[0] in HOST_DEVICES:
        return np.from_dlpack(values)
    return np.from_dlpack(values, device="cpu")
