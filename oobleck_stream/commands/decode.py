"""`oobleck_stream decode`: latents to audio files, or to standard output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.destinations import FORMATS, STANDARD, destinations, open_destination
from oobleck_stream.commands.options import (
    backend_option,
    bits_option,
    convolution_option,
    layout_option,
    length_option,
    model_for_latents_option,
    start_option,
    threads_option,
)

if TYPE_CHECKING:
    from oobleck_stream.arrays import FloatArray
    from oobleck_stream.config import Convolution
    from oobleck_stream.decoder import StreamingDecoder
    from oobleck_stream.files.audio_writer import AudioWriter
    from oobleck_stream.files.axis_order import AxisOrder
    from oobleck_stream.files.excerpt import Excerpt
    from oobleck_stream.files.pipe_writer import PipeWriter
    from oobleck_stream.files.quantization import Bits
    from oobleck_stream.files.sources import Latents
    from oobleck_stream.formats.flat_writer import FlatWriter
    from oobleck_stream.model import Model


@click.command()
@click.argument("latents", nargs=-1, required=True, shell_complete=files)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE|FOLDER|-",
    shell_complete=files,
    help="An audio file (.wav, .flac, .ogg, .opus, .mp3 or .bin), a folder in which each piece "
    "becomes a file, or - for standard output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Format of standard output (wav or raw) or of the files in a folder. [default: wav]",
)
@start_option
@length_option
@model_for_latents_option
@layout_option
@threads_option
@backend_option
@convolution_option
@bits_option
def decode(
    latents: tuple[str, ...],
    output: str,
    form: str | None,
    start: float,
    length: float | None,
    model: str | None,
    layout: AxisOrder | None,
    threads: int | None,
    backend: str,
    convolution: Convolution | None,
    bits: Bits | None,
) -> None:
    """Decode LATENTS to audio.

    LATENTS are .npy, .npz, .safetensors or .bin files, or - for standard input, which may be an
    .npy stream or raw float32 frames. A .bin file contains the number of values (int32), then the
    values (float32) in the order (latent size, frames), or (frames, latent size) with --layout tc.

    Several LATENTS need a folder as output. Those that can't be decoded are reported, and the
    others are decoded. --start and --length select a part of the audio; its samples are the same as
    in the whole piece. Raw samples are little-endian and interleaved. They are float32 unless
    --bits says otherwise.
    """
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.errors import InputError
    from oobleck_stream.files.outputs import refuse_input
    from oobleck_stream.files.sources import open_latents

    places = destinations(latents, output, form)
    models: dict[str | None, Model] = {}

    def opened(name: str) -> tuple[Latents, Model]:
        source = open_latents(name)
        named = model or source.metadata.get("model")
        if named is None or named not in models:
            models[named] = chosen_model(model, source, backend, convolution)
        source.count(models[named].latent_dim, layout)
        return source, models[named]

    for place in places:
        for name in latents:
            if STANDARD not in (place, name):
                refuse_input(place, name)
    if len(latents) > 1:
        for name in latents:
            opened(name)  # Report an invalid header of any file before decoding the first one.
    failed = 0
    for name, place in zip(latents, places, strict=True):
        source, network = opened(name)
        warm_kernels(backend=network.backend)
        try:
            decode_piece(source, network, place, form, start, length, layout, threads, bits)
        except InputError as error:
            if len(latents) == 1:
                raise
            click.echo(f"oobleck_stream: {error}", err=True)
            failed += 1
    if failed:
        raise InputError(f"{failed} of {len(latents)} pieces could not be decoded")


def decode_piece(
    source: Latents,
    model: Model,
    place: str,
    form: str | None,
    start: float,
    length: float | None,
    layout: AxisOrder | None,
    threads: int | None,
    bits: Bits | None,
) -> None:
    """Decode a piece, or a part of it, to a destination that `destinations` has returned.

    The parameters after `place` are the options of `decode`.

    Raises
    ------
    InputError
        If the latents can't be used, if `place` can't be written, or if the piece ends before
        `start`.
    """
    from oobleck_stream.commands.progress import Progress
    from oobleck_stream.decoder import StreamingDecoder
    from oobleck_stream.errors import InputError
    from oobleck_stream.files.excerpt import Excerpt
    from oobleck_stream.files.sources import overflow_named

    excerpt = Excerpt.of(model.samplerate, start, length)
    blocks = source.blocks(model.latent_dim, layout)
    frames = source.count(model.latent_dim, layout)
    whole = None if frames is None else model.decoded_length(frames)
    excerpt.require_within(whole, model.samplerate, source.name)
    end = excerpt.end_in(whole)
    samples = None if end is None or whole is None else end - excerpt.begin
    rate, channels = model.samplerate, model.channels
    with open_destination(place, form, rate, channels, bits, samples) as writer:
        decoder = StreamingDecoder(model, threads)
        with Progress(rate, samples) as progress, overflow_named(source.name):
            for chunk in excerpt_chunks(decoder, blocks, excerpt):
                writer.write(chunk)
                progress.add(len(chunk))
        if writer.written == 0 and excerpt.begin > 0:
            raise InputError(f"{source.name}: ends before {start:g} s: there is nothing to decode")
    report_audio(writer, rate, progress.speed)


def excerpt_chunks(
    decoder: StreamingDecoder, blocks: Iterable[FloatArray], excerpt: Excerpt
) -> Iterator[FloatArray]:
    """Yield the samples of a part of a piece, decoding only the frames that they depend on.

    Parameters
    ----------
    decoder : StreamingDecoder
    blocks : iterable of (n, latent_dim) arrays
        The frames of the whole piece. Blocks after the last needed frame are not read.
    excerpt : Excerpt

    Yields
    ------
    (k, channels) float32
    """
    frame, dropped = divmod(excerpt.begin, decoder.hop)
    wanted = _from_frame(blocks, decoder.seek(frame))
    position = excerpt.begin - dropped
    for chunk in decoder.stream(wanted):
        first = max(excerpt.begin, position)
        last = position + len(chunk) if excerpt.end is None else excerpt.end
        yield chunk[first - position : max(first, last) - position]
        position += len(chunk)
        if excerpt.end is not None and position >= excerpt.end:
            return


def _from_frame(blocks: Iterable[FloatArray], first: int) -> Iterator[FloatArray]:
    """Yield the frames from index `first` on."""
    for block in blocks:
        if first < len(block):
            yield block[first:]
        first = max(0, first - len(block))


def report_audio(
    writer: AudioWriter | FlatWriter | PipeWriter, samplerate: int, speed: float
) -> None:
    """Print the length of the output, the speed, and how many samples were clipped.

    Parameters
    ----------
    writer : AudioWriter, FlatWriter or PipeWriter
        The writer, which is already closed.
    samplerate : int
    speed : float
        Seconds of audio decoded per second.
    """
    from oobleck_stream.formats.flat_writer import FlatWriter

    file_rate = samplerate if isinstance(writer, FlatWriter) else writer.file_samplerate
    resampled = "" if file_rate == samplerate else f" (resampled from {samplerate} Hz)"
    click.echo(
        f"{writer.path}: {writer.written / samplerate:.1f} s, {file_rate} Hz{resampled}, "
        f"{speed:.1f} x real time",
        err=True,
    )
    if not isinstance(writer, FlatWriter) and writer.clipped:
        click.echo(
            f"{writer.path}: {writer.clipped} samples clipped: the peak is {writer.peak:.2f} of "
            "full scale (--bits float keeps them)",
            err=True,
        )
