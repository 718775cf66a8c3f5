"""Which axis of stored latents is time, told from the size of a latent frame."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from oobleck_stream.errors import InputError

Layout = Literal["tc", "ct"]


def plane(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """The two axes that are not a batch of one.

    Parameters
    ----------
    shape : tuple of int
        As stored: (frames, latent_dim) or (latent_dim, frames), perhaps with a 1 in front.
    name : str
        Where the latents stand, for the message.
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
    """Whether one of the two axes has the size of a latent frame."""
    return latent_dim in plane(shape, name)


def time_first(
    shape: tuple[int, ...], latent_dim: int, layout: Layout | None, name: str
) -> tuple[int, bool]:
    """Number of frames, and whether the time axis comes first.

    Parameters
    ----------
    shape : tuple of int
        As for `plane`.
    latent_dim : int
        Numbers in a latent frame.
    layout : {"tc", "ct"} or None
        Time first or channels first; None tells them apart by `latent_dim`.
    name : str
        For the message.

    Raises
    ------
    InputError
        When the latent size fits neither axis, or both and no layout is given.
    """
    first, second = plane(shape, name)
    if layout is None and first == second == latent_dim:
        raise InputError(
            f"{name}: shape {shape} may be (frames, {latent_dim}) or ({latent_dim}, frames); "
            "--layout tc or --layout ct decides"
        )
    time_leads = layout == "tc" or (layout is None and second == latent_dim)
    frames, size = (first, second) if time_leads else (second, first)
    if size != latent_dim:
        wanted = {
            None: f"(frames, {latent_dim}) or ({latent_dim}, frames)",
            "tc": f"(frames, {latent_dim})",
            "ct": f"({latent_dim}, frames)",
        }[layout]
        raise InputError(f"{name}: latents of shape {wanted} were expected, not {shape}")
    return frames, time_leads


def frames_view(
    array: npt.NDArray[Any], latent_dim: int, layout: Layout | None, name: str
) -> npt.NDArray[Any]:
    """Stored latents as a view (frames, latent_dim), whatever their layout."""
    _, time_leads = time_first(array.shape, latent_dim, layout, name)
    flat = array.reshape(array.shape[-2:])
    return flat if time_leads else flat.T


def flat_frames(
    numbers: npt.NDArray[Any], size: int, layout: Layout | None, name: str, what: str
) -> npt.NDArray[Any]:
    """Numbers without a shape as a view (frames, size).

    Parameters
    ----------
    numbers : (n,) array
    size : int
        Numbers in a frame.
    layout : {"tc", "ct"} or None
        Channels first unless it says otherwise.
    name, what : str
        Where they stand, and what `size` counts, for the message.

    Raises
    ------
    InputError
        When they make no whole number of frames.
    """
    if len(numbers) % size:
        raise InputError(f"{name}: its {len(numbers)} numbers are no whole frames of {size} {what}")
    return numbers.reshape(-1, size) if layout == "tc" else numbers.reshape(size, -1).T
