"""How far some rows are from those they should be."""

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
"""Numbers compared at once: the float64 copies stay within a few MiB however long the piece is."""


class ShapeError(ValueError):
    """Two arrays can't be compared; the message names both shapes."""


@dataclass(frozen=True)
class Comparison:
    """The difference of some rows to a reference.

    A NaN on either side makes `mean_difference`, `max_difference`, `rmse` and `snr_db` NaN.

    Parameters
    ----------
    rows, channels : int
        The shape of both.
    tolerance : float
        The largest absolute difference that passes.
    mean_difference, max_difference, rmse : float
        Of the absolute differences: mean, largest, root of the mean square.
    snr_db : float
        The reference's power over the difference's, in dB; infinite where there is no difference.
    peak : float
        The reference's largest absolute value.
    over : int
        Elements that differ by more than the tolerance; NaN counts as over.
    worst : tuple of int
        Time and channel of the largest difference, or of the first NaN.
    not_finite : int
        Elements of the reference that are infinite or NaN.
    ours_not_finite : int
        Elements of ours that are infinite or NaN where the reference is finite.
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
        """Elements compared."""
        return self.rows * self.channels

    @property
    def share(self) -> float:
        """Share of the elements that are over the tolerance."""
        return self.over / self.count

    @property
    def within(self) -> bool:
        """Whether no element is over the tolerance."""
        return self.over == 0


def compare(ours: RealArray, reference: RealArray, tolerance: float) -> Comparison:
    """Compare rows to a reference, in float64 and block by block.

    Parameters
    ----------
    ours, reference : (rows, channels) arrays of real numbers
        May be memory maps.
    tolerance : float
        The largest absolute difference that passes.

    Raises
    ------
    ShapeError
        When the shapes are not the same two dimensions, or there is nothing in them. It is a
        ``ValueError``.
    """
    _require_alike(ours, reference)
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
        # NumPy takes NaN for the largest of all, and the first one found is kept.
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
    """The largest absolute difference in every stretch of time, channel by channel.

    Parameters
    ----------
    ours, reference : (rows, channels) arrays of real numbers
    columns : int
        Stretches, as equal as can be; there are never more than rows.

    Returns
    -------
    (columns or rows, channels) float64
        NaN where there is one in the stretch.

    Raises
    ------
    ShapeError
        As for `compare`.
    """
    _require_alike(ours, reference)
    columns = min(columns, len(ours))
    found = np.zeros((columns, ours.shape[1]))
    for column in range(columns):
        stretch = slice(column * len(ours) // columns, (column + 1) * len(ours) // columns)
        for difference, _ in _blocks(ours[stretch], reference[stretch]):
            found[column] = np.maximum(found[column], difference.max(axis=0))
    return found


def decibels(signal: float, noise: float) -> float:
    """A ratio of powers in dB; infinite where there is no noise."""
    if noise == 0:
        return math.inf
    with np.errstate(all="ignore"):
        return float(10 * np.log10(np.float64(signal) / np.float64(noise)))


def _require_alike(ours: RealArray, reference: RealArray) -> None:
    if ours.ndim != 2 or ours.shape != reference.shape:
        raise ShapeError(f"ours is {ours.shape}, the reference {reference.shape}")
    if ours.size == 0:
        raise ShapeError(f"both are {ours.shape}: there is nothing to compare")


def _blocks(ours: RealArray, reference: RealArray) -> Iterator[tuple[DoubleArray, DoubleArray]]:
    """Absolute differences and the reference, some rows at a time."""
    size = max(1, BLOCK_CELLS // ours.shape[1])
    for first in range(0, len(ours), size):
        rows = slice(first, first + size)
        expected = np.ascontiguousarray(reference[rows], np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(np.asarray(ours[rows], np.float64) - expected)
        yield difference, expected
