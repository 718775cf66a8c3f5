"""A generator in a process of its own, whose frames are played while they come.

    python demos/generate.py | oobleck_stream play - --model tiny

Frames leave as raw float32, a few at a time and in real time, as a model of latents would send
them: here a walk through the bundled pieces that repeats, reverses and freezes them at random.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import click
import numpy as np

import oobleck_stream as ob

FRAME_RATE = 44100 / 64
LEAD_SECONDS = 0.5
"""How far the generator runs ahead of real time."""


def walk(seed: int) -> Iterator[np.ndarray]:
    """Phrases of the pieces: as they are, backwards, or one moment held.

    Yields
    ------
    (n, latent_dim) float32
    """
    generator = np.random.default_rng(seed)
    while True:
        piece = ob.piece(str(generator.choice(list(ob.PIECES))))
        length = int(generator.integers(200, 900))
        start = int(generator.integers(0, len(piece) - length))
        phrase = piece[start : start + length].astype(np.float32)
        kind = generator.choice(["forwards", "backwards", "held"], p=[0.6, 0.25, 0.15])
        if kind == "backwards":
            phrase = phrase[::-1]
        elif kind == "held":
            phrase = np.repeat(phrase[::8], 8, axis=0)
        yield phrase


@click.command()
@click.option("--seconds", default=30.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--fast", is_flag=True, help="As fast as the pipe takes them, not in real time.")
def main(seconds: float, seed: int, fast: bool) -> None:
    """Write frames for the bundled network to standard output."""
    if sys.stdout.isatty():
        raise click.ClickException("frames are not for a terminal: pipe them into the player")
    start, sent, wanted = time.monotonic(), 0, int(seconds * FRAME_RATE)
    try:
        for phrase in walk(seed):
            for first in range(0, len(phrase), 16):
                block = phrase[first : first + 16][: wanted - sent]
                sys.stdout.buffer.write(np.ascontiguousarray(block, "<f4").tobytes())
                sys.stdout.buffer.flush()
                sent += len(block)
                if sent >= wanted:
                    return
                ahead = sent / FRAME_RATE - (time.monotonic() - start)
                if not fast and ahead > LEAD_SECONDS:
                    time.sleep(ahead - LEAD_SECONDS)
    except BrokenPipeError:
        # The player has ended. Nothing is left to be flushed at exit.
        sys.stdout = None  # type: ignore[assignment]


if __name__ == "__main__":
    main()
