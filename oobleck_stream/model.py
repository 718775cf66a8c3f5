"""A model: a config and packed parameters, immutable, shared by any number of streams."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from oobleck_stream import network as shapes
from oobleck_stream.arrays import FloatArray
from oobleck_stream.bottleneck import Bottleneck, distribution
from oobleck_stream.config import OobleckConfig, preset
from oobleck_stream.engine.needs import require_affordable
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.stack import Stack
from oobleck_stream.errors import CheckpointError, NonFiniteError
from oobleck_stream.finite import first_not_finite, latents_not_finite, samples_not_finite
from oobleck_stream.latents import CHECK_FRAMES, checked_frames, checked_shape
from oobleck_stream.parameters import RandomParameters, pack_network
from oobleck_stream.samples import CHECK_SAMPLES, checked_audio, checked_samples

DECODE_FRAMES = 256


@dataclass(frozen=True, eq=False)
class Model:
    """An Oobleck network ready to decode and, where its encoder is at hand, to encode.

    Parameters
    ----------
    config : OobleckConfig
    decoder : PackedNetwork
        The decoder's layers and parameters.
    name : str
        Where it came from.
    notes : tuple of str
        What was inferred or chosen while loading, a sentence each.
    load_encoder : callable, optional
        Gives the encoder's layers and parameters; called when they are first needed.
    backend : str
        Where it decodes unless something else is asked for: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        It encodes on the CPU.
    """

    config: OobleckConfig
    decoder: PackedNetwork = field(repr=False)
    name: str = ""
    notes: tuple[str, ...] = field(default=())
    load_encoder: Callable[[], PackedNetwork] | None = field(default=None, repr=False)
    backend: str = "cpu"

    @property
    def encoder(self) -> PackedNetwork:
        """The encoder's layers and parameters, packed at first use.

        Threads that need it first at the same moment each pack it, and one result is kept: a lock
        here would stay held for ever in a process that is forked meanwhile.

        Raises
        ------
        CheckpointError
            When the network has no encoder of this family, or its checkpoint holds none, or one
            with faults (names all of them).
        """
        packed = self.__dict__.get("_encoder")
        if packed is None:
            packed = self.__dict__.setdefault("_encoder", self._packed_encoder())
        return cast(PackedNetwork, packed)

    def _packed_encoder(self) -> PackedNetwork:
        name = self.name or "this model"
        if not self.config.has_encoder:
            raise CheckpointError(
                name, "can't encode: its encoder is not of the Oobleck family, only its decoder is"
            )
        if self.load_encoder is None:
            raise CheckpointError(name, "can't encode: it has only a decoder")
        return self.load_encoder()

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
        self,
        latents: Any,
        out: FloatArray | None = None,
        threads: int | None = None,
        backend: str | None = None,
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
        backend : str, optional
            As for `StreamingDecoder`.

        Returns
        -------
        (samples, channels) float32, C-contiguous
            `out` where it is given. Full scale is 1.0; nothing is clipped.

        Raises
        ------
        ValueError
            On a wrong shape, dtype or `out`, or on a frame that is not finite as float32.
        NonFiniteError
            When latents are so large that float32 overflows in the network, and samples would not
            be finite. The error names the first such frame and has the samples before it; `out` is
            written in part.
        CudaUnavailable
            A ``RuntimeError``, when the backend is ``"cuda"`` and can't be used.
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
        stack = Stack(self.decoder, threads, backend=backend or self.backend)
        for first in range(0, len(array), DECODE_FRAMES):
            frames = checked_frames(array[first : first + DECODE_FRAMES], first)
            start, last = stack.rows_out(), first + len(frames) >= len(array)
            stack.push(frames, last, out[start:])
            row = first_not_finite(out[start : stack.rows_out()])
            if row is not None:
                frame = (start + row) // self.hop
                message = samples_not_finite(frame, self.context, len(array))
                raise NonFiniteError(message, {0: frame}, out[: start + row])
        return out

    def encoded_length(self, samples: int, pad: bool = True) -> int:
        """Latent frames that `samples` samples encode to, with `pad` or without."""
        if pad:
            samples += -samples % self.hop
        return shapes.output_length(self.encoder.layers, samples)

    def encode(
        self,
        audio: Any,
        sample: bool = False,
        seed: int | None = None,
        pad: bool = True,
        threads: int | None = None,
    ) -> FloatArray:
        """Encode a whole piece.

        Works in blocks: beyond the returned array its memory does not grow with the piece.

        Parameters
        ----------
        audio : (samples, channels) array_like of real numbers
            Full scale is 1.0; may be a memory map. For a mono network (samples,) too.
        sample : bool
            Whether to draw the latents from the distributions that the encoder gives, rather than
            to take their means.
        seed : int, optional
            With `sample`: the same seed gives the same latents.
        pad : bool
            Whether zeros fill up the last frame where the length is no multiple of `hop`;
            otherwise the network has only what is there, and what makes no frame is left over.
        threads : int, optional
            As for `StreamingEncoder`; the result does not depend on it.

        Returns
        -------
        (frames, latent_dim) float32, C-contiguous
            With `pad`, a frame for every `hop` samples that have begun.

        Raises
        ------
        ValueError
            On a wrong shape or dtype, on a sample that is not finite as float32, or when the model
            can't encode.
        NonFiniteError
            When the sound is so large that float32 overflows in the network, and latents would not
            be finite. The error names the first such frame and has the frames before it.
        """
        array = self._checked_audio(audio)
        latents = np.empty((self.encoded_length(len(array), pad), self.latent_dim), np.float32)
        bottleneck, done = Bottleneck(self.config.latent_scale, sample, seed), 0
        for rows in self._encoded_rows(array, pad, threads):
            latents[done : done + len(rows)] = bottleneck.latents(rows)
            row = first_not_finite(latents[done : done + len(rows)])
            if row is not None:
                raise self._overflow(done + row, latents[: done + row])
            done += len(rows)
        return latents

    def encode_distribution(
        self, audio: Any, pad: bool = True, threads: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Encode a whole piece to normal distributions, one for every number of every frame.

        Parameters
        ----------
        audio, pad, threads
            As for `encode`.

        Returns
        -------
        mean, deviation : (frames, latent_dim) float32, C-contiguous

        Raises
        ------
        ValueError, NonFiniteError
            As for `encode`.
        """
        array = self._checked_audio(audio)
        shape = (self.encoded_length(len(array), pad), self.latent_dim)
        mean, deviation, done = np.empty(shape, np.float32), np.empty(shape, np.float32), 0
        for rows in self._encoded_rows(array, pad, threads):
            part = slice(done, done + len(rows))
            mean[part], deviation[part] = distribution(rows, self.config.latent_scale)
            row = first_not_finite(np.concatenate([mean[part], deviation[part]], axis=1))
            if row is not None:
                frame = done + row
                raise self._overflow(frame, (mean[:frame], deviation[:frame]))
            done += len(rows)
        return mean, deviation

    def _overflow(self, frame: int, output: Any) -> NonFiniteError:
        """The error for an encoded frame that is not finite, and the output before it."""
        return NonFiniteError(latents_not_finite(frame, self.hop), {0: frame}, output)

    def _checked_audio(self, audio: Any) -> npt.NDArray[Any]:
        """Audio of the right shape, all of it finite."""
        array = checked_audio(audio, self.channels)
        for first in range(0, len(array), CHECK_SAMPLES):
            checked_samples(array[first : first + CHECK_SAMPLES], first)
        return array

    def _encoded_rows(
        self, array: npt.NDArray[Any], pad: bool, threads: int | None
    ) -> Iterator[FloatArray]:
        """The encoder's rows for a whole piece, block by block."""
        stack = Stack(self.encoder, threads)
        for first in range(0, len(array), CHECK_SAMPLES):
            yield stack.push(checked_samples(array[first : first + CHECK_SAMPLES], first))
        missing = -len(array) % self.hop if pad else 0
        yield stack.push(np.zeros((missing, self.channels), np.float32), last=True)


def random_model(name: str | OobleckConfig, seed: int = 0, backend: str = "cpu") -> Model:
    """A network of a preset's geometry with random weights.

    Parameters
    ----------
    name : str or OobleckConfig
        A preset's name, or a config.
    seed : int
        The same seed gives the same weights.
    backend : str
        As for `Model`.

    Raises
    ------
    ValueError
        When there is no preset of that name.
    CheckpointError
        A ``ValueError``, when the network takes too much memory or work; the encoder raises it at
        its first use.
    """
    config = preset(name) if isinstance(name, str) else name
    parameters = RandomParameters(config, seed)
    label = name if isinstance(name, str) else "config"
    title = f"random {label}, seed {seed}"

    def half(layers: Sequence[shapes.Layer], scale: float = 1.0) -> PackedNetwork:
        require_affordable(title, layers)
        return pack_network(layers, parameters, scale)

    decoder = half(shapes.decoder_layers(config), config.latent_scale)
    encoder = functools.partial(half, shapes.encoder_layers(config))
    return Model(config, decoder, title, load_encoder=encoder, backend=backend)
