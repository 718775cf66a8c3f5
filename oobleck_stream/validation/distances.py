"""Measures how far a sound is from a reference, by samples and by spectra.

Each distance is between two arrays (samples, channels) of the same shape.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray

DoubleArray = npt.NDArray[np.float64]

STFT_SIZES = (256, 512, 1024, 2048)
"""Sizes of the windows of `stft_distance`, in samples."""

MEL_BANDS, MEL_SIZE = 80, 2048
"""Number of mel bands, and window size of the underlying spectra in samples."""

QUIET = 1e-5
"""Smaller magnitudes are replaced by this one before the logarithm. In `stft_distance`, it is
relative to the magnitude of a full-scale sine, so it means -100 dB."""

BLOCK_FRAMES = 1024
"""Number of windows that are transformed in one call."""


def si_sdr(reference: FloatArray, sound: FloatArray) -> float:
    """The scale-invariant signal-to-distortion ratio in dB, over all channels.

    It is infinite for equal arrays.
    """
    target, output = (x.astype(np.float64).ravel() for x in (reference, sound))
    if np.array_equal(target, output):
        return np.inf
    projection = target * (output @ target / max(float(target @ target), 1e-20))
    rest = output - projection
    return float(10 * np.log10((projection @ projection) / max(float(rest @ rest), 1e-20)))


def log_mel_distance(reference: FloatArray, sound: FloatArray, samplerate: int) -> float:
    """The mean absolute difference of the logarithms of two mel spectrograms, in dB.

    The filters are triangles of unit area on Slaney's mel scale.
    """
    filters = mel_filters(samplerate, MEL_SIZE, MEL_BANDS)
    first, second = (
        20 * np.log10(np.maximum(magnitudes(x, MEL_SIZE) @ filters.T, QUIET))
        for x in (reference, sound)
    )
    return float(np.abs(first - second).mean())


def stft_distance(reference: FloatArray, sound: FloatArray) -> float:
    """The multi-resolution STFT distance, which is 0 for equal arrays.

    It is a mean over `STFT_SIZES`. The term for each size is the spectral convergence plus the mean
    absolute difference of the magnitudes' natural logarithms (https://arxiv.org/abs/1910.11480).
    """
    distances = []
    for size in STFT_SIZES:
        first, second = magnitudes(reference, size), magnitudes(sound, size)
        convergence = np.linalg.norm(first - second) / max(float(np.linalg.norm(first)), 1e-20)
        floor = QUIET * size / 4  # A sine of full scale has the magnitude size / 4.
        logarithms = np.log(np.maximum(first, floor)) - np.log(np.maximum(second, floor))
        distances.append(convergence + np.abs(logarithms).mean())
    return float(np.mean(distances))


def magnitudes(sound: FloatArray, size: int) -> DoubleArray:
    """The magnitudes of a sound's spectra, with Hann windows a quarter of their size apart.

    Returns
    -------
    (channels * windows, size // 2 + 1) float64
        Before the transform, the sound is padded with zeros to the end of the last window.
    """
    hop = size // 4
    windows = max(0, -(-(len(sound) - size) // hop)) + 1
    padded = np.zeros((sound.shape[1], (windows - 1) * hop + size))
    padded[:, : len(sound)] = sound.T
    frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, ::hop]
    flat = frames.reshape(-1, size) if len(padded) == 1 else np.concatenate(list(frames))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    spectra = np.empty((len(flat), size // 2 + 1))
    for start in range(0, len(flat), BLOCK_FRAMES):
        block = slice(start, start + BLOCK_FRAMES)
        spectra[block] = np.abs(np.fft.rfft(flat[block] * hann))
    return spectra


def mel_filters(samplerate: int, size: int, bands: int) -> DoubleArray:
    """The (bands, size // 2 + 1) mel filters, triangles of unit area up to half the sample rate."""
    step = np.log(6.4) / 27

    def to_hertz(mel: DoubleArray) -> DoubleArray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))

    half = samplerate / 2
    top = 15 + np.log(half / 1000) / step if half > 1000 else 3 * half / 200
    edges = to_hertz(np.linspace(0, top, bands + 2))
    frequencies = np.linspace(0, half, size // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    result: DoubleArray = triangles * (2 / (edges[2:] - edges[:-2]))[:, None]
    return result
