"""A model: a config and packed parameters, immutable and shared by any number of streams."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from oobleck_stream import network
from oobleck_stream.arrays import FloatArray
from oobleck_stream.bottleneck import Bottleneck, distribution
from oobleck_stream.checks import (
    CHECK_FRAMES,
    CHECK_SAMPLES,
    checked_audio,
    checked_frames,
    checked_latents,
    checked_samples,
    decoder_overflow,
    encoder_overflow,
    first_not_finite,
)
from oobleck_stream.config import Convolution, OobleckConfig, preset
from oobleck_stream.engine.needs import require_affordable
from oobleck_stream.engine.packed import PackedNetwork, repacked
from oobleck_stream.engine.stack import Stack
from oobleck_stream.errors import CheckpointError, NonFiniteError
from oobleck_stream.parameters import RandomParameters, pack_network

DECODE_FRAMES = 256
"""Number of frames that `Model.decode` checks and pushes at a time. So it never copies a whole
memory map.
"""


@dataclass(frozen=True, eq=False)
class Model:
    """An Oobleck network, ready to decode and, if it has an encoder, to encode.

    `load` and `random_model` make models. A model is immutable, so any number of decoders and
    threads may share it.

    Parameters
    ----------
    config : OobleckConfig
    decoder : PackedNetwork
        The decoder's layers and packed parameters.
    name : str
        Where the model came from, for messages.
    notes : tuple of str
        What was inferred or chosen while loading: one sentence for each choice.
    load_encoder : callable, optional
        A function that returns the encoder's layers and packed parameters. It is called when these
        are first needed.
    backend : str
        The default backend of `decode` and of `StreamingDecoder`: ``"cpu"``, ``"cuda"`` or
        ``"auto"``. Encoding always runs on the CPU.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model = ob.load("tiny")
    >>> model.samplerate, model.channels, model.latent_dim, model.hop
    (44100, 2, 24, 64)
    >>> model.latency, model.context
    (1056, 17)
    >>> audio = model.decode(ob.piece("keys")[:100])
    >>> audio.shape, audio.dtype
    ((6400, 2), dtype('float32'))
    >>> model.encode(audio).shape
    (100, 24)
    """

    config: OobleckConfig
    decoder: PackedNetwork = field(repr=False)
    name: str = ""
    notes: tuple[str, ...] = field(default=())
    load_encoder: Callable[[], PackedNetwork] | None = field(default=None, repr=False)
    backend: str = "cpu"

    def __deepcopy__(self, memo: object) -> Model:
        """The model itself, because it never changes."""
        return self

    @property
    def encoder(self) -> PackedNetwork:
        """The encoder's layers and packed parameters, read and packed at first use.

        Raises
        ------
        CheckpointError
            If the network has no encoder of this family, if its checkpoint contains none, or if the
            encoder's tensors have faults, which the message names. This error is a ``ValueError``.
        """
        # Threads that race here each pack the encoder, and the first result is kept. A lock would
        # stay locked forever in a process that is forked while it is held.
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

    def with_convolution(self, convolution: Convolution) -> Model:
        """Return this model with fast or with direct convolution.

        The packed parameters are shared if they have what is needed: those of a fast network serve
        both.

        Parameters
        ----------
        convolution : str
            ``"fast"`` or ``"direct"``, as in `OobleckConfig`.

        Raises
        ------
        ValueError
            If it is neither of them.

        Examples
        --------
        >>> import oobleck_stream as ob
        >>> model = ob.random_model("ezaudio")
        >>> model.latency, model.with_convolution("direct").latency
        (4183, 4013)
        """
        config = self.config.replace(convolution=convolution)
        layers = network.decoder_layers(config)
        pairs = zip(layers, self.decoder.layers, strict=True)
        if all(layer.tile in (1, old.tile) for layer, old in pairs):
            decoder = dataclasses.replace(self.decoder, layers=tuple(layers))
        else:
            decoder = repacked(self.decoder, layers)
        return dataclasses.replace(self, config=config, decoder=decoder)

    @property
    def latent_dim(self) -> int:
        """Number of values in a latent frame."""
        return self.config.latent_dim

    @property
    def channels(self) -> int:
        """Number of audio channels."""
        return self.config.audio_channels

    @property
    def samplerate(self) -> int:
        """Samples per second."""
        return self.config.samplerate

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return self.config.hop

    @property
    def latency(self) -> int:
        """The look-ahead: how many samples a stream withholds until later frames are known."""
        return network.latency(self.decoder.layers)

    @property
    def context(self) -> int:
        """Number of frames on each side that a frame's samples depend on."""
        return network.context(self.decoder.layers)

    def decoded_length(self, frames: int) -> int:
        """Number of samples that `frames` latent frames decode to."""
        return network.output_length(self.decoder.layers, frames)

    def decode(
        self,
        latents: Any,
        out: FloatArray | None = None,
        threads: int | None = None,
        backend: str | None = None,
    ) -> FloatArray:
        """Decode a whole piece.

        The piece is decoded in blocks, so only the returned array grows with its length.

        Parameters
        ----------
        latents : (frames, latent_dim) array_like of real numbers
            May be a memory map.
        out : (samples, channels) float32, C-contiguous, optional
            Where to write the result, for example a memory map. Nothing is written if the latents
            are rejected.
        threads, backend : optional
            As for `StreamingDecoder`; the result does not depend on them.

        Returns
        -------
        (samples, channels) float32, C-contiguous
            The audio; this is `out` if it was passed. Full scale is 1.0; nothing is clipped.

        Raises
        ------
        ValueError
            If the shape or dtype of `latents` or `out` is wrong, or a frame is not finite as
            float32 (the message names the frame).
        NonFiniteError
            If the latents are so large that float32 overflows inside the network and samples would
            not be finite. The error names the first such frame, and its `output` holds the samples
            before that frame; `out` is partly written.
        CudaUnavailable
            If the backend is ``"cuda"`` and can't be used. This error is a ``RuntimeError``.
        """
        array = checked_latents(latents, self.latent_dim)
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
                message = decoder_overflow(frame, self.context, len(array))
                raise NonFiniteError(message, {0: frame}, out[: start + row])
        return out

    def encoded_length(self, samples: int, pad: bool = True) -> int:
        """Number of latent frames that `samples` samples encode to, with `pad` as in `encode`."""
        if pad:
            samples += -samples % self.hop
        return network.output_length(self.encoder.layers, samples)

    def encode(
        self,
        audio: Any,
        sample: bool = False,
        seed: int | None = None,
        pad: bool = True,
        threads: int | None = None,
    ) -> FloatArray:
        """Encode a whole piece.

        The piece is encoded in blocks, so only the returned array grows with its length.

        Parameters
        ----------
        audio : (samples, channels) array_like of real numbers
            Full scale is 1.0. It may be a memory map. For a mono network, the shape (samples,) is
            accepted too.
        sample : bool
            Whether to draw the latents from the encoder's normal distributions instead of
            returning their means.
        seed : int, optional
            Seed of these draws. The same seed gives the same latents. Without a seed, every call
            draws different latents.
        pad : bool
            Whether to fill the last frame with zeros if the length is not a multiple of `hop`.
            Otherwise the samples after the last whole frame do not become a frame.
        threads : int, optional
            As for `StreamingEncoder`; the result does not depend on it.

        Returns
        -------
        (frames, latent_dim) float32, C-contiguous
            If `pad` is true, there are ``ceil(samples / hop)`` frames.

        Raises
        ------
        ValueError
            If the shape or dtype is wrong, or a sample is not finite as float32 (the message names
            the sample). If the model can't encode, the error is a `CheckpointError`.
        NonFiniteError
            If the audio is so large that float32 overflows inside the network and latents would not
            be finite. The error names the first such frame, and its `output` holds the frames
            before that frame.
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
        """Encode a whole piece to normal distributions, one for each value of each frame.

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
        """The error for an encoded frame that is not finite; `output` has the frames before it."""
        return NonFiniteError(encoder_overflow(frame, self.hop), {0: frame}, output)

    def _checked_audio(self, audio: Any) -> npt.NDArray[Any]:
        """Return audio as (samples, channels); raise ``ValueError`` if it is invalid."""
        array = checked_audio(audio, self.channels)
        for first in range(0, len(array), CHECK_SAMPLES):
            checked_samples(array[first : first + CHECK_SAMPLES], first)
        return array

    def _encoded_rows(
        self, array: npt.NDArray[Any], pad: bool, threads: int | None
    ) -> Iterator[FloatArray]:
        """Yield the encoder's output rows for a whole piece, block by block."""
        stack = Stack(self.encoder, threads)
        for first in range(0, len(array), CHECK_SAMPLES):
            yield stack.push(checked_samples(array[first : first + CHECK_SAMPLES], first))
        missing = -len(array) % self.hop if pad else 0
        yield stack.push(np.zeros((missing, self.channels), np.float32), last=True)


def random_model(name: str | OobleckConfig, seed: int = 0, backend: str = "cpu") -> Model:
    """Make a model of a preset's geometry with random weights, for tests and benchmarks.

    Parameters
    ----------
    name : str or OobleckConfig
        Name of a preset, or a config.
    seed : int
        The same seed gives the same weights.
    backend : str
        As for `Model`.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If there is no preset with this name.
    CheckpointError
        If the decoder takes too much memory or work. The encoder is checked at its first use. This
        error is a ``ValueError``.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model = ob.random_model(ob.preset("ezaudio").replace(channels=4), seed=1)
    >>> model.decode(model.encode([0.5] * 4800)).shape
    (4800, 1)
    """
    config = preset(name) if isinstance(name, str) else name
    parameters = RandomParameters(config, seed)
    label = name if isinstance(name, str) else "config"
    title = f"random {label}, seed {seed}"

    pack = functools.partial(_pack_random, title, parameters)
    decoder = pack(network.decoder_layers(config), config.latent_scale)
    encoder = functools.partial(pack, network.encoder_layers(config))
    return Model(config, decoder, title, load_encoder=encoder, backend=backend)


def _pack_random(
    title: str, parameters: RandomParameters, layers: Sequence[network.Layer], scale: float = 1.0
) -> PackedNetwork:
    require_affordable(title, layers)
    return pack_network(layers, parameters, scale)
