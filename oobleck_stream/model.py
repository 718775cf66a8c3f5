"""A model: a config and packed parameters, immutable, shared by any number of decoders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oobleck_stream import network as shapes
from oobleck_stream.config import OobleckConfig, preset
from oobleck_stream.latents import CHECK_FRAMES, checked_frames, checked_shape
from oobleck_stream.packed import FloatArray, PackedNetwork
from oobleck_stream.parameters import RandomParameters, pack_network
from oobleck_stream.streaming.stack import Stack

DECODE_FRAMES = 256


@dataclass(frozen=True, eq=False)
class Model:
    """An Oobleck network ready to decode.

    Parameters
    ----------
    config : OobleckConfig
    decoder : PackedNetwork
        The decoder's layers and parameters.
    name : str
        Where it came from.
    notes : tuple of str
        What was inferred or chosen while loading, a sentence each.
    """

    config: OobleckConfig
    decoder: PackedNetwork
    name: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def latent_dim(self) -> int:
        """Numbers in a latent frame."""
        return self.config.latent_dim

    @property
    def channels(self) -> int:
        """Audio channels."""
        return self.config.audio_channels

    @property
    def samplerate(self) -> int:
        """Samples a second."""
        return self.config.samplerate

    @property
    def hop(self) -> int:
        """Samples of sound for each latent frame."""
        return self.config.hop

    @property
    def latency(self) -> int:
        """Look-ahead: samples withheld until later frames are known."""
        return shapes.latency(self.decoder.layers)

    @property
    def context(self) -> int:
        """Frames on each side that reach into a frame's samples."""
        return shapes.context(self.decoder.layers)

    def decoded_length(self, frames: int) -> int:
        """Samples that `frames` latent frames decode to."""
        return shapes.output_length(self.decoder.layers, frames)

    def decode(
        self, latents: Any, out: FloatArray | None = None, threads: int | None = None
    ) -> FloatArray:
        """Decode a whole piece.

        Works in blocks: beyond the returned array its memory does not grow with the piece.

        Parameters
        ----------
        latents : (frames, latent_dim) array_like of real numbers
            May be a memory map.
        out : (samples, channels) float32, C-contiguous, optional
            Where to write, for instance a memory map; nothing is written when the latents are bad.
        threads : int, optional
            As for `StreamingDecoder`; the result does not depend on it.

        Returns
        -------
        (samples, channels) float32, C-contiguous
            `out` where it is given. Full scale is 1.0; nothing is clipped.

        Raises
        ------
        ValueError
            On a wrong shape, dtype or `out`, or on a frame that is not finite as float32.
        """
        array = checked_shape(latents, self.latent_dim)
        for first in range(0, len(array), CHECK_FRAMES):
            checked_frames(array[first : first + CHECK_FRAMES], first)
        shape = (self.decoded_length(len(array)), self.channels)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous float32 of shape {shape}")
        elif not out.flags.writeable:
            raise ValueError("out must be writable")
        stack = Stack(self.decoder, threads)
        for first in range(0, len(array), DECODE_FRAMES):
            frames = checked_frames(array[first : first + DECODE_FRAMES], first)
            stack.push(frames, first + len(frames) >= len(array), out[stack.rows_out :])
        return out


def random_model(name: str | OobleckConfig, seed: int = 0) -> Model:
    """A network of a preset's geometry with random weights.

    Parameters
    ----------
    name : str or OobleckConfig
        A preset's name, or a config.
    seed : int
        The same seed gives the same weights.

    Raises
    ------
    ValueError
        When there is no preset of that name.
    """
    config = preset(name) if isinstance(name, str) else name
    layers = shapes.decoder_layers(config)
    packed = pack_network(layers, RandomParameters(config, seed), config.latent_scale)
    label = name if isinstance(name, str) else "config"
    return Model(config, packed, f"random {label}, seed {seed}")
