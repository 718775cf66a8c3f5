"""The variational bottleneck, which turns the encoder's means and scales into latent frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray

MIN_DEVIATION = 1e-4
"""Number added to every standard deviation, as in stable-audio-tools."""


def distribution(rows: FloatArray, latent_scale: float) -> tuple[FloatArray, FloatArray]:
    """The mean and the standard deviation of every value of the latent frames.

    Parameters
    ----------
    rows : (n, 2 * latent_dim) float32
        The encoder's output: each row contains the means, then the scales.
    latent_scale : float
        The latents are divided by this number.

    Returns
    -------
    mean, deviation : (n, latent_dim) float32
        The mean is divided by `latent_scale`; the deviation is
        ``(softplus(scale) + 1e-4) / abs(latent_scale)``. Results that are too large for float32 are
        infinite. Where the encoder's mean or scale is not finite, the result is not finite either,
        except that a scale of minus infinity gives the deviation ``1e-4 / abs(latent_scale)``.
    """
    scale = np.split(rows, 2, axis=1)[1]
    with np.errstate(all="ignore"):
        # NumPy's vectorized functions may give different bits at different positions in an array.
        # np.logaddexp is a scalar loop, so its result depends only on the element.
        deviation = np.logaddexp(0.0, scale.astype(np.float64)) + MIN_DEVIATION
        deviation /= abs(latent_scale)
        return means(rows, latent_scale), deviation.astype(np.float32)


def means(rows: FloatArray, latent_scale: float) -> FloatArray:
    """Return only the means of `distribution`, (n, latent_dim) float32."""
    with np.errstate(all="ignore"):
        mean: FloatArray = np.split(rows, 2, axis=1)[0] / np.float32(latent_scale)
    return mean


class Bottleneck:
    """Converts the encoder's rows into latent frames, block by block.

    Parameters
    ----------
    latent_scale : float
        The latents are divided by this number.
    sample : bool
        Whether to draw the latents from the distribution; otherwise they are its mean.
    seed : int, optional
        Seed of the noise. The noise of a frame depends only on the seed and the frame's index. So
        the latents don't depend on how the rows are divided into blocks, and a piece may be encoded
        in parts. Without a seed, every run has different noise.
    """

    def __init__(self, latent_scale: float, sample: bool = False, seed: int | None = None) -> None:
        self.sample = sample
        self._latent_scale = latent_scale
        self._seed = seed
        self.reset()

    def latents(self, rows: FloatArray) -> FloatArray:
        """Convert the next rows (n, 2 * latent_dim) into latent frames (n, latent_dim), float32."""
        if not self.sample:
            return means(rows, self._latent_scale)
        mean, deviation = distribution(rows, self._latent_scale)
        noise = frame_noise(self._key, self._frame, mean.shape)
        self._frame += len(mean)
        with np.errstate(all="ignore"):
            return mean + deviation * noise

    def reset(self, frame: int = 0) -> None:
        """Set the index of the next frame that noise is drawn for.

        With a seed, the noise of a frame is always the same. Without a seed, every reset changes
        the noise.
        """
        self._frame = frame
        self._key = np.random.SeedSequence(self._seed).generate_state(2, np.uint64)

    def snapshot(self) -> Any:
        """The noise's key and the next frame's index, for `restore`; None if no noise is drawn."""
        return (self._key, self._frame) if self.sample else None

    def restore(self, state: Any) -> None:
        """Continue the noise from a state that `snapshot` returned."""
        if self.sample:
            self._key, self._frame = state


def frame_noise(key: npt.NDArray[Any], first: int, shape: tuple[int, ...]) -> FloatArray:
    """Draw standard normal noise for n frames, beginning with frame `first`.

    Parameters
    ----------
    key : (2,) uint64
    first : int
        Index of the first frame. The random generator is Philox, and the second word of its counter
        is set to the frame's index. So each frame has a separate sequence of random numbers.
    shape : (n, latent_dim)

    Returns
    -------
    (n, latent_dim) float32
    """
    bits = np.random.Philox(key=key)
    generator, state = np.random.Generator(bits), bits.state
    noise = np.empty(shape, np.float32)
    for row in range(len(noise)):
        # Restart the generator at this frame's counter, with an empty buffer.
        state["state"]["counter"] = np.array([0, first + row, 0, 0], np.uint64)
        bits.state = state
        generator.standard_normal(dtype=np.float32, out=noise[row])
    return noise
