"""Where sound and latents go: the writer that a file's name asks for."""

from __future__ import annotations

import os
from pathlib import Path

from oobleck_stream.errors import InputError
from oobleck_stream.files import flat
from oobleck_stream.files.audio import SUBTYPES, AudioWriter, Bits
from oobleck_stream.files.flat_writer import FlatWriter
from oobleck_stream.files.latent_writer import LatentWriter


def sound_writer(
    name: str, samplerate: int, channels: int, bits: Bits | None = None, samples: int | None = None
) -> AudioWriter | FlatWriter:
    """A writer of sound; parameters and errors as those of `AudioWriter`."""
    suffix = _suffix(name, (*SUBTYPES, flat.SUFFIX))
    if suffix != flat.SUFFIX:
        return AudioWriter(name, samplerate, channels, bits, samples)
    if bits not in (None, "float"):
        raise InputError(f"{name}: {flat.SUFFIX} files have samples of float bits, not {bits}")
    return FlatWriter(name, channels)


def latent_writer(name: str, latent_dim: int, dtype: str = "float32") -> LatentWriter | FlatWriter:
    """A writer of latents; parameters and errors as those of `LatentWriter`."""
    suffix = _suffix(name, (".npy", flat.SUFFIX))
    if suffix != flat.SUFFIX:
        return LatentWriter(name, latent_dim, dtype)
    if dtype != "float32":
        raise InputError(f"{name}: {flat.SUFFIX} files hold float32, not {dtype}")
    return FlatWriter(name, latent_dim)


def refuse_input(output: str, source: str) -> None:
    """Refuse to write where the input is read from.

    Raises
    ------
    InputError
        When both names are those of one file.
    """
    if os.path.realpath(output) == os.path.realpath(source):
        raise InputError(f"{output}: is the input itself; another file was expected")


def _suffix(name: str, known: tuple[str, ...]) -> str:
    """What a name ends in, which has to be one of those known."""
    suffix = Path(name).suffix.lower()
    if suffix not in known:
        endings = f"{', '.join(known[:-1])} or {known[-1]}"
        raise InputError(f"{name}: a name ending in {endings} was expected")
    return suffix
