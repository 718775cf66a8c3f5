"""Checks of latent frames on their way in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.finite import first_not_finite

CHECK_FRAMES = 4096


def checked_shape(latents: Any, latent_dim: int) -> npt.NDArray[Any]:
    """Latents as an array (frames, latent_dim) of real numbers, or ``ValueError``.

    Parameters
    ----------
    latents : array_like
        (latent_dim,) for one frame, or (frames, latent_dim).
    latent_dim : int
    """
    array = np.asarray(latents)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"latents must be real numbers, not {array.dtype}")
    if array.ndim == 1 and array.shape[0] == latent_dim:
        array = array[np.newaxis]
    if array.ndim != 2 or array.shape[1] != latent_dim:
        raise ValueError(
            f"latents of shape (frames, {latent_dim}) were expected, or ({latent_dim},) for one "
            f"frame, not {array.shape}"
        )
    return array


def checked_batch(latents: Any, streams: int, latent_dim: int) -> npt.NDArray[Any]:
    """Latents of several streams as an array (streams, frames, latent_dim), or ``ValueError``.

    Parameters
    ----------
    latents : array_like
        (streams, latent_dim) for one frame each, or (streams, frames, latent_dim).
    streams, latent_dim : int
    """
    array = np.asarray(latents)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"latents must be real numbers, not {array.dtype}")
    if array.shape == (streams, latent_dim):
        array = array[:, np.newaxis]
    if array.ndim != 3 or (array.shape[0], array.shape[2]) != (streams, latent_dim):
        raise ValueError(
            f"latents of shape ({streams}, frames, {latent_dim}) were expected, or ({streams}, "
            f"{latent_dim}) for one frame of each stream, not {array.shape}"
        )
    return array


def checked_frames(array: npt.NDArray[Any], first: int = 0) -> FloatArray:
    """Frames as float32 in C order; ``ValueError`` names the first frame that is not finite.

    Parameters
    ----------
    array : (frames, latent_dim) array of real numbers
    first : int
        Number of its first frame, for the message.
    """
    return finite_rows(array, first, "latents", "frame")


def finite_rows(array: npt.NDArray[Any], first: int, what: str, row: str) -> FloatArray:
    """Rows as float32 in C order; ``ValueError`` names the first row that is not finite."""
    with np.errstate(over="ignore"):
        rows: FloatArray = np.ascontiguousarray(array, np.float32)
    number = first_not_finite(rows)
    if number is not None:
        raise ValueError(f"{what} must be finite as float32: {row} {first + number} is not")
    return rows
