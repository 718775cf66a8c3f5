"""The bundled pieces, as latents for the network ``tiny``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_FOLDER = Path(__file__).parent / "data" / "pieces"

PIECES = {
    "keys": "electric piano and bass",
    "plucked": "guitar and harp",
    "groove": "drums and bass",
    "pads": "strings and choir",
}
"""Maps the name of each bundled piece to its instruments."""


def piece(name: str) -> npt.NDArray[Any]:
    """Load the latents of a bundled piece, for the network ``tiny``.

    Parameters
    ----------
    name : str
        A key of `PIECES`.

    Returns
    -------
    (frames, latent_dim) float16

    Raises
    ------
    ValueError
        If there is no such piece. The message lists the names of all pieces.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> list(ob.PIECES)
    ['keys', 'plucked', 'groove', 'pads']
    >>> ob.piece("keys").shape
    (9995, 24)
    """
    if name not in PIECES:
        raise ValueError(f"unknown piece {name!r}; the pieces are: {', '.join(PIECES)}")
    latents: npt.NDArray[Any] = np.load(_FOLDER / f"{name}.npy", allow_pickle=False)
    return latents
