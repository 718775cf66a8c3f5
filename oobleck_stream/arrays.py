"""Array types, and memory for rows, weights and sums."""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

HUGE_PAGES_FROM = 2**22
"""Bytes from which huge pages are requested, as NumPy does for its own arrays."""


def aligned_zeros(*shape: int) -> FloatArray:
    """An array of zeros in separate pages, which go back to the system when the array is freed.

    Memory from `malloc` may stay with the allocator even after hundreds of arrays have been freed.
    The start of a page is also the start of a cache line, so no vector of sixteen floats spans two
    lines.
    """
    count = math.prod(shape)
    pages = _anonymous_pages(max(1, 4 * count))
    return np.frombuffer(pages, np.float32, count).reshape(shape)


def _anonymous_pages(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    # With the default, MAP_SHARED, a forked child would write into its parent's memory.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice: Any = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None and size >= HUGE_PAGES_FROM:
        with contextlib.suppress(OSError):  # the kernel may be built without huge pages
            pages.madvise(advice)
    return pages
