"""Finds the delay of a reference in rows, so that a network can be compared with it."""

from __future__ import annotations

import numpy as np

from oobleck_stream.validation.comparison import DoubleArray, RealArray

BLOCK_CELLS = 2**18
"""Number of elements in a block whose correlation is computed in one call. But a block always has
at least ``2 * most`` rows, where `most` is the argument of `delay_of`."""


def delay_of(reference: RealArray, ours: RealArray, most: int) -> int:
    """Return the delay at which row ``n + delay`` of `reference` best matches row ``n`` of `ours`.

    The delay is the one at which the cross-correlation, summed over all channels, is largest.

    Parameters
    ----------
    reference, ours : (rows, channels) arrays of real numbers
        They may have different numbers of rows, but not of channels.
    most : int
        The largest absolute delay that is tried.

    Returns
    -------
    int
        The delay, from ``-most`` to `most`. It is 0 if `reference` or `ours` is silent.
    """
    sums = np.zeros(2 * most + 1)
    block = max(1, 2 * most, BLOCK_CELLS // ours.shape[1])
    for first in range(0, len(ours), block):
        mine = _rows(ours, first, min(block, len(ours) - first))
        sums += _correlation(mine, _rows(reference, first - most, len(mine) + 2 * most))
    return int(np.argmax(sums)) - most if sums.any() else 0


def overlap(ours: RealArray, reference: RealArray, delay: int) -> tuple[RealArray, RealArray]:
    """Return views of those rows of `ours` and `reference` that correspond at the given delay."""
    first, theirs = max(0, -delay), max(0, delay)
    count = max(0, min(len(ours) - first, len(reference) - theirs))
    return ours[first : first + count], reference[theirs : theirs + count]


def _rows(array: RealArray, first: int, count: int) -> DoubleArray:
    """Copy `count` rows from index `first`, which may be negative.

    Rows outside the array are zeros, and so are values that are not finite.
    """
    rows = np.zeros((count, array.shape[1]))
    begin, end = max(0, first), max(0, min(len(array), first + count))
    if begin < end:
        found = np.asarray(array[begin:end], np.float64)
        rows[begin - first : end - first] = np.where(np.isfinite(found), found, 0.0)
    return rows


def _correlation(short: DoubleArray, long: DoubleArray) -> DoubleArray:
    """Sum ``short[n] * long[n + k]`` over n and channels, for each k at which `short` fits."""
    size = 1 << (len(long) - 1).bit_length()
    spectrum = np.fft.rfft(long, size, axis=0) * np.fft.rfft(short, size, axis=0).conj()
    sums: DoubleArray = np.fft.irfft(spectrum.sum(axis=1), size)
    return sums[: len(long) - len(short) + 1]
