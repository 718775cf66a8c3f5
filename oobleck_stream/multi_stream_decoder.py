"""The streaming decoder for several streams, which reads the weights once for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import (
    checked_batch,
    checked_index,
    decoder_overflow,
    finite_rows,
    is_whole,
)
from oobleck_stream.decoder_streams import DecoderState, continued
from oobleck_stream.early.look_ahead import Missing
from oobleck_stream.early.streams import open_streams
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.model import Model


class MultiStreamDecoder:
    """Decode several independent streams of latent frames side by side.

    The weights are read once for all streams that are pushed together. Each stream is bit-identical
    to a separate `StreamingDecoder`, and can be started, flushed, reset and copied independently of
    the others. The decoder may be used by only one thread at a time.

    Parameters
    ----------
    model : Model
    streams : int
        Number of streams.
    threads : int, optional
        As for `StreamingDecoder`.
    backend : str, optional
        As for `StreamingDecoder`.
    look_ahead, fade, missing, exact, pairing : optional
        As for `StreamingDecoder`, the same for all streams.

    Attributes
    ----------
    model : Model
    streams : int
        Number of streams.
    backend : str
        The backend in use, ``"cpu"`` or ``"cuda"``.
    latency : int
        Number of samples that are withheld from each stream's output until later frames are known.

    Raises
    ------
    ValueError
        If `streams` is invalid, or for one of the reasons given for `StreamingDecoder`.
    CudaUnavailable
        If the backend is ``"cuda"`` and CUDA can't be used.

    Examples
    --------
    Four streams, of which the third is left out of the second push:

    >>> import numpy as np
    >>> import oobleck_stream as ob
    >>> decoder = ob.MultiStreamDecoder(ob.load("tiny"), 4)
    >>> frames = np.stack([ob.piece("keys")[:100]] * 4)
    >>> [chunk.shape for chunk in decoder.push(frames)]
    [(5344, 2), (5344, 2), (5344, 2), (5344, 2)]
    >>> [len(chunk) for chunk in decoder.push(frames, active=[True, True, False, True])]
    [6400, 6400, 0, 6400]
    >>> decoder.frames_in
    [200, 200, 100, 200]
    """

    def __init__(
        self,
        model: Model,
        streams: int,
        threads: int | None = None,
        backend: str | None = None,
        *,
        look_ahead: float | None = None,
        fade: float | None = None,
        missing: Missing = "zeros",
        exact: bool = True,
        pairing: int = 1,
    ) -> None:
        if not (is_whole(streams) and streams >= 1):
            raise ValueError(f"streams must be a whole number from 1, not {streams!r}")
        self.model = model
        self.streams = int(streams)
        self._make = functools.partial(
            type(self),
            model,
            streams,
            threads,
            backend,
            look_ahead=look_ahead,
            fade=fade,
            missing=missing,
            exact=exact,
            pairing=pairing,
        )
        self.latency, self._streams = open_streams(
            model, self.streams, threads, backend, look_ahead, fade, missing, exact, pairing
        )
        self.backend = self._streams.stack.backend

    def __repr__(self) -> str:
        fewest, most = min(self.frames_in), max(self.frames_in)
        frames = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        return (
            f"{type(self).__name__}({self.model.name!r} on {self.backend}: {self.streams} streams, "
            f"{frames} frames in)"
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
    def frames_in(self) -> list[int]:
        """Index of the next frame to push into each stream, in the whole piece."""
        return [self._streams.frames_in(number) for number in range(self.streams)]

    @property
    def samples_out(self) -> list[int]:
        """Index of the first sample of each stream's next chunk, in the whole piece."""
        return [self._streams.samples_out(number) for number in range(self.streams)]

    @property
    def exact(self) -> list[FloatArray]:
        """For each stream, the samples that became final in its last push or flush.

        Concatenated, the samples of a stream are bit-identical to the result of `Model.decode`,
        whatever the look-ahead.
        """
        return self._streams.finals

    def reset(self, stream: int | None = None) -> None:
        """Return one stream, or by default all streams, to the beginning.

        Raises
        ------
        ValueError
            If there is no such stream.
        """
        self._streams.begin(range(self.streams) if stream is None else [self._number(stream)])

    def push(self, frames: Any, active: Any = None) -> list[FloatArray]:
        """Push the same number of frames into each stream, or into each active stream.

        Parameters
        ----------
        frames : (streams, latent_dim) or (streams, n, latent_dim) array_like of real numbers
            One frame or several frames for each stream; n may be 0.
        active : (streams,) array_like of bool, optional
            Which streams to push into; by default all. The other streams do not change, and their
            entries in `frames` are ignored.

        Returns
        -------
        list of (k, channels) float32, C-contiguous
            For each stream, the samples that no later frame can change, as `StreamingDecoder.push`
            returns them.

        Raises
        ------
        ValueError
            If the shape is wrong, if the dtype is not real, if a value of an active stream is not
            finite as float32, or if `active` is invalid. For a value that is not finite, the
            message names the stream and the frame. No stream has changed.
        NonFiniteError
            If latents are so large that float32 overflows inside the network and samples would not
            be finite. The error names each stream that overflowed and the first frame whose samples
            are not finite. Its `output` contains the samples of these streams before the first that
            is not finite, and all samples of the other streams, which are not affected. A stream
            that overflowed refuses further pushes until `reset`, `restore` or `seek`.
        RuntimeError
            If an active stream was flushed, or if an earlier operation on it was interrupted by an
            exception or raised `NonFiniteError`. After `reset`, `restore` or `seek`, frames can be
            pushed into the stream again. This error is also raised if another thread is using this
            decoder.
        """
        with self._streams.stack.exclusive():
            numbers = self._open_numbers(active, "push")
            return self._advance(self._checked(frames, numbers), numbers, last=False)

    def flush(self, active: Any = None) -> list[FloatArray]:
        """End all streams, or the active streams; return the samples that were withheld.

        Parameters
        ----------
        active : (streams,) array_like of bool, optional
            Which streams to end; by default all.

        Returns
        -------
        list of (k, channels) float32, C-contiguous
            One array for each stream.

        Raises
        ------
        ValueError
            If `active` is invalid.
        NonFiniteError
            As for `push`.
        RuntimeError
            If an active stream was already flushed, or for one of the other reasons given for
            `push`.
        """
        with self._streams.stack.exclusive():
            numbers = self._open_numbers(active, "flush")
            nothing = np.empty((len(numbers), 0, self.model.latent_dim), np.float32)
            return self._advance(nothing, numbers, last=True)

    def stream(self, frames: Iterable[Any]) -> Iterator[list[FloatArray]]:
        """Decode an iterable whose items are frames for all streams, and flush the streams.

        Parameters
        ----------
        frames : iterable
            Each item has the frames of all streams, as in `push`, and is pushed as it arrives.

        Yields
        ------
        list of (k, channels) float32
            The lists that `push` and `flush` return, except those in which all arrays are empty.

        Raises
        ------
        NonFiniteError
            As for `push`, after the finite samples have been yielded.
        """
        for piece in frames:
            yield from self._nonempty(self.push, piece)
        yield from self._nonempty(self.flush)

    def seek(self, frame: int, stream: int) -> int:
        """Move a stream to the first sample of a frame, as `StreamingDecoder.seek` does.

        Parameters
        ----------
        frame : int
            Index of the frame, at least 0.
        stream : int
            Index of the stream.

        Returns
        -------
        int
            Index of the frame to push next: ``max(0, frame - model.context)``.

        Raises
        ------
        ValueError
            If `frame` is not an integer of at least 0, or there is no such stream. No stream has
            changed.
        """
        return self._streams.begin([self._number(stream)], checked_index(frame))

    def snapshot(self, stream: int) -> DecoderState:
        """Return a deep copy of a stream's state, for `restore`.

        Raises
        ------
        ValueError
            If there is no such stream.
        RuntimeError
            If an earlier operation on the stream was interrupted by an exception or raised
            `NonFiniteError`. After `reset`, `restore` or `seek`, a snapshot is possible again.
        """
        return self._streams.snapshot(self._number(stream))

    def restore(self, state: DecoderState, stream: int) -> None:
        """Continue a stream from a state. The same state may be restored any number of times.

        Parameters
        ----------
        state : DecoderState
            A snapshot of any stream of any decoder with the same model and the same pairing. A
            snapshot of a decoder with ``exact=False`` may lack rows that a decoder with other
            options needs.
        stream : int
            Index of the stream to replace.

        Raises
        ------
        ValueError
            If `state` is not a state of a decoder with this model and this pairing, or lacks rows
            that this decoder needs, or if there is no such stream. No stream has changed.
        """
        self._streams.restore(state, self._number(stream))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy or pickle the decoder, with its options and the states of its streams."""
        return continued, (self._make, self._streams.copied())

    def _nonempty(
        self, step: Callable[..., list[FloatArray]], *frames: Any
    ) -> Iterator[list[FloatArray]]:
        """Yield what a push or flush returns, unless all arrays are empty.

        After an overflow, yield the samples before the overflow, and raise the error again.
        """
        try:
            chunks = step(*frames)
        except NonFiniteError as error:
            if any(map(len, error.output)):
                yield error.output
            raise
        if any(map(len, chunks)):
            yield chunks

    def _number(self, stream: Any) -> int:
        """Return the index of a stream; raise ``ValueError`` if there is no such stream."""
        if not (is_whole(stream) and 0 <= stream < self.streams):
            raise ValueError(f"stream must be below {self.streams}, not {stream!r}")
        return int(stream)

    def _open_numbers(self, active: Any, action: str) -> list[int]:
        """Return the indices of the active streams; raise ``RuntimeError`` if one is not open."""
        mask = np.ones(self.streams, bool) if active is None else np.asarray(active)
        if mask.dtype != bool or mask.shape != (self.streams,):
            raise ValueError(
                f"active must be a bool for each of the {self.streams} streams, "
                f"not {mask.dtype} of shape {mask.shape}"
            )
        numbers = [int(number) for number in np.flatnonzero(mask)]
        for number in numbers:
            self._streams.require_open(number, f"{action} of stream {number}")
        return numbers

    def _checked(self, frames: Any, numbers: list[int]) -> FloatArray:
        """Check `frames`; return those of the streams whose indices are in `numbers`.

        The result is (numbers, n, latent_dim) float32.
        """
        array = checked_batch(frames, self.streams, self.model.latent_dim)
        rows = np.empty((len(numbers), *array.shape[1:]), np.float32)
        for index, number in enumerate(numbers):
            what, first = f"latents of stream {number}", self._streams.frames_in(number)
            rows[index] = finite_rows(array[number], first, what, "frame")
        return rows

    def _advance(self, rows: FloatArray, numbers: list[int], last: bool) -> list[FloatArray]:
        chunks = [np.empty((0, self.channels), np.float32)] * self.streams
        pushed, overflowed = self._streams.advance(rows, numbers, last)
        for number, chunk in zip(numbers, pushed, strict=True):
            chunks[number] = chunk
        if overflowed:
            problems = []
            for number, frame in overflowed.items():
                frames = self._streams.frames_in(number)
                problem = decoder_overflow(frame, self.model.context, frames)
                problems.append(f"stream {number}: {problem}")
            raise NonFiniteError("; ".join(problems), overflowed, chunks)
        return chunks
