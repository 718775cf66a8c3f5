"""Measures the difference between a network's rows and a reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RealArray = npt.NDArray[Any]
DoubleArray = npt.NDArray[np.float64]

BLOCK_CELLS = 2**18
"""Number of elements compared at a time, so that float64 copies take only a few MiB."""


class ShapeError(ValueError):
    """The arrays can't be compared. The message names both shapes."""


@dataclass(frozen=True)
class Comparison:
    """The difference between rows and a reference.

    If either side contains a NaN, `mean_difference`, `max_difference`, `rmse` and `snr_db` are NaN.

    Parameters
    ----------
    rows, channels : int
        The shape of both arrays.
    tolerance : float
        The largest absolute difference that passes.
    mean_difference, max_difference, rmse : float
        Mean, maximum and root mean square of the absolute differences.
    snr_db : float
        The power of the reference divided by the power of the difference, in dB. It is infinite if
        there is no difference.
    peak : float
        The reference's largest absolute value.
    over : int
        Number of elements that differ by more than the tolerance. A NaN counts as such an element.
    worst : tuple of int
        Row and channel of the largest difference, or of the first NaN.
    not_finite : int
        Number of elements that are infinite or NaN in the reference.
    ours_not_finite : int
        Number of elements that are infinite or NaN in our rows and finite in the reference.
    """

    rows: int
    channels: int
    tolerance: float
    mean_difference: float
    max_difference: float
    rmse: float
    snr_db: float
    peak: float
    over: int
    worst: tuple[int, int]
    not_finite: int = 0
    ours_not_finite: int = 0

    @property
    def count(self) -> int:
        """Number of elements that were compared."""
        return self.rows * self.channels

    @property
    def share(self) -> float:
        """The share of the elements that differ by more than the tolerance."""
        return self.over / self.count

    @property
    def within(self) -> bool:
        """Whether no element differs by more than the tolerance."""
        return self.over == 0


def compare(ours: RealArray, reference: RealArray, tolerance: float) -> Comparison:
    """Compare rows with a reference, in float64 and block by block.

    Parameters
    ----------
    ours, reference : (rows, channels) arrays of real numbers
        May be memory maps.
    tolerance : float
        The largest absolute difference that passes.

    Raises
    ------
    ShapeError
        If either array is not two-dimensional, if the shapes differ, or if the arrays are empty.
        This error is a ``ValueError``.
    """
    _require_same_shape(ours, reference)
    total = squares = signal = peak = 0.0
    largest, worst, over, first, not_finite, lost = -1.0, (0, 0), 0, 0, 0, 0
    for difference, expected in _blocks(ours, reference):
        over += int(np.count_nonzero(~(difference <= tolerance)))
        not_finite += int(np.count_nonzero(~np.isfinite(expected)))
        lost += int(np.count_nonzero(~np.isfinite(difference)))
        with np.errstate(over="ignore", invalid="ignore"):
            total += float(difference.sum())
            squares += float(np.square(difference).sum())
            signal += float(np.square(expected).sum())
            peak = float(np.maximum(peak, np.abs(expected).max()))
        # argmax treats NaN as the largest value. Once a NaN is found, no later value replaces it.
        place = int(difference.argmax())
        found = float(difference.flat[place])
        if not math.isnan(largest) and not found <= largest:
            row, channel = divmod(place, difference.shape[1])
            largest, worst = found, (first + row, channel)
        first += len(difference)
    rows, channels = ours.shape
    return Comparison(
        rows=rows,
        channels=channels,
        tolerance=tolerance,
        mean_difference=total / ours.size,
        max_difference=largest,
        rmse=math.sqrt(squares / ours.size),
        snr_db=decibels(signal, squares),
        peak=peak,
        over=over,
        worst=worst,
        not_finite=not_finite,
        ours_not_finite=lost - not_finite,
    )


def difference_over_time(ours: RealArray, reference: RealArray, columns: int) -> DoubleArray:
    """Return the largest absolute difference in each interval of time and each channel.

    Parameters
    ----------
    ours, reference : (rows, channels) arrays of real numbers
    columns : int
        Maximum number of intervals, which have nearly equal lengths. There are never more intervals
        than rows.

    Returns
    -------
    (min(columns, rows), channels) float64
        The differences. A difference is NaN if its interval contains a NaN.

    Raises
    ------
    ShapeError
        As for `compare`.
    """
    _require_same_shape(ours, reference)
    columns = min(columns, len(ours))
    found = np.zeros((columns, ours.shape[1]))
    for column in range(columns):
        stretch = slice(column * len(ours) // columns, (column + 1) * len(ours) // columns)
        for difference, _ in _blocks(ours[stretch], reference[stretch]):
            found[column] = np.maximum(found[column], difference.max(axis=0))
    return found


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two powers in dB. It is infinite if there is no noise."""
    if noise == 0:
        return math.inf
    with np.errstate(all="ignore"):
        return float(10 * np.log10(np.float64(signal) / np.float64(noise)))


def _require_same_shape(ours: RealArray, reference: RealArray) -> None:
    if ours.ndim != 2 or ours.shape != reference.shape:
        raise ShapeError(f"our shape is {ours.shape}, the reference's is {reference.shape}")
    if ours.size == 0:
        raise ShapeError(f"both are {ours.shape}: there is nothing to compare")


def _blocks(ours: RealArray, reference: RealArray) -> Iterator[tuple[DoubleArray, DoubleArray]]:
    """Yield the absolute differences and the reference's rows, block by block."""
    size = max(1, BLOCK_CELLS // ours.shape[1])
    for first in range(0, len(ours), size):
        rows = slice(first, first + size)
        expected = np.ascontiguousarray(reference[rows], np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(np.asarray(ours[rows], np.float64) - expected)
        yield difference, expected
