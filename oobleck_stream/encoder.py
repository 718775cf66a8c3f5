"""The streaming encoder, which takes audio and returns each latent frame once it is final."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bottleneck import Bottleneck
from oobleck_stream.checks import (
    checked_audio,
    checked_index,
    checked_samples,
    encoder_overflow,
    first_not_finite,
)
from oobleck_stream.engine.arena import StackState
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.stack import Stack
from oobleck_stream.engine.status import Status, require_complete, require_open, status_of
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.model import Model
from oobleck_stream.network import first_row, rows_needed


@dataclass(frozen=True)
class EncoderState:
    """The complete state of a `StreamingEncoder`, as `StreamingEncoder.snapshot` returns it.

    Treat it as opaque and pass it to `StreamingEncoder.restore` of any encoder of the same model.
    It is a deep copy, so later pushes don't change it.

    Attributes
    ----------
    network : PackedNetwork
        The encoder network that the state belongs to.
    stack : StackState
        The rows that each layer still needs, and how many rows each layer has processed.
    noise : tuple or None
        Key of the noise and index of the next frame; None if the encoder returns means.
    samples_in : int
        Index of the next sample to push, in the whole piece.
    start, skip : int
        After a `seek`: index of the stream's first frame, and number of frames still to drop.
    flushed : bool
        Whether the stream was flushed.

    Examples
    --------
    >>> import numpy as np
    >>> import oobleck_stream as ob
    >>> encoder = ob.StreamingEncoder(ob.load("tiny"))
    >>> _ = encoder.push(np.zeros((1000, 2)))
    >>> state = encoder.snapshot()
    >>> state.samples_in, state.flushed
    (1000, False)
    >>> first = encoder.push(np.ones((1000, 2)))
    >>> encoder.restore(state)
    >>> np.array_equal(encoder.push(np.ones((1000, 2))), first)
    True
    """

    network: PackedNetwork = field(repr=False)
    stack: StackState = field(repr=False)
    noise: Any = field(repr=False)
    samples_in: int
    flushed: bool
    start: int = 0
    skip: int = 0


class _Stream(NamedTuple):
    """The next sample, the status, the first frame, and the frames still to drop after a seek."""

    samples_in: int = 0
    status: Status = "open"
    start: int = 0
    skip: int = 0


class StreamingEncoder:
    """Encode a stream of audio, bit-identical to `Model.encode` of the whole piece.

    The frames of all pushes and of the flush, concatenated, are bit-identical to the full encode,
    however the audio is divided into pushes and however many threads are used. Many encoders may
    share one model. Each encoder may be used by only one thread at a time, but different threads
    may use different encoders at the same time. Encoding always runs on the CPU.

    Parameters
    ----------
    model : Model
    threads : int, optional
        Maximum number of threads of a push; by default ``$OOBLECK_STREAM_THREADS``, or the number
        of available cores. The result does not depend on the number of threads.
    sample, seed, pad
        As for `Model.encode`.

    Attributes
    ----------
    model : Model
    pad : bool
        Whether `flush` fills the last frame with zeros.
    latency : int
        The look-ahead in samples. Frame n is returned once ``(n + 1) * hop + latency`` samples have
        been pushed.

    Raises
    ------
    CheckpointError
        If the model can't encode. This error is a ``ValueError``.
    ValueError
        If `threads` is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> import oobleck_stream as ob
    >>> model = ob.load("tiny")
    >>> audio = np.random.default_rng(0).uniform(-0.5, 0.5, (10_000, 2))
    >>> encoder = ob.StreamingEncoder(model)
    >>> frames = [encoder.push(block) for block in np.array_split(audio, 20)]
    >>> latents = np.concatenate([*frames, encoder.flush()])
    >>> latents.shape
    (157, 24)
    >>> np.array_equal(latents, model.encode(audio))
    True
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
        self._make = functools.partial(type(self), model, threads, sample, seed, pad)
        self.latency = rows_needed(model.encoder.layers, 0) - model.hop
        self._stack = Stack(model.encoder, threads)
        self._bottleneck = Bottleneck(model.config.latent_scale, sample, seed)
        self._stream = _Stream()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.model.name!r}: {self.samples_in} samples in, "
            f"{self._stream.status})"
        )

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return self.model.hop

    @property
    def samplerate(self) -> int:
        """Samples per second."""
        return self.model.samplerate

    @property
    def channels(self) -> int:
        """Number of audio channels."""
        return self.model.channels

    @property
    def samples_in(self) -> int:
        """Index of the next sample to push, in the whole piece.

        Without a `seek`, this is the number of samples pushed since the beginning. The zeros that
        `flush` adds are not counted.
        """
        return self._stream.samples_in

    @property
    def frames_out(self) -> int:
        """Index of the first frame of the next chunk, in the whole piece."""
        return self._stream.start + self._stack.rows_out() + self._stream.skip

    def reset(self) -> None:
        """Return to the beginning, ready for another piece.

        With a seed, the noise starts again from the same values.
        """
        self._interrupt()
        self._stack.reset()
        self._bottleneck.reset()
        self._stream = _Stream()

    def seek(self, frame: int) -> int:
        """Move to a frame, and discard the audio pushed so far.

        The encoder keeps no audio, so the caller has to push again from the returned sample. Frames
        before `frame` are dropped; all others are bit-identical to those of the whole piece.

        Parameters
        ----------
        frame : int
            Index of the frame, at least 0.

        Returns
        -------
        int
            Index of the sample to push next. It is a multiple of `hop`.

        Raises
        ------
        ValueError
            If `frame` is not an integer of at least 0. The stream has not changed.

        Examples
        --------
        >>> import numpy as np
        >>> import oobleck_stream as ob
        >>> model = ob.load("tiny")
        >>> audio = np.random.default_rng(0).uniform(-0.5, 0.5, (10_000, 2))
        >>> encoder = ob.StreamingEncoder(model)
        >>> first = encoder.seek(100)
        >>> first
        5440
        >>> frames = [encoder.push(audio[first:]), encoder.flush()]
        >>> np.array_equal(np.concatenate(frames), model.encode(audio)[100:])
        True
        """
        frame = checked_index(frame)
        # Round down to a whole frame, because the phases of the strides begin with a frame.
        start = max(0, first_row(self.model.encoder.layers, frame) // self.hop)
        self._interrupt()
        self._stack.reset()
        self._bottleneck.reset(frame)
        self._stream = _Stream(start * self.hop, "open", start, frame - start)
        return start * self.hop

    def push(self, audio: Any) -> FloatArray:
        """Push audio; return the frames that no later sample can change.

        A push of many frames takes less time per frame than pushes of single frames, because the
        deep layers read their weights once for all of its frames.

        Parameters
        ----------
        audio : (n, channels) array_like of real numbers
            For a mono network, the shape (n,) is accepted too. n may be any number, even 0. Full
            scale is 1.0.

        Returns
        -------
        (k, latent_dim) float32, C-contiguous
            Once n samples have been pushed, ``max(0, (n - latency) // hop)`` frames have been
            returned in total; k may be 0.

        Raises
        ------
        ValueError
            If the shape is wrong, the dtype is not real, or a value is not finite as float32. In
            the last case, the message names the sample. The stream has not changed.
        NonFiniteError
            If the audio is so large that float32 overflows inside the network and frames would not
            be finite. The error names the first such frame, and its `output` holds the finite
            frames before it. The encoder refuses further pushes until `reset`, `restore` or `seek`.
        RuntimeError
            If the stream was flushed, or if an earlier operation was interrupted by an exception or
            raised `NonFiniteError`. After `reset`, `restore` or `seek`, audio can be pushed again.
            This error is also raised if another thread is using this encoder.
        """
        with self._stack.exclusive():
            require_open(self._stream.status, "push")
            array = checked_audio(audio, self.channels)
            samples = checked_samples(array, self.samples_in)
            return self._advance(samples, len(samples), last=False)

    def flush(self) -> FloatArray:
        """End the stream; return the frames that were withheld.

        If `pad` is true and the last frame is not complete, zeros fill it.

        Returns
        -------
        (k, latent_dim) float32, C-contiguous

        Raises
        ------
        NonFiniteError
            As for `push`.
        RuntimeError
            If the stream was already flushed, or for one of the other reasons given for `push`.
        """
        with self._stack.exclusive():
            require_open(self._stream.status, "flush")
            missing = -self.samples_in % self.hop if self.pad else 0
            return self._advance(np.zeros((missing, self.channels), np.float32), 0, last=True)

    def snapshot(self) -> EncoderState:
        """Return a deep copy of the state, for `restore`.

        Returns
        -------
        EncoderState

        Raises
        ------
        RuntimeError
            If an earlier operation was interrupted by an exception or raised `NonFiniteError`.
            After `reset`, `restore` or `seek`, a snapshot is possible again.
        """
        samples_in, status, start, skip = self._stream
        require_complete(status, "snapshot")
        return EncoderState(
            self.model.encoder,
            self._stack.snapshot(),
            self._bottleneck.snapshot(),
            samples_in,
            status == "flushed",
            start,
            skip,
        )

    def restore(self, state: EncoderState) -> None:
        """Continue from a state. The same state may be restored any number of times.

        Parameters
        ----------
        state : EncoderState
            A snapshot of any encoder of the same model that has the same value of `sample`.

        Raises
        ------
        ValueError
            If `state` is not a state of an encoder of this model, or if that encoder had another
            value of `sample`. The stream has not changed.
        """
        if not isinstance(state, EncoderState) or state.network is not self.model.encoder:
            raise ValueError("the state is not one of an encoder of this model")
        if (state.noise is None) == self._bottleneck.sample:
            raise ValueError("the state is one of an encoder with another value of sample")
        self._interrupt()
        self._stack.restore(state.stack)
        self._bottleneck.restore(state.noise)
        self._stream = _Stream(state.samples_in, status_of(state.flushed), state.start, state.skip)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy or pickle the encoder, with its options and the state of its stream."""
        return _continued, (self._make, self.snapshot())

    def _interrupt(self) -> None:
        """Mark the stream as interrupted; if an exception ends the operation, it stays marked."""
        self._stream = self._stream._replace(status="interrupted")

    def _advance(self, samples: FloatArray, count: int, last: bool) -> FloatArray:
        """Push rows through the stack and the bottleneck, and detect overflow.

        `count` is the number of samples that the caller pushed. It does not include the zeros that
        `flush` adds.
        """
        samples_in, start, skip = self.samples_in + count, self._stream.start, self._stream.skip
        self._interrupt()
        rows = self._stack.push(samples, last)
        dropped = min(skip, len(rows))
        latents = self._bottleneck.latents(rows[dropped:])
        row = first_not_finite(latents)
        status = "overflowed" if row is not None else status_of(last)
        self._stream = _Stream(samples_in, status, start, skip - dropped)
        if row is not None:
            frame = self.frames_out - len(latents) + row
            raise NonFiniteError(encoder_overflow(frame, self.hop), {0: frame}, latents[:row])
        return latents


def _continued(make: Callable[[], StreamingEncoder], state: EncoderState) -> StreamingEncoder:
    """Make an encoder that continues from the state of a copied encoder."""
    encoder = make()
    encoder.restore(state)
    return encoder
