"""Reads stored arrays as rows (time, channels), whatever the axis order in the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_reader import AudioFile
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.files.latents_reader import read_latents
from oobleck_stream.formats.flat import SUFFIX as FLAT
from oobleck_stream.formats.flat import read_flat
from oobleck_stream.validation.comparison import RealArray

Shape = tuple[int, int]


def shape_text(shapes: Sequence[Shape]) -> str:
    """Format the shapes that a file's array may have, for messages."""
    return " or ".join(
        f"({rows}, {channels}) or (1, {channels}, {rows})" for rows, channels in shapes
    )


def read_rows(
    path: Path,
    shapes: Sequence[Shape],
    layout: AxisOrder | None = None,
    any_length: bool = False,
) -> RealArray:
    """Read rows of a known shape from a file.

    Parameters
    ----------
    path : Path
        An ``.npy`` file with either axis order, a flat ``.bin`` file with channels first, or an
        audio file.
    shapes : sequence of (rows, channels)
        The accepted shapes.
    layout : {"tc", "ct"}, optional
        Time first or channels first. It is needed if an ``.npy`` file of two dimensions could be
        either.
    any_length : bool
        Whether any number of rows is accepted.

    Returns
    -------
    (rows, channels) array of real numbers
        The rows, which are often a memory map.

    Raises
    ------
    InputError
        If the file can't be read, or has another shape. The message names both shapes.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        stored = read_latents(path).array
    else:
        stored = read_flat(path) if suffix == FLAT else _samples(path)
    if any_length:
        shapes = [(stored.size // channels, channels) for _, channels in shapes]
    if suffix == ".npy":
        return _time_first(stored, shapes, layout, path)
    if suffix == FLAT:
        return _from_flat(stored, shapes, path)
    if stored.shape not in shapes:
        expected = " or ".join(f"{rows} samples of {count}" for rows, count in shapes)
        rows, count = stored.shape
        raise InputError(f"{path}: {expected} channels were expected, not {rows} of {count}")
    return stored


def _time_first(
    array: RealArray, shapes: Sequence[Shape], layout: AxisOrder | None, path: Path
) -> RealArray:
    """View an array with time first.

    If an array has a leading axis of size 1 and both orders fit, the order is assumed to be
    PyTorch's, (1, channels, time).
    """
    flat, channels_first = array, layout == "ct"
    if array.ndim == 3 and len(array) == 1:
        flat, channels_first = array[0], True
    elif array.ndim == 1:
        flat = array[:, None]
    for rows, channels in shapes:
        if flat.shape == (rows, channels) == (channels, rows):
            if layout is None and array.ndim == 2:
                raise InputError(
                    f"{path}: shape {array.shape} may be time first or channels first; "
                    "--layout tc or --layout ct decides"
                )
            return flat.T if channels_first else flat
        if flat.shape == (rows, channels):
            return flat
        if flat.shape == (channels, rows):
            return flat.T
    raise InputError(f"{path}: shape {shape_text(shapes)} was expected, not {array.shape}")


def _from_flat(numbers: RealArray, shapes: Sequence[Shape], path: Path) -> RealArray:
    """View flat numbers, which are stored channels first, as rows."""
    for rows, channels in shapes:
        if len(numbers) == rows * channels:
            return numbers.reshape(channels, rows).T
    counts = " or ".join(f"{channels} x {rows} = {channels * rows}" for rows, channels in shapes)
    raise InputError(f"{path}: {counts} numbers were expected, not {len(numbers)}")


def _samples(path: Path) -> RealArray:
    """Read the samples of an audio file without conversion."""
    import numpy as np

    source = AudioFile(path)
    return np.concatenate(list(source.blocks(source.samplerate, source.channels)))
