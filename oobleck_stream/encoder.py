"""The streaming encoder: sound in, every latent frame out as early as the network allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bottleneck import Bottleneck
from oobleck_stream.checks import checked_audio, checked_samples, encoder_overflow, first_not_finite
from oobleck_stream.engine.arena import StackState
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.stack import Stack
from oobleck_stream.engine.status import Status, require_complete, require_open, status_of
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.model import Model
from oobleck_stream.network import rows_needed


@dataclass(frozen=True)
class EncoderState:
    """All that a `StreamingEncoder` remembers, as `StreamingEncoder.snapshot` gives it."""

    network: PackedNetwork = field(repr=False)
    stack: StackState = field(repr=False)
    noise: Any = field(repr=False)
    samples_in: int
    flushed: bool


class _Stream(NamedTuple):
    """The samples pushed so far and the stream's status."""

    samples_in: int = 0
    status: Status = "open"


class StreamingEncoder:
    """Encodes a stream of sound, frame for frame as `Model.encode` encodes the whole.

    The frames of all pushes and the flush, put together, have the same bits as the full encode,
    however the sound is cut into pushes and whatever the number of threads. Many encoders may
    share one model, each used by one thread at a time; pushes of different encoders may run in
    different threads at once.

    Parameters
    ----------
    model : Model
    threads : int, optional
        Threads of a push; by default the environment's OOBLECK_STREAM_THREADS, or all cores.
    sample, seed, pad
        As for `Model.encode`.

    Raises
    ------
    ValueError
        When the model can't encode.

    Examples
    --------
    >>> encoder = StreamingEncoder(model)                     # doctest: +SKIP
    >>> for block in recording:                               # doctest: +SKIP
    ...     send(encoder.push(block))
    >>> send(encoder.flush())                                 # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        sample: bool = False,
        seed: int | None = None,
        pad: bool = True,
    ) -> None:
        self.model = model
        self.pad = pad
        self.latency = rows_needed(model.encoder.layers, 0) - model.hop
        self._stack = Stack(model.encoder, threads)
        self._bottleneck = Bottleneck(model.config.latent_scale, sample, seed)
        self._stream = _Stream()

    @property
    def hop(self) -> int:
        """Samples for each frame."""
        return self.model.hop

    @property
    def samplerate(self) -> int:
        """Samples a second."""
        return self.model.samplerate

    @property
    def channels(self) -> int:
        """Audio channels."""
        return self.model.channels

    @property
    def samples_in(self) -> int:
        """Samples so far; the zeros of a flush don't count."""
        return self._stream.samples_in

    @property
    def frames_out(self) -> int:
        """Frames given out so far."""
        return self._stack.rows_out()

    def reset(self) -> None:
        """Back to the beginning, ready for another piece; with a seed, with the same noise."""
        self._interrupt()
        self._stack.reset()
        self._bottleneck.reset()
        self._stream = _Stream()

    def push(self, audio: Any) -> FloatArray:
        """Take in sound; give out the frames that no later sample can change.

        Parameters
        ----------
        audio : (n, channels) array_like of real numbers
            For a mono network (n,) too. Any number of samples; none is fine.

        Returns
        -------
        (k, latent_dim) float32, C-contiguous
            After n samples, ``max(0, (n - latency) // hop)`` frames have come in all. `k` may be 0.

        Raises
        ------
        ValueError
            On a wrong shape, a dtype that is not real, or values that are not finite as float32
            (the sample is named); the stream is as it was.
        NonFiniteError
            When the sound is so large that float32 overflows in the network, and frames that are
            not finite would be given out. The error names the first such frame and has the finite
            ones before it. The encoder has to be reset or restored.
        RuntimeError
            After a flush; after an exception inside an operation or a `NonFiniteError`, until
            `reset`; or when another thread is inside this encoder.
        """
        with self._stack.exclusive():
            require_open(self._stream.status, "push")
            array = checked_audio(audio, self.channels)
            samples = checked_samples(array, self.samples_in)
            return self._advance(samples, len(samples), last=False)

    def flush(self) -> FloatArray:
        """End the stream, filling up its last frame with zeros; give out the frames withheld.

        Returns
        -------
        (k, latent_dim) float32, C-contiguous

        Raises
        ------
        NonFiniteError
            As for `push`.
        RuntimeError
            When the stream is flushed already, as for `push`.
        """
        with self._stack.exclusive():
            require_open(self._stream.status, "flush")
            missing = -self.samples_in % self.hop if self.pad else 0
            return self._advance(np.zeros((missing, self.channels), np.float32), 0, last=True)

    def snapshot(self) -> EncoderState:
        """A deep copy of the state, to be taken up again by `restore`.

        Raises
        ------
        RuntimeError
            After an exception inside an operation, until `reset`.
        """
        samples_in, status = self._stream
        require_complete(status, "snapshot")
        return EncoderState(
            self.model.encoder,
            self._stack.snapshot(),
            self._bottleneck.snapshot(),
            samples_in,
            status == "flushed",
        )

    def restore(self, state: EncoderState) -> None:
        """Take up a state of any encoder of the same model; it may be restored again and again.

        Raises
        ------
        ValueError
            When it is another model's state, or only one of the two encoders draws samples.
        """
        if not isinstance(state, EncoderState) or state.network is not self.model.encoder:
            raise ValueError("the state is not one of an encoder of this model")
        if (state.noise is None) == self._bottleneck.sample:
            raise ValueError("the state is one of an encoder with another value of sample")
        self._interrupt()
        self._stack.restore(state.stack)
        self._bottleneck.restore(state.noise)
        self._stream = _Stream(state.samples_in, status_of(state.flushed))

    def _interrupt(self) -> None:
        """Mark the stream as changing; if an exception comes, it stays marked until a reset."""
        self._stream = self._stream._replace(status="interrupted")

    def _advance(self, samples: FloatArray, count: int, last: bool) -> FloatArray:
        """Push through the stack and the bottleneck; `count` of the samples are the caller's."""
        samples_in = self.samples_in + count
        self._interrupt()
        latents = self._bottleneck.latents(self._stack.push(samples, last))
        row = first_not_finite(latents)
        self._stream = _Stream(samples_in, "overflowed" if row is not None else status_of(last))
        if row is not None:
            frame = self.frames_out - len(latents) + row
            raise NonFiniteError(encoder_overflow(frame, self.hop), {0: frame}, latents[:row])
        return latents
