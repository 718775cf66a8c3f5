"""Measures of how far a reconstruction lies from its original (NumPy and SciPy alone).

Audio has shape (samples, channels); both arrays must have the same shape.
"""

import numpy as np
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

LOG_FLOOR = 1e-5
STFT_SIZES = (256, 512, 1024, 2048)


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Return the scale-invariant signal-to-distortion ratio in decibels, over all channels.

    Parameters
    ----------
    reference, estimate : numpy.ndarray
        The original and its reconstruction, shape (samples, channels).

    Returns
    -------
    float
        The ratio of the projection of the estimate on the reference to what is left over.
    """
    target = reference.astype(np.float64).ravel()
    output = estimate.astype(np.float64).ravel()
    projection = target * (output @ target / max(float(target @ target), 1e-20))
    residual = output - projection
    return float(10 * np.log10((projection @ projection) / max(float(residual @ residual), 1e-20)))


def magnitudes(audio: np.ndarray, size: int) -> np.ndarray:
    """Return STFT magnitudes of shape (channels, bins, frames), Hann window, hop a quarter."""
    transform = ShortTimeFFT(hann(size, sym=False), hop=size // 4, fs=1.0, scale_to=None)
    return np.abs(transform.stft(audio.T.astype(np.float64)))


def mel_filters(sample_rate: int, size: int, bands: int = 80) -> np.ndarray:
    """Return triangular mel filters of unit area in hertz, shape (bands, bins).

    The scale is Slaney's: linear up to 1 kHz, logarithmic above; 0 Hz to half the sample rate.

    Parameters
    ----------
    sample_rate : int
        Samples per second.
    size : int
        Length of the Fourier transform.
    bands : int
        Number of filters.

    Returns
    -------
    numpy.ndarray
        One row of weights per band.
    """
    step = np.log(6.4) / 27

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (mel - 15)))

    top = 15 + np.log(sample_rate / 2 / 1000) / step
    edges = to_hertz(np.linspace(0, top, bands + 2))
    frequencies = np.linspace(0, sample_rate / 2, size // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def log_mel_distance(
    reference: np.ndarray,
    estimate: np.ndarray,
    sample_rate: int = 44100,
    size: int = 2048,
    bands: int = 80,
    floor: float = LOG_FLOOR,
) -> float:
    """Return the mean absolute difference of log mel spectrograms.

    Natural logarithm of mel-weighted magnitudes, which are raised to `floor` first, so that
    sound far below hearing does not count.

    Parameters
    ----------
    reference, estimate : numpy.ndarray
        The original and its reconstruction, shape (samples, channels).
    sample_rate : int
        Samples per second.
    size : int
        Length of the window; the hop is a quarter of it.
    bands : int
        Number of mel bands.
    floor : float
        The least mel magnitude told apart from silence.

    Returns
    -------
    float
        The distance in nepers: 0.1 is 0.87 dB.
    """
    filters = mel_filters(sample_rate, size, bands)
    logs = [
        np.log(np.maximum(filters @ magnitudes(audio, size), floor))
        for audio in (reference, estimate)
    ]
    return float(np.mean(np.abs(logs[0] - logs[1])))


def multi_resolution_stft_distance(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Return spectral convergence plus log-magnitude distance, averaged over window sizes.

    Parameters
    ----------
    reference, estimate : numpy.ndarray
        The original and its reconstruction, shape (samples, channels).

    Returns
    -------
    float
        The mean over the sizes in `STFT_SIZES`; 0 for identical audio.
    """
    distances = []
    for size in STFT_SIZES:
        target, output = magnitudes(reference, size), magnitudes(estimate, size)
        convergence = np.linalg.norm(target - output) / max(float(np.linalg.norm(target)), 1e-20)
        # Relative to a full-scale sine (half the window's sum), -100 dB is silence.
        floor = 1e-5 * size / 4
        logs = np.log(np.maximum(target, floor)) - np.log(np.maximum(output, floor))
        distances.append(convergence + np.mean(np.abs(logs)))
    return float(np.mean(distances))
