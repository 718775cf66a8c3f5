"""`oobleck_stream demo`: play the bundled network, and show that streaming is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.options import threads_option

if TYPE_CHECKING:
    import numpy.typing as npt

    from oobleck_stream.model import Model

DEFAULT = "keys"


@click.command()
@click.argument("name", metavar="[PIECE]", default=DEFAULT)
@click.option("--list", "list_pieces", is_flag=True, help="List the pieces and exit.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=files,
    help="Write an audio file (.wav, .flac, .ogg, .opus or .mp3) instead of playing.",
)
@threads_option
def demo(name: str, list_pieces: bool, output: str | None, threads: int | None) -> None:
    """Play a bundled PIECE, and show that streaming is exact.

    Without an audio device, the piece is written to a .wav file instead. Afterwards the piece is
    decoded twice, frame by frame and as a whole, and the samples are compared.
    """
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.errors import OutputError
    from oobleck_stream.loading import load
    from oobleck_stream.pieces import PIECES, piece

    if list_pieces:
        for known, description in PIECES.items():
            click.echo(f"{known:10s} {description}")
        return
    if name not in PIECES:
        raise click.BadParameter(f"{name!r} is not one of {', '.join(PIECES)}", param_hint="PIECE")
    model, latents = load("tiny"), piece(name)
    warm_kernels()
    if output is None:
        try:
            play(model, latents, name, threads)
        except OutputError as error:
            output = f"oobleck_stream-{name}.wav"
            click.echo(f"can't play ({error}): writing {output} instead")
    if output is not None:
        write(model, latents, output, threads)
    compare(model, latents, threads)


def play(model: Model, latents: npt.NDArray[Any], name: str, threads: int | None) -> None:
    """Play a piece to its end."""
    from oobleck_stream.player.player import Player

    with Player(latents, model, threads=threads) as player:
        click.echo(f"playing {name}, {player.length:.1f} s, on {player.device.name}")
        player.play()
        player.wait()


def write(model: Model, latents: npt.NDArray[Any], output: str, threads: int | None) -> None:
    """Decode a piece to an audio file."""
    from oobleck_stream.decoder import StreamingDecoder
    from oobleck_stream.files.audio_writer import AudioWriter

    decoder = StreamingDecoder(model, threads)
    with AudioWriter(output, model.samplerate, model.channels) as writer:
        writer.write(decoder.push(latents))
        writer.write(decoder.flush())
    click.echo(f"{output}: {writer.seconds:.1f} s, {model.samplerate} Hz")


def compare(model: Model, latents: npt.NDArray[Any], threads: int | None) -> None:
    """Decode a piece frame by frame and as a whole. Exit with status 1 if any sample differs."""
    import numpy as np

    from oobleck_stream.decoder import StreamingDecoder

    streamed = np.concatenate(list(StreamingDecoder(model, threads).stream(latents)))
    same = np.array_equal(streamed, model.decode(latents, threads=threads))
    click.echo(
        f"{len(latents)} frames pushed one by one and decoded at once: {len(streamed)} samples, "
        f"identical: {'yes' if same else 'NO'}"
    )
    if not same:
        raise click.exceptions.Exit(1)
