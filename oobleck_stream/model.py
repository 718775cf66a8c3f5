"""An immutable model: a config and packed parameters that any number of streams can share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from oobleck_stream import network
from oobleck_stream.arrays import FloatArray
from oobleck_stream.bottleneck import Bottleneck, distribution
from oobleck_stream.config import Convolution, OobleckConfig
from oobleck_stream.engine.packed import PackedNetwork, retiled
from oobleck_stream.errors import CheckpointError, NonFiniteError
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.layout import pieces_of_audio, pieces_of_latents
from oobleck_stream.whole import decode_pieces, encode_pieces


@dataclass(frozen=True, eq=False, repr=False)
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
        What was inferred or chosen while loading, one sentence each.
    load_encoder : callable, optional
        A function that takes no arguments and returns the encoder's layers and packed parameters.
        It is called when the encoder is first needed.
    backend : str
        The default backend of `decode` and of `StreamingDecoder`: ``"cpu"``, ``"cuda"`` or
        ``"auto"``. Encoding always runs on the CPU.
    file : Path, optional
        The file or folder that the weights were read from; None for random weights.

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
    file: Path | None = None

    def __repr__(self) -> str:
        milliseconds = 1000 * self.latency / self.samplerate
        return (
            f"Model({self.name!r}: {self.config.summary}, {milliseconds:.0f} ms look-ahead, "
            f"{self.backend})"
        )

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
        # If several threads get here at the same time, each packs the encoder, and the first result
        # is kept. A lock could not be used: a process that is forked while the lock is held could
        # never acquire it.
        packed = self.__dict__.get("_encoder")
        if packed is None:
            packed = self.__dict__.setdefault("_encoder", self._packed_encoder())
        return cast(PackedNetwork, packed)

    def _packed_encoder(self) -> PackedNetwork:
        return self.require_encoder()()

    def require_encoder(self) -> Callable[[], PackedNetwork]:
        """Return the function that loads the encoder; raise `CheckpointError` if there is none."""
        name = self.name or "this model"
        if not self.config.has_encoder:
            raise CheckpointError(
                name, "can't encode: its encoder is not of the Oobleck family, only its decoder is"
            )
        if self.load_encoder is None:
            raise CheckpointError(name, "can't encode: it has only a decoder")
        return self.load_encoder

    def with_convolution(self, convolution: Convolution) -> Model:
        """Return this model with fast or with direct convolution, in the decoder and the encoder.

        If possible, both models share the packed parameters. The parameters of a fast network also
        serve direct convolution.

        Parameters
        ----------
        convolution : str
            ``"fast"`` or ``"direct"``, as in `OobleckConfig`.

        Raises
        ------
        ValueError
            If `convolution` is neither of these.

        Examples
        --------
        >>> import oobleck_stream as ob
        >>> model = ob.random_model("ezaudio")
        >>> model.latency, model.with_convolution("direct").latency
        (4183, 4013)
        """
        config = self.config.replace(convolution=convolution)
        decoder = retiled(self.decoder, network.decoder_layers(config))
        load_encoder = self.load_encoder and functools.partial(_retiled_encoder, self, config)
        return dataclasses.replace(self, config=config, decoder=decoder, load_encoder=load_encoder)

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
        *,
        layout: AxisOrder | None = None,
    ) -> FloatArray:
        """Decode a whole piece, or a batch of pieces.

        The pieces are decoded in blocks, so only the returned array grows with their length.

        Parameters
        ----------
        latents : (frames, latent_dim) or (batch, frames, latent_dim) array_like of real numbers
            The latents. This may also be a memory map, or a tensor of torch or another library, of
            any real dtype and on any device. The last two axes may be (latent_dim, frames) instead,
            as in torch's pipelines. If only this order fits the shape, it is assumed, and a
            ``RuntimeWarning`` is given, but only once. A 2-D array that fits both orders is read as
            (frames, latent_dim).
        out : (samples, channels) or (batch, samples, channels) float32, C-contiguous, optional
            Where to write the result, for example a memory map. If the arguments are invalid,
            nothing is written.
        threads, backend : optional
            As for `StreamingDecoder`. The result depends neither on `threads` nor on `backend`.
        layout : {"tc", "ct"}, optional
            The order of the last two axes of `latents`: ``"tc"`` is time first (frames,
            latent_dim), and ``"ct"`` channels first (latent_dim, frames).

        Returns
        -------
        (samples, channels) or (batch, samples, channels) float32, C-contiguous
            The audio. This is `out` if it was passed. Full scale is 1.0, and nothing is clipped.

        Raises
        ------
        ValueError
            If the shape or dtype of `latents` or `out` is wrong, if a batch fits both orders of
            axes and `layout` is not given, or if a frame is not finite as float32. In the last
            case, the message names the frame.
        NonFiniteError
            If the latents are so large that float32 overflows inside the network and samples would
            not be finite. The error names the first frame with such samples, and its `output`
            contains all samples before the first that is not finite. For a batch, `output` is a
            list of pieces. Only a part of `out` has been written.
        CudaUnavailable
            If the backend is ``"cuda"`` and can't be used. This error is a ``RuntimeError``.
        """
        pieces = pieces_of_latents(latents, self.latent_dim, layout)
        backend = backend or self.backend
        return decode_pieces(self.decoder, pieces, self.hop, out, threads, backend)

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
        *,
        layout: AxisOrder | None = None,
    ) -> FloatArray:
        """Encode a whole piece, or a batch of pieces.

        The pieces are encoded in blocks, so only the returned array grows with their length.

        Parameters
        ----------
        audio : (samples, channels) or (batch, samples, channels) array_like of real numbers
            The audio, with full scale 1.0. As for `decode`, this may also be a memory map or a
            tensor, and the channels may come first. For a mono network, the shape (samples,) is
            accepted too.
        sample : bool
            Whether to draw the latents from the encoder's normal distributions instead of
            returning their means.
        seed : int, optional
            Seed of these draws. The same seed gives the same latents. Without a seed, every call
            draws different latents.
        pad : bool
            Whether to fill the last frame with zeros if the length is not a multiple of `hop`. If
            `pad` is false, the samples after the last whole frame do not become a frame.
        threads : int, optional
            As for `StreamingEncoder`. The result does not depend on `threads`.
        layout : {"tc", "ct"}, optional
            The order of the last two axes of `audio`: ``"tc"`` is time first (samples, channels),
            and ``"ct"`` channels first (channels, samples).

        Returns
        -------
        (frames, latent_dim) or (batch, frames, latent_dim) float32, C-contiguous
            If `pad` is true, there are ``ceil(samples / hop)`` frames.

        Raises
        ------
        ValueError
            If the shape or dtype is wrong, if a batch fits both orders of axes and `layout` is not
            given, or if a sample is not finite as float32. In the last case, the message names the
            sample. If the model can't encode, the error is a `CheckpointError`.
        NonFiniteError
            If the audio is so large that float32 overflows inside the network and latents would not
            be finite. The error names the first such frame, and its `output` contains the frames
            before that frame. For a batch, `output` is a list of pieces.
        """
        pieces = pieces_of_audio(audio, self.channels, layout)
        bottleneck = Bottleneck(self.config.latent_scale, sample, seed)
        return self._encoded(pieces, bottleneck.latents, self.latent_dim, pad, threads)

    def encode_distribution(
        self,
        audio: Any,
        pad: bool = True,
        threads: int | None = None,
        *,
        layout: AxisOrder | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Encode a whole piece, or a batch, to one normal distribution for each value of a frame.

        Parameters
        ----------
        audio, pad, threads, layout
            As for `encode`.

        Returns
        -------
        mean, deviation : (frames, latent_dim) or (batch, frames, latent_dim) float32, C-contiguous

        Raises
        ------
        ValueError, NonFiniteError
            As for `encode`.
        """
        pieces = pieces_of_audio(audio, self.channels, layout)
        scale = self.config.latent_scale

        def both(rows: FloatArray) -> FloatArray:
            return np.concatenate(distribution(rows, scale), axis=1)

        try:
            rows = self._encoded(pieces, both, 2 * self.latent_dim, pad, threads)
        except NonFiniteError as error:
            error.output = self._halves(error.output)
            raise
        mean, deviation = self._halves(rows)
        return mean, deviation

    def encoder_rows(
        self,
        audio: Any,
        threads: int | None = None,
        *,
        layout: AxisOrder | None = None,
    ) -> FloatArray:
        """Compute the encoder's output, which has the means and then the scales of each frame.

        Parameters
        ----------
        audio, threads, layout
            As for `encode`. Samples after the last whole frame do not become a frame.

        Returns
        -------
        (frames, 2 * latent_dim) or (batch, frames, 2 * latent_dim) float32, C-contiguous
            The means are not divided by `latent_scale` yet. A scale stands for the standard
            deviation ``softplus(scale) + 1e-4``, which is not divided by `latent_scale` either.

        Raises
        ------
        ValueError, NonFiniteError
            As for `encode`.
        """
        pieces = pieces_of_audio(audio, self.channels, layout)
        return self._encoded(pieces, lambda rows: rows, 2 * self.latent_dim, False, threads)

    def _encoded(
        self,
        pieces: npt.NDArray[Any],
        convert: Callable[[FloatArray], FloatArray],
        width: int,
        pad: bool,
        threads: int | None,
    ) -> FloatArray:
        return encode_pieces(self.encoder, pieces, self.hop, convert, width, pad, threads)

    def _halves(self, rows: Any) -> Any:
        """Split rows, or a list of rows, into means and deviations."""
        if isinstance(rows, list):
            return tuple(list(halves) for halves in zip(*map(self._halves, rows), strict=True))
        parts = rows[..., : self.latent_dim], rows[..., self.latent_dim :]
        return tuple(np.ascontiguousarray(part) for part in parts)


def _retiled_encoder(model: Model, config: OobleckConfig) -> PackedNetwork:
    """The encoder of a model whose config differs from `config` only in `convolution`."""
    return retiled(model.encoder, network.encoder_layers(config))
