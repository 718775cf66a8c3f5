"""`oobleck_stream encode`: a sound file into latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.options import network_option, threads_option

if TYPE_CHECKING:
    from oobleck_stream.arrays import FloatArray
    from oobleck_stream.files.audio_reader import AudioFile, FlatAudio
    from oobleck_stream.model import Model


@click.command()
@click.argument("sound")
@click.argument("latents")
@network_option
@click.option("--sample", is_flag=True, help="Draw from the distributions; else their means.")
@click.option("--seed", type=click.IntRange(0), help="Of --sample. [default: another every time]")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float32",
    show_default=True,
    help="Of the numbers in the file.",
)
@threads_option
def encode(
    sound: str,
    latents: str,
    model: str | None,
    sample: bool,
    seed: int | None,
    dtype: str,
    threads: int | None,
) -> None:
    """Encode SOUND (WAV, FLAC, OGG, MP3...) into LATENTS: .npy of (frames, latent size), or .bin.

    A sound of another sample rate is resampled (with soxr). Mono is given to all channels of the
    network, stereo becomes mono as the mean of both channels; other differences are refused. Zeros
    fill up the last frame.
    """
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.commands.progress import Progress
    from oobleck_stream.encoder import StreamingEncoder
    from oobleck_stream.files.outputs import open_latent_writer, refuse_input
    from oobleck_stream.files.sources import open_audio, overflow_named

    if seed is not None and not sample:
        raise click.UsageError("--seed is of use only with --sample")
    source = open_audio(sound)
    refuse_input(latents, sound)
    network = chosen_model(model)
    blocks = sound_for(network, source)
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


def sound_for(model: Model, source: AudioFile | FlatAudio) -> Iterator[FloatArray]:
    """The blocks of a sound as a model wants them; says what is done to it."""
    blocks = source.blocks(model.samplerate, model.channels)
    changes = source.changes(model.samplerate, model.channels)
    if changes:
        click.echo(f"{source.name}: {', '.join(changes)}", err=True)
    return blocks
