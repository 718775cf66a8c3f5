"""Converts pieces of latents or audio, and batches of such pieces, to time-first order.

The rest of the library takes pieces with time first. Functions for whole pieces also accept pieces
with channels first, as in torch, and batches of pieces, if the sizes of the axes are unambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.checks import real_array
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.warning import warn_once

_AXIS: dict[AxisOrder, int] = {"tc": -1, "ct": -2}
"""For each order, the axis of the latent dimensions or of the audio channels."""


@dataclass(frozen=True)
class _Words:
    """Words for messages: the array's name, its verb, its time axis, and any accepted 1-D shape."""

    name: str
    verb: str
    time: str
    alone: str = ""

    def axes(self, order: AxisOrder, size: int, batch: bool) -> str:
        """The axes of an array as a text, such as ``(batch, 64, frames)``."""
        names = [self.time, str(size)] if order == "tc" else [str(size), self.time]
        return f"({', '.join(['batch', *names] if batch else names)})"


def pieces_of_latents(
    latents: Any, latent_dim: int, layout: AxisOrder | None = None
) -> npt.NDArray[Any]:
    """Check the shape and dtype of whole pieces of latents; return them with time first.

    Parameters
    ----------
    latents : array_like
        A piece, (frames, latent_dim) or (latent_dim, frames); a batch of such pieces, with one more
        axis in front; or a single frame, (latent_dim,).
    latent_dim : int
        Numbers per latent frame.
    layout : {"tc", "ct"} or None
        ``"tc"`` for time first, ``"ct"`` for channels first. By default the order is inferred from
        the shape. A 2-D array that fits both orders is read with time first.

    Returns
    -------
    (frames, latent_dim) or (batch, frames, latent_dim) array of real numbers

    Raises
    ------
    ValueError
        If the shape is wrong, if a batch fits both orders, or if the dtype is not real.
    """
    array = real_array(latents, "latents")
    if array.shape == (latent_dim,):
        array = array[np.newaxis]
    words = _Words("latents", "were", "frames", f"({latent_dim},) for one frame")
    return _time_first(array, latent_dim, layout, words)


def pieces_of_audio(audio: Any, channels: int, layout: AxisOrder | None = None) -> npt.NDArray[Any]:
    """Check the shape and dtype of whole pieces of audio; return them with time first.

    As `pieces_of_latents`, with samples instead of frames. For one channel, (samples,) is accepted
    too.
    """
    array = real_array(audio, "audio")
    if array.ndim == 1 and channels == 1:
        array = array[:, np.newaxis]
    words = _Words("audio", "was", "samples", "(samples,)" if channels == 1 else "")
    return _time_first(array, channels, layout, words)


def _time_first(
    array: npt.NDArray[Any], size: int, layout: AxisOrder | None, words: _Words
) -> npt.NDArray[Any]:
    if layout not in (None, "tc", "ct"):
        raise ValueError(
            f"layout must be 'tc' (time first), 'ct' (channels first) or None, not {layout!r}"
        )
    asked: tuple[AxisOrder, ...] = ("tc", "ct") if layout is None else (layout,)
    batch = array.ndim == 3
    fitting = [
        order for order in asked if array.ndim in (2, 3) and array.shape[_AXIS[order]] == size
    ]
    if not fitting:
        known = [words.axes(order, size, False) for order in asked] + [words.alone] * bool(
            words.alone
        )
        known += [words.axes(order, size, True) for order in asked]
        raise ValueError(
            f"{words.name} of shape {', '.join(known[:-1])} or {known[-1]} {words.verb} expected, "
            f"not {array.shape}"
        )
    if len(fitting) == 2 and batch and size > 1:
        readings = " or ".join(words.axes(order, size, batch) for order in fitting)
        raise ValueError(
            f"{words.name} of shape {array.shape} may be {readings}: layout='tc' or layout='ct' "
            "decides"
        )
    if fitting[0] == "tc":
        return array
    if layout is None:
        axes = words.axes("ct", size, batch)
        warn_once(f"{words.name} {words.verb} read as {axes}, channels first; layout='ct' says so")
    return array.swapaxes(-1, -2)
