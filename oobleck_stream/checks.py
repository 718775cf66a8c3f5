"""Checks of the shape, dtype and finiteness of latents and audio, and their error messages.

A function that checks the shape returns an array of any real dtype, often a memory map. Separate
functions convert to float32, so that callers can convert in blocks.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray, as_array

CHECK_FRAMES = 4096
"""Number of latent frames converted to float32 at a time, when a long array is checked."""

CHECK_SAMPLES = 2**17
"""Number of samples converted to float32 at a time, when a long array is checked."""


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a Python or NumPy integer. True and False do not count as integers."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def checked_latents(latents: Any, latent_dim: int) -> npt.NDArray[Any]:
    """Check the shape and dtype of the latents of one stream.

    Parameters
    ----------
    latents : array_like
        (frames, latent_dim), or (latent_dim,) for one frame.
    latent_dim : int
        Numbers per latent frame.

    Returns
    -------
    (frames, latent_dim) array of real numbers

    Raises
    ------
    ValueError
        If the shape is wrong or the dtype is not real.
    """
    array = real_array(latents, "latents")
    if array.ndim == 1 and array.shape[0] == latent_dim:
        array = array[np.newaxis]
    if array.ndim != 2 or array.shape[1] != latent_dim:
        raise ValueError(
            f"latents of shape (frames, {latent_dim}) were expected, or ({latent_dim},) for one "
            f"frame, not {array.shape}{_advice(array, latent_dim, 'latents')}"
        )
    return array


def checked_batch(latents: Any, streams: int, latent_dim: int) -> npt.NDArray[Any]:
    """Check the shape and dtype of the latents of several streams.

    Parameters
    ----------
    latents : array_like
        (streams, frames, latent_dim), or (streams, latent_dim) for one frame of each stream.
    streams : int
        Number of streams.
    latent_dim : int
        Numbers per latent frame.

    Returns
    -------
    (streams, frames, latent_dim) array of real numbers

    Raises
    ------
    ValueError
        If the shape is wrong or the dtype is not real.
    """
    array = real_array(latents, "latents")
    if array.shape == (streams, latent_dim):
        array = array[:, np.newaxis]
    if array.ndim != 3 or (array.shape[0], array.shape[2]) != (streams, latent_dim):
        raise ValueError(
            f"latents of shape ({streams}, frames, {latent_dim}) were expected, or ({streams}, "
            f"{latent_dim}) for one frame of each stream, not {array.shape}"
        )
    return array


def checked_audio(audio: Any, channels: int) -> npt.NDArray[Any]:
    """Check the shape and dtype of audio.

    Parameters
    ----------
    audio : array_like
        The shape is (samples, channels). For one channel, (samples,) is accepted too.
    channels : int
        Audio channels of the network.

    Returns
    -------
    (samples, channels) array of real numbers

    Raises
    ------
    ValueError
        If the shape is wrong or the dtype is not real.
    """
    array = real_array(audio, "audio")
    if array.ndim == 1 and channels == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or array.shape[1] != channels:
        mono = " or (samples,)" if channels == 1 else ""
        raise ValueError(
            f"audio of shape (samples, {channels}){mono} was expected, not {array.shape}"
            f"{_advice(array, channels, 'audio')}"
        )
    return array


def _advice(array: npt.NDArray[Any], size: int, name: str) -> str:
    """Return a hint how to push a channels-first array or a batch; else an empty string."""
    if array.ndim not in (2, 3) or size not in array.shape[-2:]:
        return ""
    part = name if array.ndim == 2 else f"{name}[0]"
    return f": push {part}" if array.shape[-1] == size else f": push {part}.T"


def real_array(values: Any, name: str) -> npt.NDArray[Any]:
    """Convert an array of any library to NumPy; raise ``ValueError`` if the dtype is not real."""
    array = as_array(values)
    # NumPy sees the bfloat16 of JAX and other libraries as a void type, but converts it to float32.
    if array.dtype.kind not in "fiub" and not _converts(array.dtype):
        raise ValueError(f"{name} must be real numbers, not {array.dtype}")
    return array


def _converts(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "V" and dtype.names is None and np.can_cast(dtype, np.float32)


def finite_rows(array: npt.NDArray[Any], first: int, name: str, row: str) -> FloatArray:
    """Convert rows to float32, and check that they are finite.

    Parameters
    ----------
    array : (n, m) array of real numbers
    first : int
        Index of the array's first row, for the message.
    name, row : str
        Names of the array and of one of its rows, for the message.

    Returns
    -------
    (n, m) float32, C-contiguous

    Raises
    ------
    ValueError
        If a value is not finite as float32. The message names the first such row.
    """
    with np.errstate(over="ignore"):
        rows: FloatArray = np.ascontiguousarray(array, np.float32)
    index = first_not_finite(rows)
    if index is not None:
        raise ValueError(f"{name} must be finite as float32: {row} {first + index} is not")
    return rows


def checked_frames(array: npt.NDArray[Any], first: int = 0) -> FloatArray:
    """Call `finite_rows` for latent frames (frames, latent_dim)."""
    return finite_rows(array, first, "latents", "frame")


def checked_samples(array: npt.NDArray[Any], first: int = 0) -> FloatArray:
    """Call `finite_rows` for audio (samples, channels)."""
    return finite_rows(array, first, "audio", "sample")


def checked_index(frame: object) -> int:
    """Return the index of a frame; raise ``ValueError`` unless it is an integer of at least 0."""
    if not is_whole(frame) or frame < 0:
        raise ValueError(f"frame must be a whole number from 0, not {frame!r}")
    return int(frame)


def first_not_finite(rows: npt.NDArray[Any]) -> int | None:
    """Index of the first row that contains an infinity or a NaN; None if all rows are finite.

    Parameters
    ----------
    rows : (n, m) array of floating-point numbers
    """
    finite = np.isfinite(rows)
    if finite.all():
        return None
    return int(finite.all(axis=1).argmin())


def decoder_overflow(frame: int, context: int, frames: int) -> str:
    """The error message for finite latents that decode to samples that are not finite.

    Parameters
    ----------
    frame : int
        Index of the first frame whose samples are not finite.
    context : int
        Number of frames on each side that a frame's samples depend on.
    frames : int
        Number of frames pushed so far.
    """
    first, last = max(0, frame - context), min(frame + context, frames - 1)
    return (
        f"the samples of frame {frame} are not finite: latents among frames {first} to {last} are "
        "so large that float32 overflows"
    )


def encoder_overflow(frame: int, hop: int) -> str:
    """The error message for finite audio that encodes to a latent frame that is not finite.

    Parameters
    ----------
    frame : int
        Index of the first frame that is not finite.
    hop : int
        Samples per latent frame.
    """
    return (
        f"latent frame {frame} is not finite: the sound around sample {frame * hop} is so large "
        "that float32 overflows"
    )
