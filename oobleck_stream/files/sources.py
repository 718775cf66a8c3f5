"""Where latents and sound come from: a file, or standard input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from oobleck_stream.files import flat
from oobleck_stream.files.flat_sound import FlatSound
from oobleck_stream.files.latents import LatentFile, read_latents
from oobleck_stream.files.pipe import LatentPipe

if TYPE_CHECKING:
    from oobleck_stream.files.sound import SoundSource

STANDARD_INPUT = "-"

Latents: TypeAlias = LatentFile | LatentPipe


def open_latents(name: str) -> Latents:
    """Open a file of latents, or standard input for ``-``."""
    if name != STANDARD_INPUT:
        return read_latents(name)
    # Unbuffered, so that frames are handed on as they come; a second object over the descriptor,
    # because a thread that waits in sys.stdin holds a lock which Python wants when it ends.
    return LatentPipe(open(0, "rb", buffering=0, closefd=False))


def open_sound(name: str) -> SoundSource | FlatSound:
    """Open a file of sound."""
    if Path(name).suffix.lower() == flat.SUFFIX:
        return FlatSound(name)
    # Only here: latents are read without libsndfile.
    from oobleck_stream.files.sound import SoundSource

    return SoundSource(name)
