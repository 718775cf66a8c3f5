"""The variational bottleneck: the encoder's rows are means and scales of normal distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray

SMALLEST_DEVIATION = 1e-4


def distribution(rows: FloatArray, latent_scale: float) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of every number of some latent frames.

    Parameters
    ----------
    rows : (n, 2 * latent_dim) float32
        As the encoder gives them: the means, then the scales.
    latent_scale : float
        Latents are divided by it.

    Returns
    -------
    mean, deviation : (n, latent_dim) float32
        The deviation is ``softplus(scale) + 1e-4``, divided by the size of `latent_scale`. Both
        are not finite where `rows` are not or float32 overflows.
    """
    mean, scale = np.split(rows, 2, axis=1)
    with np.errstate(all="ignore"):
        # NumPy has no vectorized logaddexp: a number's softplus does not depend on its neighbours.
        deviation = np.logaddexp(0.0, scale.astype(np.float64)) + SMALLEST_DEVIATION
        deviation /= abs(latent_scale)
        return mean / np.float32(latent_scale), deviation.astype(np.float32)


class Bottleneck:
    """Turns the encoder's rows into latent frames, in the order in which they come.

    Parameters
    ----------
    latent_scale : float
        Latents are divided by it.
    sample : bool
        Whether latents are drawn from the distribution; otherwise they are its mean.
    seed : int, optional
        Of the noise, which is drawn frame by frame; without one it is another in every run.
    """

    def __init__(self, latent_scale: float, sample: bool = False, seed: int | None = None) -> None:
        self.sample = sample
        self._latent_scale = latent_scale
        self._seed = seed
        self._noise = np.random.default_rng(seed)

    def latents(self, rows: FloatArray) -> FloatArray:
        """The latent frames (n, latent_dim) of the next rows (n, 2 * latent_dim)."""
        mean, deviation = distribution(rows, self._latent_scale)
        if not self.sample:
            return mean
        noise = self._noise.standard_normal(mean.shape, np.float32)
        with np.errstate(all="ignore"):
            return mean + deviation * noise

    def reset(self) -> None:
        """Back to the first frame; with a seed, to the same noise."""
        self._noise = np.random.default_rng(self._seed)

    def snapshot(self) -> Any:
        """Where the noise is, for `restore`; None where none is drawn."""
        return self._noise.bit_generator.state if self.sample else None

    def restore(self, state: Any) -> None:
        """Go on with the noise from a `snapshot`."""
        if self.sample:
            self._noise.bit_generator.state = state
