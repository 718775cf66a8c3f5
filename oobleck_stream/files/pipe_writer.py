"""Writes audio to standard output while it is computed."""

from __future__ import annotations

import io
import os
from typing import Literal

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.errors import InputError
from oobleck_stream.files.quantization import WIDTHS, Bits, count_clipped, quantized_bytes
from oobleck_stream.files.wav_header import wav_header
from oobleck_stream.formats.atomic import naming

STANDARD_OUTPUT = 1
PipeFormat = Literal["wav", "raw"]


class PipeWriter:
    """Writes samples to standard output. Each block is written immediately.

    Like `AudioWriter`, the writer is a context manager, and it has the same attributes. Samples
    that were written before an exception can't be taken back.

    Parameters
    ----------
    form : {"wav", "raw"}
        ``"wav"`` writes a WAV file. Its header contains the length if `samples` is given. ``"raw"``
        writes only the samples, little-endian and interleaved.
    samplerate : int
        Sample rate in hertz.
    channels : int
        Number of audio channels.
    bits : {"16", "24", "float"}, optional
        Sample format. The default is "16" for ``"wav"`` and "float" for ``"raw"``.
    samples : int, optional
        The number of samples that will be written, if it is known.

    Raises
    ------
    InputError
        If standard output is a terminal.
    """

    path = "standard output"

    def __init__(
        self,
        form: PipeFormat,
        samplerate: int,
        channels: int,
        bits: Bits | None = None,
        samples: int | None = None,
    ) -> None:
        if os.isatty(STANDARD_OUTPUT):
            raise InputError("standard output is a terminal; a file or pipe was expected")
        self.bits: Bits = bits or ("16" if form == "wav" else "float")
        self.samplerate = self.file_samplerate = samplerate
        self.written = self.clipped = 0
        self.peak = 0.0
        self._row = channels * WIDTHS[self.bits]
        self._is_wav = form == "wav"
        # Without a buffer, each block is passed on immediately, and nothing remains to be flushed
        # when the reader closes the pipe.
        self._file = io.FileIO(STANDARD_OUTPUT, "wb", closefd=False)
        if self._is_wav:
            self._put(wav_header(samplerate, channels, WIDTHS[self.bits], samples))

    def write(self, samples: FloatArray) -> None:
        """Write samples.

        Parameters
        ----------
        samples : (n, channels) float32
            Full scale is 1.0.

        Raises
        ------
        InputError
            If a sample is not finite (the message has its index).
        OSError
            If writing fails, for example because the reader has closed the pipe.
        """
        if len(samples) == 0:
            return
        row = first_not_finite(samples)
        if row is not None:
            raise InputError(f"{self.path}: sample {self.written + row} is not finite")
        self.peak = max(self.peak, float(np.abs(samples).max()))
        if self.bits != "float":
            self.clipped += count_clipped(samples)
        self._put(quantized_bytes(samples, self.bits))
        self.written += len(samples)

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        with naming(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def __enter__(self) -> PipeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._is_wav and self.written * self._row % 2:
            self._put(b"\0")
