"""The streaming decoder: latent frames in, every sample out as early as the network allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from oobleck_stream.latents import checked_frames, checked_shape
from oobleck_stream.model import Model
from oobleck_stream.packed import FloatArray, PackedNetwork
from oobleck_stream.streaming.gate import Gate
from oobleck_stream.streaming.progress import StackState
from oobleck_stream.streaming.stack import Stack


@dataclass(frozen=True)
class DecoderState:
    """All that a `StreamingDecoder` remembers, as `StreamingDecoder.snapshot` gives it."""

    network: PackedNetwork
    stack: StackState
    start: int
    skip: int
    flushed: bool


class StreamingDecoder:
    """Decodes a stream of latent frames, sample for sample as `Model.decode` decodes the whole.

    The samples of all pushes and the flush, put together, have the same bits as the full decode,
    however the frames are cut into pushes and whatever the number of threads. The network looks
    ahead, so the last `latency` samples are withheld until later frames come or the stream is
    flushed. Many decoders may share one model, each used by one thread at a time; pushes of
    different decoders may run in different threads at once.

    Parameters
    ----------
    model : Model
    threads : int, optional
        Threads of a push; by default the environment's OOBLECK_STREAM_THREADS, or all cores.

    Examples
    --------
    >>> decoder = StreamingDecoder(model)                     # doctest: +SKIP
    >>> for frame in latents:                                 # doctest: +SKIP
    ...     play(decoder.push(frame))
    >>> play(decoder.flush())                                 # doctest: +SKIP
    """

    def __init__(self, model: Model, threads: int | None = None) -> None:
        self.model = model
        self.latency = model.latency
        self._stack = Stack(model.decoder, threads)
        self.reset()

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
    def frames_in(self) -> int:
        """Number of the frame that the next push begins with: frames so far, or since a seek."""
        return self._start + self._stack.rows_in()

    @property
    def samples_out(self) -> int:
        """Number of the sample that the next chunk begins with."""
        return self._start * self.hop + self._stack.rows_out() + self._skip

    def reset(self) -> None:
        """Back to the beginning, ready for another piece."""
        self._stack.reset()
        self._start = 0
        self._skip = 0
        self._gate = Gate()

    def push(self, frames: Any) -> FloatArray:
        """Take in frames; give out the samples that no later frame can change.

        Parameters
        ----------
        frames : (latent_dim,) or (n, latent_dim) array_like of real numbers
            One frame, or several; none is fine.

        Returns
        -------
        (k, channels) float32, C-contiguous
            After t frames, ``max(0, t * hop - latency)`` samples have come in all. `k` may be 0.

        Raises
        ------
        ValueError
            On a wrong shape, a dtype that is not real, or values that are not finite as float32
            (the frame is named); the stream is as it was.
        RuntimeError
            After a flush, after an exception inside the arithmetic, until `reset`; or when another
            thread is inside this decoder.
        """
        self._gate.require_open("push")
        array = checked_shape(frames, self.model.latent_dim)
        return self._advance(checked_frames(array, self.frames_in), last=False)

    def flush(self) -> FloatArray:
        """End the stream; give out the samples withheld.

        Returns
        -------
        (k, channels) float32, C-contiguous

        Raises
        ------
        RuntimeError
            When the stream is flushed already, as for `push`.
        """
        self._gate.require_open("flush")
        nothing = np.empty((0, self.model.latent_dim), np.float32)
        samples = self._advance(nothing, last=True)
        self._gate.flushed = True
        return samples

    def stream(self, frames: Iterable[Any]) -> Iterator[FloatArray]:
        """Decode an iterable of frames (or of arrays of frames) chunk by chunk, to the end.

        Yields
        ------
        (k, channels) float32
            Never empty; the last one is what `flush` gives.
        """
        for piece in frames:
            chunk = self.push(piece)
            if len(chunk):
                yield chunk
        chunk = self.flush()
        if len(chunk):
            yield chunk

    def seek(self, frame: int) -> int:
        """Go to a frame's first sample; what was pushed is forgotten.

        The decoder keeps no latents, so the caller pushes again from the frame returned, a few
        before `frame`. The samples before ``frame * hop`` are dropped; those from there on are
        exactly those of the whole piece.

        Parameters
        ----------
        frame : int
            From 0.

        Returns
        -------
        int
            The frame to push next: ``max(0, frame - context)``.
        """
        if isinstance(frame, bool) or not isinstance(frame, int | np.integer) or frame < 0:
            raise ValueError(f"frame must be a whole number from 0, not {frame!r}")
        self.reset()
        self._start = max(0, int(frame) - self.model.context)
        self._skip = (int(frame) - self._start) * self.hop
        return self._start

    def snapshot(self) -> DecoderState:
        """A deep copy of the state, to be taken up again by `restore`.

        Raises
        ------
        RuntimeError
            After an exception inside the arithmetic, until `reset`.
        """
        self._gate.require_whole("snapshot")
        state = self._stack.snapshot()
        return DecoderState(self.model.decoder, state, self._start, self._skip, self._gate.flushed)

    def restore(self, state: DecoderState) -> None:
        """Take up a state of any decoder of the same model; it may be restored again and again.

        Raises
        ------
        ValueError
            When it is another model's state.
        """
        if not isinstance(state, DecoderState) or state.network is not self.model.decoder:
            raise ValueError("the state is not one of a decoder of this model")
        self._stack.restore(state.stack)
        self._start, self._skip = state.start, state.skip
        self._gate = Gate(flushed=state.flushed)

    def _advance(self, frames: FloatArray, last: bool) -> FloatArray:
        """Push through the stack; drop what lies before a seek's target."""
        self._gate.broken = True
        samples = self._stack.push(frames, last)
        self._gate.broken = False
        dropped = min(self._skip, len(samples))
        self._skip -= dropped
        return samples[dropped:] if dropped else samples
