"""Where latents come from: a file, or standard input."""

from __future__ import annotations

from typing import TypeAlias

from oobleck_stream.files.latents import LatentFile, read_latents
from oobleck_stream.files.pipe import LatentPipe

STANDARD_INPUT = "-"

Latents: TypeAlias = LatentFile | LatentPipe


def open_latents(name: str) -> Latents:
    """Open a file of latents, or standard input for ``-``."""
    if name != STANDARD_INPUT:
        return read_latents(name)
    # Unbuffered, so that frames are handed on as they come; a second object over the descriptor,
    # because a thread that waits in sys.stdin holds a lock which Python wants when it ends.
    return LatentPipe(open(0, "rb", buffering=0, closefd=False))
