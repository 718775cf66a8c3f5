"""Chooses the writer of audio or latents by the name of the output."""

from __future__ import annotations

import os
from pathlib import Path

from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_writer import SUBTYPES, AudioWriter
from oobleck_stream.files.latents_writer import LatentWriter
from oobleck_stream.files.quantization import Bits
from oobleck_stream.formats import flat
from oobleck_stream.formats.flat_writer import FlatWriter


def open_audio_writer(
    name: str, samplerate: int, channels: int, bits: Bits | None = None, samples: int | None = None
) -> AudioWriter | FlatWriter:
    """Open a writer of audio. The parameters and errors are those of `AudioWriter`."""
    suffix = _known_suffix(name, (*SUBTYPES, flat.SUFFIX))
    if suffix != flat.SUFFIX:
        return AudioWriter(name, samplerate, channels, bits, samples)
    if bits not in (None, "float"):
        raise InputError(f"{name}: {flat.SUFFIX} files have float samples, not {bits} bits")
    return FlatWriter(name, channels)


def open_latent_writer(
    name: str, latent_dim: int, dtype: str = "float32"
) -> LatentWriter | FlatWriter:
    """Open a writer of latents. The parameters and errors are those of `LatentWriter`."""
    suffix = _known_suffix(name, (".npy", flat.SUFFIX))
    if suffix != flat.SUFFIX:
        return LatentWriter(name, latent_dim, dtype)
    if dtype != "float32":
        raise InputError(f"{name}: {flat.SUFFIX} files hold float32, not {dtype}")
    return FlatWriter(name, latent_dim)


def refuse_input(output: str, source: str) -> None:
    """Refuse to overwrite the input.

    Raises
    ------
    InputError
        If both names refer to the same file.
    """
    if os.path.realpath(output) == os.path.realpath(source):
        raise InputError(f"{output}: is the input itself; another file was expected")


def _known_suffix(name: str, known: tuple[str, ...]) -> str:
    """Return the suffix of a name in lower case. An `InputError` reports an unknown suffix."""
    suffix = Path(name).suffix.lower()
    if suffix not in known:
        endings = f"{', '.join(known[:-1])} or {known[-1]}"
        raise InputError(f"{name}: a name ending in {endings} was expected")
    return suffix
