"""`oobleck_stream roundtrip`: encode and decode an audio file, and measure the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.options import bits_option, model_option, threads_option

if TYPE_CHECKING:
    from oobleck_stream.arrays import FloatArray
    from oobleck_stream.decoder import StreamingDecoder
    from oobleck_stream.encoder import StreamingEncoder
    from oobleck_stream.files.quantization import Bits


@click.command()
@click.argument("audio", shell_complete=files)
@click.argument("output", shell_complete=files)
@model_option
@bits_option
@threads_option
def roundtrip(
    audio: str, output: str, model: str | None, bits: Bits | None, threads: int | None
) -> None:
    """Encode AUDIO and decode it again to OUTPUT.

    The command prints the scale-invariant signal-to-distortion ratio (SI-SDR) of the result. Like
    `encode`, it first converts AUDIO to the sample rate and channels of the network. OUTPUT is a
    .wav, .flac, .ogg, .opus, .mp3 or .bin file with the sample rate, channels and length of the
    converted audio.
    """
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.commands.decode import report_audio
    from oobleck_stream.commands.encode import audio_blocks
    from oobleck_stream.commands.progress import Progress
    from oobleck_stream.decoder import StreamingDecoder
    from oobleck_stream.encoder import StreamingEncoder
    from oobleck_stream.files.outputs import open_audio_writer, refuse_input
    from oobleck_stream.files.sources import open_audio, overflow_named

    source = open_audio(audio)
    refuse_input(output, audio)
    network = chosen_model(model)
    blocks = audio_blocks(network, source)
    encoder, decoder = StreamingEncoder(network, threads), StreamingDecoder(network, threads)
    si_sdr = SiSdr()
    samples = source.length(network.samplerate)
    with open_audio_writer(output, network.samplerate, network.channels, bits, samples) as writer:
        warm_kernels()
        with Progress(network.samplerate, samples) as progress, overflow_named(source.name):
            for before, after in roundtrip_blocks(encoder, decoder, blocks):
                si_sdr.add(before, after)
                writer.write(after)
                progress.add(len(after))
    report_audio(writer, network.samplerate, progress.speed)
    ratio = si_sdr.decibels
    click.echo("SI-SDR undefined for silence" if math.isnan(ratio) else f"SI-SDR {ratio:.2f} dB")


def roundtrip_blocks(
    encoder: StreamingEncoder, decoder: StreamingDecoder, blocks: Iterable[FloatArray]
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Encode and decode audio as a stream.

    Yields
    ------
    before, after : (n, channels) float32
        The next samples of the input, and the corresponding samples of the output. All blocks of
        the output, concatenated, are as long as the input.
    """
    import numpy as np

    waiting = np.empty((0, encoder.channels), np.float32)
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        decoded = decoder.push(encoder.push(block))
        yield waiting[: len(decoded)], decoded
        waiting = waiting[len(decoded) :]
    decoded = np.concatenate([decoder.push(encoder.flush()), decoder.flush()])[: len(waiting)]
    # With an odd stride, a network decodes to a few samples less than frames * hop.
    missing = len(waiting) - len(decoded)
    yield waiting, np.pad(decoded, ((0, missing), (0, 0)))


class SiSdr:
    """Scale-invariant signal-to-distortion ratio, accumulated over blocks of samples.

    See https://arxiv.org/abs/1811.02508.
    """

    def __init__(self) -> None:
        self._before = self._after = self._both = 0.0

    def add(self, before: FloatArray, after: FloatArray) -> None:
        """Add the next samples of the original, and the corresponding samples of the result.

        Parameters
        ----------
        before, after : (n, channels) float32
        """
        import numpy as np

        x, y = (samples.astype(np.float64).ravel() for samples in (before, after))
        self._before += float(x @ x)
        self._after += float(y @ y)
        self._both += float(x @ y)

    @property
    def decibels(self) -> float:
        """The ratio in dB. It is NaN if either signal is silent."""
        if self._before == 0 or self._after == 0:
            return math.nan
        # The energy of the result's projection onto the original, and the energy of the rest.
        signal = self._both**2 / self._before
        noise = self._after - signal
        if signal == 0:
            return -math.inf
        return 10 * math.log10(signal / noise) if noise > 0 else math.inf
