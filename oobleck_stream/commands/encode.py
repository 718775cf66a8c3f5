"""`oobleck_stream encode`: an audio file to latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.options import convolution_option, model_option, threads_option

if TYPE_CHECKING:
    from oobleck_stream.arrays import FloatArray
    from oobleck_stream.config import Convolution
    from oobleck_stream.files.audio_reader import AudioFile, FlatAudio
    from oobleck_stream.model import Model


@click.command()
@click.argument("audio", shell_complete=files)
@click.argument("latents", shell_complete=files)
@model_option
@click.option(
    "--sample",
    is_flag=True,
    help="Draw the latents from their distributions instead of taking the means.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0),
    help="Random seed for --sample. [default: a new seed each time]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float32",
    show_default=True,
    help="dtype of the stored latents. A .bin file is always float32.",
)
@convolution_option
@threads_option
def encode(
    audio: str,
    latents: str,
    model: str | None,
    sample: bool,
    seed: int | None,
    dtype: str,
    convolution: Convolution | None,
    threads: int | None,
) -> None:
    """Encode the file AUDIO to the file LATENTS.

    AUDIO may be a WAV, FLAC, Ogg or MP3 file, a file in any other format that libsndfile reads, or
    a .bin file. With the extra av, it may also be an M4A file or a video. LATENTS is an .npy file
    of shape (frames, latent size), or a .bin file.

    AUDIO is resampled to the network's sample rate. Mono is copied to all channels of the network,
    and stereo is averaged for a mono network; other numbers of channels are refused. The last frame
    is padded with zeros.
    """
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.commands.progress import Progress
    from oobleck_stream.encoder import StreamingEncoder
    from oobleck_stream.files.outputs import open_latent_writer, refuse_input
    from oobleck_stream.files.sources import open_audio, overflow_named

    if seed is not None and not sample:
        raise click.UsageError("--seed requires --sample")
    source = open_audio(audio)
    refuse_input(latents, audio)
    network = chosen_model(model, convolution=convolution)
    blocks = audio_blocks(network, source)
    encoder = StreamingEncoder(network, threads, sample, seed)
    with open_latent_writer(latents, network.latent_dim, dtype) as writer:
        warm_kernels()
        length = source.length(network.samplerate)
        with Progress(network.samplerate, length) as progress, overflow_named(source.name):
            for block in blocks:
                writer.write(encoder.push(block))
                progress.add(len(block))
            writer.write(encoder.flush())
    click.echo(
        f"{latents}: {writer.written} frames of {network.latent_dim}, "
        f"{encoder.samples_in / network.samplerate:.1f} s, {progress.speed:.1f} x real time",
        err=True,
    )


def audio_blocks(model: Model, source: AudioFile | FlatAudio) -> Iterator[FloatArray]:
    """Read audio in blocks, converted to the sample rate and channels of a model.

    A message reports the conversions.

    Yields
    ------
    (n, channels) float32

    Raises
    ------
    InputError
        If the audio can't be converted. If the file is damaged, the error is raised while the
        blocks are read.
    """
    blocks = source.blocks(model.samplerate, model.channels)
    changes = source.changes(model.samplerate, model.channels)
    if changes:
        click.echo(f"{source.name}: {', '.join(changes)}", err=True)
    return blocks
