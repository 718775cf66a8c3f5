"""The variational bottleneck: from the encoder's means and scales to latent frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray

MIN_DEVIATION = 1e-4
"""Added to every standard deviation, as stable-audio-tools does."""


def distribution(rows: FloatArray, latent_scale: float) -> tuple[FloatArray, FloatArray]:
    """The mean and the standard deviation of every value of some latent frames.

    Parameters
    ----------
    rows : (n, 2 * latent_dim) float32
        The encoder's output: each row contains the means, then the scales.
    latent_scale : float
        Latents are divided by it.

    Returns
    -------
    mean, deviation : (n, latent_dim) float32
        The mean is divided by `latent_scale`; the deviation is
        ``(softplus(scale) + 1e-4) / abs(latent_scale)``. A mean or a scale that is not finite gives
        a mean or a deviation that is not finite. The exception is a scale of minus infinity, which
        gives the deviation ``1e-4 / abs(latent_scale)``. Results that float32 can't hold are
        infinite.
    """
    mean, scale = np.split(rows, 2, axis=1)
    with np.errstate(all="ignore"):
        # NumPy's vectorized functions may give different bits at different positions in an array.
        # np.logaddexp is a scalar loop, so its result depends only on the element.
        deviation = np.logaddexp(0.0, scale.astype(np.float64)) + MIN_DEVIATION
        deviation /= abs(latent_scale)
        return mean / np.float32(latent_scale), deviation.astype(np.float32)


class Bottleneck:
    """Converts the encoder's rows into latent frames, block by block.

    Parameters
    ----------
    latent_scale : float
        Latents are divided by it.
    sample : bool
        Whether to draw the latents from the distribution; otherwise they are its mean.
    seed : int, optional
        Seed of the noise. The noise is drawn frame by frame, so the latents don't depend on how the
        rows are divided into blocks. Without a seed, every run has different noise.
    """

    def __init__(self, latent_scale: float, sample: bool = False, seed: int | None = None) -> None:
        self.sample = sample
        self._latent_scale = latent_scale
        self._seed = seed
        self._noise = np.random.default_rng(seed)

    def latents(self, rows: FloatArray) -> FloatArray:
        """Convert the next rows (n, 2 * latent_dim) into latent frames (n, latent_dim), float32."""
        mean, deviation = distribution(rows, self._latent_scale)
        if not self.sample:
            return mean
        noise = self._noise.standard_normal(mean.shape, np.float32)
        with np.errstate(all="ignore"):
            return mean + deviation * noise

    def reset(self) -> None:
        """Return to the first frame. If there is a seed, the same noise is drawn again."""
        self._noise = np.random.default_rng(self._seed)

    def snapshot(self) -> Any:
        """The state of the noise generator, for `restore`; None if no noise is drawn."""
        return self._noise.bit_generator.state if self.sample else None

    def restore(self, state: Any) -> None:
        """Set the noise generator to a state that `snapshot` returned."""
        if self.sample:
            self._noise.bit_generator.state = state
