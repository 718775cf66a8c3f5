"""`oobleck_stream decode`: latents to an audio file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.options import (
    backend_option,
    bits_option,
    convolution_option,
    layout_option,
    model_for_latents_option,
    threads_option,
)

if TYPE_CHECKING:
    from oobleck_stream.config import Convolution
    from oobleck_stream.files.audio_writer import AudioWriter, Bits
    from oobleck_stream.files.axis_order import AxisOrder
    from oobleck_stream.formats.flat_writer import FlatWriter


@click.command()
@click.argument("latents")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="Write this audio file: .wav, .flac, .ogg or .bin.",
)
@model_for_latents_option
@layout_option
@threads_option
@backend_option
@convolution_option
@bits_option
def decode(
    latents: str,
    output: str,
    model: str | None,
    layout: AxisOrder | None,
    threads: int | None,
    backend: str,
    convolution: Convolution | None,
    bits: Bits | None,
) -> None:
    """Decode LATENTS to an audio file.

    LATENTS is a .npy, .npz, .safetensors or .bin file, or - for standard input, which may be an
    .npy stream or raw float32 frames. A .bin file contains the number of values (int32), then the
    values (float32) in the order (channels, time). --layout tc reads LATENTS as (time, channels).
    """
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.commands.progress import Progress
    from oobleck_stream.decoder import StreamingDecoder
    from oobleck_stream.files.outputs import open_audio_writer, refuse_input
    from oobleck_stream.files.sources import open_latents, overflow_named

    source = open_latents(latents)
    refuse_input(output, latents)
    network = chosen_model(model, source, backend, convolution)
    blocks = source.blocks(network.latent_dim, layout)
    frames = source.count(network.latent_dim, layout)
    samples = None if frames is None else network.decoded_length(frames)
    with open_audio_writer(output, network.samplerate, network.channels, bits, samples) as writer:
        warm_kernels(backend=network.backend)
        decoder = StreamingDecoder(network, threads)
        with Progress(network.samplerate, samples) as progress, overflow_named(source.name):
            for chunk in decoder.stream(blocks):
                writer.write(chunk)
                progress.add(len(chunk))
    report_audio(writer, network.samplerate, progress.speed)


def report_audio(writer: AudioWriter | FlatWriter, samplerate: int, speed: float) -> None:
    """Print the length of the file, the speed, and how many samples were clipped.

    Parameters
    ----------
    writer : AudioWriter or FlatWriter
        The writer, which is already closed.
    samplerate : int
    speed : float
        Seconds of audio per second.
    """
    from oobleck_stream.formats.flat_writer import FlatWriter

    click.echo(
        f"{writer.path}: {writer.written / samplerate:.1f} s, {samplerate} Hz, "
        f"{speed:.1f} x real time",
        err=True,
    )
    if not isinstance(writer, FlatWriter) and writer.clipped:
        click.echo(
            f"{writer.path}: {writer.clipped} samples clipped: the peak is {writer.peak:.2f} of "
            "full scale (--bits float keeps them)",
            err=True,
        )
