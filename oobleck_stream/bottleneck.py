"""The variational bottleneck: from the encoder's means and scales to latent frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray

MIN_DEVIATION = 1e-4
"""Added to every standard deviation, as stable-audio-tools does."""


def distribution(rows: FloatArray, latent_scale: float) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each number of some latent frames.

    Parameters
    ----------
    rows : (n, 2 * latent_dim) float32
        The encoder's output: the means, then the scales.
    latent_scale : float
        Latents are divided by it.

    Returns
    -------
    mean, deviation : (n, latent_dim) float32
        The deviation is ``(softplus(scale) + 1e-4) / abs(latent_scale)``. Both are not finite
        where `rows` is not finite or float32 overflows.
    """
    mean, scale = np.split(rows, 2, axis=1)
    with np.errstate(all="ignore"):
        # np.logaddexp is a scalar loop, so its bits don't depend on an element's position in the
        # array, unlike those of NumPy's vectorized functions.
        deviation = np.logaddexp(0.0, scale.astype(np.float64)) + MIN_DEVIATION
        deviation /= abs(latent_scale)
        return mean / np.float32(latent_scale), deviation.astype(np.float32)


class Bottleneck:
    """Turns the encoder's rows into latent frames, one block of rows after the other.

    Parameters
    ----------
    latent_scale : float
        Latents are divided by it.
    sample : bool
        Whether to draw the latents from the distribution; otherwise they are its mean.
    seed : int, optional
        Seed of the noise. It is drawn frame by frame, so the latents don't depend on how the rows
        are divided into blocks. Without a seed the noise differs in every run.
    """

    def __init__(self, latent_scale: float, sample: bool = False, seed: int | None = None) -> None:
        self.sample = sample
        self._latent_scale = latent_scale
        self._seed = seed
        self._noise = np.random.default_rng(seed)

    def latents(self, rows: FloatArray) -> FloatArray:
        """Turn the next rows (n, 2 * latent_dim) into latent frames (n, latent_dim), float32."""
        mean, deviation = distribution(rows, self._latent_scale)
        if not self.sample:
            return mean
        noise = self._noise.standard_normal(mean.shape, np.float32)
        with np.errstate(all="ignore"):
            return mean + deviation * noise

    def reset(self) -> None:
        """Return to the first frame; with a seed, the same noise is drawn again."""
        self._noise = np.random.default_rng(self._seed)

    def snapshot(self) -> Any:
        """The state of the noise generator, for `restore`; None if no noise is drawn."""
        return self._noise.bit_generator.state if self.sample else None

    def restore(self, state: Any) -> None:
        """Continue with the noise from the state of a `snapshot`."""
        if self.sample:
            self._noise.bit_generator.state = state
