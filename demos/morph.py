"""Morph live between two pieces while they play.

    python demos/morph.py [--seconds 20] [--record morph.wav]

Each frame is mixed when it is needed, from two pieces of the bundled network, by a weight that
swings slowly to and fro: what is heard is made as it is heard.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import click
import numpy as np

import oobleck_stream as ob

SWING_SECONDS = 4.0
BLOCK = 32
"""Frames that are mixed at once: 46 ms."""


def morph(first: str, second: str, seconds: float, frame_rate: float) -> Iterator[np.ndarray]:
    """Blocks of frames on the way from one piece to the other and back.

    Yields
    ------
    (BLOCK, latent_dim) float32
    """
    pieces = [ob.piece(name).astype(np.float32) for name in (first, second)]
    for start in itertools.count(step=BLOCK):
        if start >= seconds * frame_rate:
            return
        frames = np.arange(start, start + BLOCK)
        time = frames / frame_rate
        weight = (0.5 - 0.5 * np.cos(2 * math.pi * time / SWING_SECONDS))[:, np.newaxis]
        one, other = (piece[frames % len(piece)] for piece in pieces)
        yield (1 - weight) * one + weight * other


@click.command()
@click.option("--from", "first", default="keys", type=click.Choice(list(ob.PIECES)))
@click.option("--to", "second", default="pads", type=click.Choice(list(ob.PIECES)))
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--record", metavar="OUT.wav", help="Also write what is played.")
def main(first: str, second: str, seconds: float, record: str | None) -> None:
    """Morph live between two pieces of the bundled network."""
    model = ob.load("tiny")
    frames = morph(first, second, seconds, model.config.frame_rate)
    try:
        with ob.Player(frames, model, record=record) as player:
            click.echo(f"from {first} to {second} and back, {seconds:g} s; Ctrl-C ends it")
            player.play()
            player.wait()
    except ValueError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
