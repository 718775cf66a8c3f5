"""The input of a validation: a whole piece of latents or audio."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_samples
from oobleck_stream.errors import InputError
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.files.latents_reader import read_latents


def concatenate(blocks: Iterable[FloatArray]) -> FloatArray:
    """Concatenate blocks of rows."""
    return np.ascontiguousarray(np.concatenate(list(blocks)))


def pad_to_hop(audio: FloatArray, hop: int) -> FloatArray:
    """Append zeros up to a whole number of frames, as `Model.encode` does."""
    return np.pad(audio, ((0, -len(audio) % hop), (0, 0)))


def audio_from_npy(path: Path, channels: int, layout: AxisOrder | None = None) -> FloatArray:
    """Read the samples (n, channels) of an ``.npy`` file with either axis order.

    Parameters
    ----------
    path : Path
        The file. Its array has the shape (samples, channels) or (channels, samples), optionally
        with a leading 1. For one channel, the shape (samples,) is accepted too.
    channels : int
        Audio channels of the network.
    layout : {"tc", "ct"}, optional
        Time first or channels first. It is needed if the shape fits both.

    Raises
    ------
    InputError
        If the file can't be read, if it has another shape or is empty, or if a sample is not
        finite.
    """
    stored = read_latents(path).array
    array = stored[0] if stored.ndim == 3 and len(stored) == 1 else stored
    if array.ndim == 1 and channels == 1:
        array = array[:, np.newaxis]
    fits = {
        "tc": array.ndim == 2 and array.shape[-1] == channels,
        "ct": array.ndim == 2 and array.shape[0] == channels,
    }
    possible = [name for name, fit in fits.items() if fit and layout in (None, name)]
    if not possible:
        raise InputError(
            f"{path}: audio of shape (samples, {channels}) or ({channels}, samples) was expected, "
            f"not {stored.shape}" + (f" with --layout {layout}" if layout else "")
        )
    if len(possible) > 1 and array.shape[0] != 1:
        raise InputError(
            f"{path}: shape {stored.shape} may be time first or channels first; "
            "--layout tc or --layout ct decides"
        )
    rows = array if possible[0] == "tc" else array.T
    if len(rows) == 0:
        raise InputError(f"{path}: has no samples; at least one was expected")
    try:
        return checked_samples(rows)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
