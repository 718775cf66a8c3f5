"""Stored arrays as rows: which of their axes is time."""

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
    """The shapes in which some rows may stand in a file."""
    return " or ".join(
        f"({rows}, {channels}) or (1, {channels}, {rows})" for rows, channels in shapes
    )


def read_rows(path: Path, shapes: Sequence[Shape], layout: AxisOrder | None = None) -> RealArray:
    """Rows of a known shape from a file.

    Parameters
    ----------
    path : Path
        ``.npy`` in either layout; ``.bin``, which is flat, channels first; else a sound file.
    shapes : sequence of (rows, channels)
        Those that are possible.
    layout : {"tc", "ct"}, optional
        Time first or channels first, where an ``.npy`` of two dimensions may be either.

    Returns
    -------
    (rows, channels) array of real numbers
        Often a memory map.

    Raises
    ------
    InputError
        When it can't be read, or is of another shape; names both.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _turned(read_latents(path).array, shapes, layout, path)
    if suffix == FLAT:
        return _shaped(read_flat(path), shapes, path)
    return _samples(path, shapes)


def _turned(
    array: RealArray, shapes: Sequence[Shape], layout: AxisOrder | None, path: Path
) -> RealArray:
    """An array as a view with time first; a batch of one is in PyTorch's order where both fit."""
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


def _shaped(numbers: RealArray, shapes: Sequence[Shape], path: Path) -> RealArray:
    """Flat numbers, channels first, as a view with time first."""
    for rows, channels in shapes:
        if len(numbers) == rows * channels:
            return numbers.reshape(channels, rows).T
    counts = " or ".join(f"{channels} x {rows} = {channels * rows}" for rows, channels in shapes)
    raise InputError(f"{path}: {counts} numbers were expected, {len(numbers)} are there")


def _samples(path: Path, shapes: Sequence[Shape]) -> RealArray:
    """The samples of a sound file as they are."""
    import numpy as np

    source = AudioFile(path)
    found = (source.samples, source.channels)
    if found not in shapes:
        expected = " or ".join(f"{rows} samples of {count}" for rows, count in shapes)
        raise InputError(f"{path}: {expected} channels were expected, not {found[0]} of {found[1]}")
    return np.concatenate(list(source.blocks(source.samplerate, source.channels)))
