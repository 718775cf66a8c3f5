"""Infers which axis of stored latents is time, from the size of a latent frame."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from oobleck_stream.errors import InputError

AxisOrder = Literal["tc", "ct"]
"""Time first (frames, channels), or channels first (channels, frames)."""


def matrix_shape(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """The shape without a batch axis of size 1.

    Parameters
    ----------
    shape : tuple of int
        The stored shape: (frames, latent_dim) or (latent_dim, frames), optionally with a leading 1.
    name : str
        The source's name in error messages.

    Raises
    ------
    InputError
        If the shape, without such a leading 1, does not have two axes.
    """
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2:
        raise InputError(
            f"{name}: latents of one piece were expected, 2-D or (1, ..., ...), "
            f"not an array of shape {shape}"
        )
    return shape[0], shape[1]


def fits(shape: tuple[int, ...], latent_dim: int, name: str) -> bool:
    """Whether either of the two axes has the size of a latent frame."""
    return latent_dim in matrix_shape(shape, name)


def time_first(
    shape: tuple[int, ...], latent_dim: int, layout: AxisOrder | None, name: str
) -> tuple[int, bool]:
    """Return the number of frames, and whether the time axis is the first axis.

    Parameters
    ----------
    shape : tuple of int
        As for `matrix_shape`.
    latent_dim : int
        Numbers in a latent frame.
    layout : {"tc", "ct"} or None
        The axis order. None means that it is inferred from `latent_dim`.
    name : str
        The source's name in error messages.

    Raises
    ------
    InputError
        If neither axis has the size `latent_dim`, or if both axes have it and `layout` is None.
    """
    first, second = matrix_shape(shape, name)
    if layout is None and first == second == latent_dim:
        raise InputError(
            f"{name}: shape {shape} may be (frames, {latent_dim}) or ({latent_dim}, frames); "
            "--layout tc or --layout ct decides"
        )
    is_time_first = layout == "tc" or (layout is None and second == latent_dim)
    frames, size = (first, second) if is_time_first else (second, first)
    if size != latent_dim:
        wanted = {
            None: f"(frames, {latent_dim}) or ({latent_dim}, frames)",
            "tc": f"(frames, {latent_dim})",
            "ct": f"({latent_dim}, frames)",
        }[layout]
        raise InputError(f"{name}: latents of shape {wanted} were expected, not {shape}")
    return frames, is_time_first


def frames_view(
    array: npt.NDArray[Any], latent_dim: int, layout: AxisOrder | None, name: str
) -> npt.NDArray[Any]:
    """View stored latents as (frames, latent_dim), whatever their axis order."""
    _, is_time_first = time_first(array.shape, latent_dim, layout, name)
    flat = array.reshape(array.shape[-2:])
    return flat if is_time_first else flat.T


def flat_frames(
    numbers: npt.NDArray[Any], size: int, layout: AxisOrder | None, name: str, what: str
) -> npt.NDArray[Any]:
    """View numbers without a shape as (frames, size).

    Parameters
    ----------
    numbers : (n,) array
    size : int
        Numbers in a frame.
    layout : {"tc", "ct"} or None
        The axis order. None means channels first.
    name, what : str
        For error messages: the name of the source, and what `size` counts, such as "channels".

    Raises
    ------
    InputError
        If the length of `numbers` is not a multiple of `size`.
    """
    if len(numbers) % size:
        raise InputError(
            f"{name}: its {len(numbers)} numbers do not divide into frames of {size} {what}"
        )
    return numbers.reshape(-1, size) if layout == "tc" else numbers.reshape(size, -1).T
