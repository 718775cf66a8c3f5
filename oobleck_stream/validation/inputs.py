"""What goes into a network: a whole piece of latents or of sound."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_samples
from oobleck_stream.errors import InputError
from oobleck_stream.files.latents import read_latents
from oobleck_stream.files.layout import Layout


def gathered(blocks: Iterable[FloatArray]) -> FloatArray:
    """Blocks of rows as one array."""
    return np.ascontiguousarray(np.concatenate(list(blocks)))


def filled_up(audio: FloatArray, hop: int) -> FloatArray:
    """Audio with zeros behind it up to a whole frame, as `Model.encode` pads it."""
    return np.pad(audio, ((0, -len(audio) % hop), (0, 0)))


def audio_from_npy(path: Path, channels: int, layout: Layout | None = None) -> FloatArray:
    """The samples (n, channels) of an ``.npy`` file in either layout.

    Parameters
    ----------
    path : Path
        Of shape (samples, channels) or (channels, samples), perhaps with a 1 in front; for one
        channel (samples,) too.
    channels : int
        Audio channels of the network.
    layout : {"tc", "ct"}, optional
        Time first or channels first, where both would fit.

    Raises
    ------
    InputError
        When it can't be read, is of another shape, holds nothing, or a sample is not finite.
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
        raise InputError(f"{path}: holds no samples; at least one was expected")
    try:
        return checked_samples(rows)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
