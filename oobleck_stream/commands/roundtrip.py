"""`oobleck_stream roundtrip`: what encoding and decoding make of a sound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.options import network_option, threads_option

if TYPE_CHECKING:
    from oobleck_stream.arrays import FloatArray
    from oobleck_stream.decoder import StreamingDecoder
    from oobleck_stream.encoder import StreamingEncoder
    from oobleck_stream.files.audio_writer import Bits


@click.command()
@click.argument("sound")
@click.argument("output")
@network_option
@click.option(
    "--bits",
    type=click.Choice(["16", "24", "float"]),
    help="Of a sample; float (WAV only) is exact and never clips. [default: 16]",
)
@threads_option
def roundtrip(
    sound: str, output: str, model: str | None, bits: Bits | None, threads: int | None
) -> None:
    """Encode SOUND and decode it again into OUTPUT (.wav, .flac, .ogg, .bin), which is as long.

    Prints the scale-invariant signal-to-distortion ratio against the input. Sample rate and
    channels of SOUND are made those of the network as `encode` does, and OUTPUT has them too.
    """
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.commands.decode import tell_sound
    from oobleck_stream.commands.encode import sound_for
    from oobleck_stream.commands.progress import Progress
    from oobleck_stream.decoder import StreamingDecoder
    from oobleck_stream.encoder import StreamingEncoder
    from oobleck_stream.files.outputs import open_audio_writer, refuse_input
    from oobleck_stream.files.sources import open_audio, overflow_named

    source = open_audio(sound)
    refuse_input(output, sound)
    network = chosen_model(model)
    blocks = sound_for(network, source)
    encoder, decoder = StreamingEncoder(network, threads), StreamingDecoder(network, threads)
    likeness = Likeness()
    samples = source.length(network.samplerate)
    with open_audio_writer(output, network.samplerate, network.channels, bits, samples) as writer:
        warm_kernels()
        with Progress(network.samplerate, samples) as progress, overflow_named(source.name):
            for before, after in before_and_after(encoder, decoder, blocks):
                likeness.add(before, after)
                writer.write(after)
                progress.add(len(after))
    tell_sound(writer, network.samplerate, progress.speed)
    ratio = likeness.decibels
    click.echo("SI-SDR undefined for silence" if math.isnan(ratio) else f"SI-SDR {ratio:.2f} dB")


def before_and_after(
    encoder: StreamingEncoder, decoder: StreamingDecoder, blocks: Iterable[FloatArray]
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Sound, and what comes back from encoding and decoding it, piece by piece.

    Yields
    ------
    before, after : (n, channels) float32
        Put together, as long as the sound.
    """
    import numpy as np

    waiting = np.empty((0, encoder.channels), np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        decoded = decoder.push(encoder.push(block))
        yield waiting[: len(decoded)], decoded
        waiting = waiting[len(decoded) :]
    decoded = np.concatenate([decoder.push(encoder.flush()), decoder.flush()])[: len(waiting)]
    # A network with an odd stride gives a few samples less than its frames have.
    missing = len(waiting) - len(decoded)
    yield waiting, np.pad(decoded, ((0, missing), (0, 0)))


class Likeness:
    """Scale-invariant signal-to-distortion ratio of a sound that comes in pieces."""

    def __init__(self) -> None:
        self._before = self._after = self._both = 0.0

    def add(self, before: FloatArray, after: FloatArray) -> None:
        """Take in some samples, and what became of them."""
        import numpy as np

        x, y = (samples.astype(np.float64).ravel() for samples in (before, after))
        self._before += float(x @ x)
        self._after += float(y @ y)
        self._both += float(x @ y)

    @property
    def decibels(self) -> float:
        """Of the part of the result that is the input, over the rest; nan for silence."""
        if self._before == 0 or self._after == 0:
            return math.nan
        signal = self._both**2 / self._before
        noise = self._after - signal
        if signal == 0:
            return -math.inf
        return 10 * math.log10(signal / noise) if noise > 0 else math.inf
