"""Checks of audio on its way in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.latents import finite_rows

CHECK_SAMPLES = 2**17


def checked_audio(audio: Any, channels: int) -> npt.NDArray[Any]:
    """Audio as an array (samples, channels) of real numbers, or ``ValueError``.

    Parameters
    ----------
    audio : array_like
        (samples, channels); for one channel (samples,) too.
    channels : int
        Audio channels of the network.
    """
    array = np.asarray(audio)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"audio must be real numbers, not {array.dtype}")
    if array.ndim == 1 and channels == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or array.shape[1] != channels:
        mono = " or (samples,)" if channels == 1 else ""
        raise ValueError(
            f"audio of shape (samples, {channels}){mono} was expected, not {array.shape}"
        )
    return array


def checked_samples(array: npt.NDArray[Any], first: int = 0) -> FloatArray:
    """Samples as float32 in C order; ``ValueError`` names the first that is not finite.

    Parameters
    ----------
    array : (samples, channels) array of real numbers
    first : int
        Number of its first sample, for the message.
    """
    return finite_rows(array, first, "audio", "sample")
