"""Morph live between two pieces while they play.

    python demos/morph.py [--seconds 20] [--record morph.wav]

Each frame is mixed when it is needed, from two pieces of the bundled network, by a weight that
swings slowly to and fro, or that the keys set: 0 to 9, then Return. With a quarter of the network's
look-ahead, a change is heard within a tenth of a second; the recording is exact all the same.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Iterator

import click
import numpy as np

import oobleck_stream as ob

SWING_SECONDS = 4.0
BLOCK = 8
"""Frames that are mixed at once: 12 ms."""


class Weight:
    """How much of the second piece is heard, from 0 to 1: a slow swing, until a key sets it."""

    def __init__(self) -> None:
        self._set: float | None = None
        threading.Thread(target=self._read_keys, daemon=True).start()

    def _read_keys(self) -> None:
        # Not through `sys.stdin`, whose lock this thread would hold when the interpreter exits.
        while data := os.read(0, 1024):
            text = data.decode(errors="replace").split()
            if text and text[-1].isdigit():
                self._set = min(int(text[-1]), 9) / 9

    def at(self, seconds: float) -> float:
        """The weight at a time from the beginning."""
        if self._set is not None:
            return self._set
        return 0.5 - 0.5 * math.cos(2 * math.pi * seconds / SWING_SECONDS)


def morph(
    first: str, second: str, seconds: float, frame_rate: float, weight: Weight
) -> Iterator[np.ndarray]:
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
        share = np.float32(weight.at(start / frame_rate))
        one, other = (piece[frames % len(piece)] for piece in pieces)
        yield (1 - share) * one + share * other


@click.command()
@click.option("--from", "first", default="keys", type=click.Choice(list(ob.PIECES)))
@click.option("--to", "second", default="pads", type=click.Choice(list(ob.PIECES)))
@click.option("--seconds", default=20.0, show_default=True)
@click.option(
    "--look-ahead",
    default=0.25,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the network's look-ahead.",
)
@click.option("--record", metavar="OUT.wav", help="Also write the exact sound.")
def main(first: str, second: str, seconds: float, look_ahead: float, record: str | None) -> None:
    """Morph live between two pieces of the bundled network."""
    model = ob.load("tiny")
    frames = morph(first, second, seconds, model.config.frame_rate, Weight())
    samples = round(look_ahead * model.latency)
    try:
        with ob.Player(frames, model, look_ahead=samples, record=record) as player:
            click.echo(
                f"from {first} to {second} and back, {seconds:g} s, look-ahead {samples} samples; "
                "0 to 9 and Return set the mixture, Ctrl-C ends it"
            )
            player.play()
            player.wait()
    except ValueError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
