"""Audio in memory that a notebook shows as a player."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_samples
from oobleck_stream.files.outputs import open_audio_writer
from oobleck_stream.files.quantization import Bits, count_clipped, quantized

MAX_CHANNELS = 8
"""Maximum number of channels. The player's audio is FLAC, which has at most 8 channels."""


class Sound:
    """Audio that a notebook shows as a player, if it is the last value of a cell.

    Parameters
    ----------
    samples : (n, channels) or (n,) array_like of real numbers, or callable
        The audio, with full scale 1.0, or a function that takes no arguments and returns the audio.
        The function is called when the samples are first needed.
    samplerate : int
        Samples per second.

    Attributes
    ----------
    samplerate : int

    Raises
    ------
    ValueError
        If the samples are not finite, have a wrong shape, or have more than 8 channels. If
        `samples` is a function, this error is raised when the samples are first needed.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model = ob.load("tiny")
    >>> sound = ob.Sound(model.decode(ob.piece("keys")[:1000]), model.samplerate)
    >>> sound
    Sound(1.45 s, 44100 Hz stereo)
    >>> sound.samples.shape
    (64000, 2)
    >>> sound.save("keys.flac")
    """

    def __init__(self, samples: Any, samplerate: int) -> None:
        self.samplerate = samplerate
        self._source: Callable[[], Any] = samples if callable(samples) else lambda: samples
        if not callable(samples):
            _ = self.samples

    @functools.cached_property
    def samples(self) -> FloatArray:
        """The audio, (n, channels) float32."""
        array = np.asarray(self._source())
        rows = array[:, np.newaxis] if array.ndim == 1 else array
        if rows.ndim != 2 or not 1 <= rows.shape[1] <= MAX_CHANNELS or rows.dtype.kind not in "fiu":
            raise ValueError(
                f"real samples of shape (n, channels) with 1 to {MAX_CHANNELS} channels were "
                f"expected, not {array.dtype} of shape {array.shape}"
            )
        return checked_samples(rows)

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return len(self.samples) / self.samplerate

    def save(self, path: str | Path, bits: Bits | None = None) -> None:
        """Write an audio file.

        Parameters
        ----------
        path : str or Path
            The suffix selects the format: .wav, .flac, .ogg, .opus, .mp3 or .bin.
        bits : {"16", "24", "float"}, optional
            Sample format. The default is "16" for WAV and FLAC files. All other formats have only
            "float".

        Raises
        ------
        InputError
            If the file can't be written, or if the format does not have the sample format `bits`.
            This error is a ``ValueError``.
        """
        channels, count = self.samples.shape[1], len(self.samples)
        with open_audio_writer(str(path), self.samplerate, channels, bits, count) as writer:
            writer.write(self.samples)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.samples.astype(dtype or np.float32, copy=bool(copy))
        if copy is False and array is not self.samples:
            raise ValueError(f"the samples are float32: {array.dtype} needs a copy")
        return array

    def __repr__(self) -> str:
        if "samples" not in self.__dict__:
            return f"Sound({self.samplerate} Hz, decoded when it is needed)"
        return f"Sound({self._caption()})"

    def _caption(self) -> str:
        channels = self.samples.shape[1]
        kind = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
        return f"{self.seconds:.2f} s, {self.samplerate} Hz {kind}"

    def _repr_html_(self) -> str:
        """Return HTML for IPython: a player with the audio embedded as 16-bit FLAC."""
        caption = self._caption()
        clipped = count_clipped(self.samples)
        if clipped:
            caption += f", {clipped} samples clipped"
        if len(self.samples) == 0:
            return f"<small>{caption}</small>"
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, quantized(self.samples, "16"), self.samplerate, format="FLAC")
        data = base64.b64encode(file.getvalue()).decode("ascii")
        return (
            f'<audio controls src="data:audio/flac;base64,{data}"></audio><br>'
            f"<small>{caption}</small>"
        )
