"""Chooses where `decode` writes each piece: standard output, a file, or a file in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

if TYPE_CHECKING:
    from oobleck_stream.files.audio_writer import AudioWriter
    from oobleck_stream.files.pipe_writer import PipeFormat, PipeWriter
    from oobleck_stream.files.quantization import Bits
    from oobleck_stream.formats.flat_writer import FlatWriter

STANDARD = "-"
PIPE_FORMATS = ("wav", "raw")
FILE_FORMATS = ("wav", "flac", "ogg", "opus", "mp3", "bin")
FORMATS = (*FILE_FORMATS, "raw")
SEPARATORS = tuple(filter(None, ("/", os.sep, os.altsep)))


def destinations(sources: Sequence[str], output: str, form: str | None) -> list[str]:
    """Return the destination of each piece: a file's path, or ``-`` for standard output.

    Parameters
    ----------
    sources : sequence of str
        Names of the files of latents. ``-`` is standard input.
    output : str
        ``-``, a file, or a folder. Several pieces need a folder that exists.
    form : str or None
        One of `FORMATS`, for standard output or for files in a folder. None means ``"wav"``. For a
        single output file it must be None, because the file's name determines the format.

    Raises
    ------
    click.UsageError
        If the output does not suit the number of pieces or the format, or if two pieces would have
        the same destination.
    """
    if len(sources) > 1 and STANDARD in sources:
        raise click.UsageError("- (standard input) can only be decoded alone")
    if output == STANDARD:
        if len(sources) > 1:
            raise click.UsageError("-o -: one piece was expected; several need a folder")
        if form not in (None, *PIPE_FORMATS):
            raise click.UsageError(f"-o -: --format {' or '.join(PIPE_FORMATS)} was expected")
        return [STANDARD]
    ends_as_folder = output.endswith(SEPARATORS)
    names_a_file = Path(output).suffix[1:].lower() in FILE_FORMATS and not ends_as_folder
    if len(sources) == 1 and (names_a_file or not (ends_as_folder or os.path.isdir(output))):
        if form is not None:
            raise click.UsageError(
                "--format is for -o - or a folder; the name of a file says its format"
            )
        return [output]
    if not os.path.isdir(output):
        raise click.UsageError(f"-o {output}: an existing folder was expected")
    if form not in (None, *FILE_FORMATS):
        raise click.UsageError("--format raw is for standard output (-o -)")
    places: dict[str, str] = {}
    for source in sources:
        stem = "stdin" if source == STANDARD else Path(source).stem
        place = os.path.join(output, f"{stem}.{form or 'wav'}")
        if place in places:
            raise click.UsageError(f"{source} and {places[place]} would both become {place}")
        places[place] = source
    return list(places)


def open_destination(
    place: str,
    form: str | None,
    samplerate: int,
    channels: int,
    bits: Bits | None,
    samples: int | None,
) -> AudioWriter | FlatWriter | PipeWriter:
    """Open the writer for a destination.

    Parameters
    ----------
    place : str
        A file, or ``-`` for standard output.
    form : str or None
        The format on standard output; None means WAV.
    samplerate, channels, bits, samples
        As for `AudioWriter`. A flat file uses only `channels`, and has float samples.

    Raises
    ------
    InputError
        If the destination can't be written.
    """
    from oobleck_stream.files.outputs import open_audio_writer
    from oobleck_stream.files.pipe_writer import PipeWriter

    if place != STANDARD:
        return open_audio_writer(place, samplerate, channels, bits, samples)
    pipe_format = cast("PipeFormat", form or "wav")
    return PipeWriter(pipe_format, samplerate, channels, bits, samples)
