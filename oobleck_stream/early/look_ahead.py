"""The definition of the early sound: what is withheld, what replaces later frames, and the fade.

Let ``D(t)`` be the sound that the first t frames would decode to if no frame followed. (`MISSING`
lists what can stand in for the missing frames.) Let `samples` be the number of withheld samples.
Once frame t is known, the samples ``[(t - 1) * hop - samples, t * hop - samples)`` of ``D(t)`` are
returned, except that the first `fade` of them crossfade from ``D(t - 1)``, from which the preceding
sample was taken::

    early = D(t - 1) + weight * (D(t) - D(t - 1))        weight[k] = (k + 1) / (fade + 1)

This is computed in float32, and each operation is rounded once. At the end of the piece, ``D`` is
the exact sound, so the last fade ends in the exact sound. The early samples depend neither on how
the frames are divided into pushes nor on the number of threads. If the network's whole look-ahead
is withheld, the early samples are the exact ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.engine.arena import Counters, joined_layers
from oobleck_stream.engine.provisional import Blocks, layers_read
from oobleck_stream.model import Model

Missing = Literal["zeros", "held"]
MISSING = get_args(Missing)
"""What stands in for the frames that are not known yet. ``"zeros"`` are zeros in the activations of
every layer, as after the end of a piece. ``"held"`` means that the last frame is repeated."""

FADES_PER_HOP = 8
"""The default length of the fade is the hop divided by this number. Longer fades take more
computation and sound no better."""


@dataclass(frozen=True)
class LookAhead:
    """The number of samples that a decoder withholds, and the options of its early samples.

    Parameters
    ----------
    samples : int
        Number of samples that are withheld until later frames are known.
    fade : int
        Length, in samples, of the crossfade from one predicted sound to the next.
    held : int
        How many times the last frame is repeated. If this is 0, zeros in the activations stand in
        for the missing frames.
    """

    samples: int
    fade: int
    held: int = 0

    @classmethod
    def of(
        cls,
        model: Model,
        look_ahead: float | None,
        fade: float | None = None,
        missing: Missing = "zeros",
    ) -> LookAhead | None:
        """Check and resolve the arguments of a decoder; return None if its sound is exact.

        Raises
        ------
        ValueError
            If `look_ahead`, `fade` or `missing` is invalid.
        """
        if missing not in MISSING:
            raise ValueError(f"missing must be 'zeros' or 'held', not {missing!r}")
        short = model.latency if look_ahead is None else _samples(look_ahead, model, "look_ahead")
        if not 0 <= short <= model.latency:
            raise ValueError(
                f"look_ahead must be from 0 to {model.latency} samples "
                f"({model.latency / model.samplerate:.4f} s), not {look_ahead!r}"
            )
        longest = model.hop
        chosen = model.hop // FADES_PER_HOP if fade is None else _samples(fade, model, "fade")
        if not 0 <= chosen <= longest:
            raise ValueError(f"fade must be from 0 to {longest} samples, not {fade!r}")
        if short == model.latency:
            return None
        room = model.latency - short
        if missing == "held":
            return cls(short, min(chosen, room), model.context)
        # A flush of t frames may return fewer than t * hop samples.
        end = max(0, model.hop - model.decoded_length(1))
        short = max(short, end)
        return cls(short, max(0, min(chosen, room, short - end)))

    def given(self, frames: int, hop: int) -> int:
        """Number of early samples returned after `frames` frames, if the stream has not ended."""
        return max(0, frames * hop - self.samples)

    def blocks(self, model: Model, frames: int) -> Blocks:
        """The blocks of each layer that are needed for the early samples of one frame.

        These are the early samples that are returned once `frames` frames are known.
        """
        layers, hop = model.decoder.layers, model.hop
        first = max(0, (frames - 1) * hop - self.samples)
        end = max(0, frames * hop - self.samples + self.fade)
        counters, joined = Counters.after(layers, frames), joined_layers(layers)
        return Blocks.of(layers, joined, counters, self.held, first, end)

    def layers_read(self, model: Model) -> int:
        """Number of layers, from the first on, whose final rows early samples depend on."""
        layers, frames = model.decoder.layers, 3 * model.context + 3
        counters = Counters.after(layers, frames)
        if counters.produced[-1] > (frames - 1) * model.hop - self.samples:
            return len(layers)
        return layers_read(layers, self.blocks(model, frames), counters)

    def faded(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Crossfade from the samples in `before` to the samples in `after`.

        Parameters
        ----------
        before : (m, channels) float32
            At most `fade` samples. The crossfade is not longer than `before`.
        after : (n, channels) float32
            May be longer than the fade. The samples after the fade are returned unchanged.

        Returns
        -------
        (n, channels) float32
        """
        count = min(len(before), len(after))
        weight = (np.arange(1, count + 1, dtype=np.float32) / np.float32(self.fade + 1))[:, None]
        result = after.copy()
        with np.errstate(over="ignore", invalid="ignore"):
            result[:count] = before[:count] + weight * (after[:count] - before[:count])
        return result


def _samples(value: Any, model: Model, name: str) -> int:
    """Return `value` as a number of samples; a float is a duration in seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{name} must be seconds (float) or samples (int), not {value!r}")
    if isinstance(value, int | np.integer):
        return int(value)
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return round(float(value) * model.samplerate)
