"""Whether the rows that enter and leave a network are finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def first_not_finite(rows: npt.NDArray[Any]) -> int | None:
    """Number of the first row that holds an infinity or a NaN; None when all rows are finite.

    Parameters
    ----------
    rows : (n, m) array of floating-point numbers
    """
    finite = np.isfinite(rows)
    if finite.all():
        return None
    return int(finite.all(axis=1).argmin())


def samples_not_finite(frame: int, context: int, frames: int) -> str:
    """A sentence for decoded samples that are not finite although all latents are.

    Parameters
    ----------
    frame : int
        The first frame whose samples are not finite.
    context : int
        Frames on each side that a frame's samples depend on.
    frames : int
        Number of frames so far.
    """
    first, last = max(0, frame - context), min(frame + context, frames - 1)
    return (
        f"the samples of frame {frame} are not finite: latents among frames {first} to {last} are "
        "so large that float32 overflows"
    )


def latents_not_finite(frame: int, hop: int) -> str:
    """A sentence for an encoded latent frame that is not finite although all sound is.

    Parameters
    ----------
    frame : int
        The first frame that is not finite.
    hop : int
        Samples for each frame.
    """
    return (
        f"latent frame {frame} is not finite: the sound around sample {frame * hop} is so large "
        "that float32 overflows"
    )
