"""The streaming decoder: latent frames in, each sample out as soon as it is final.

`oobleck_stream/README.md` ("The life of a push") describes what happens below this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, cast, overload

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.engine.arena import StackState
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.stack import Stack
from oobleck_stream.engine.status import Status, require_complete, require_open, status_of
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.finite import first_not_finite, samples_not_finite
from oobleck_stream.latents import checked_batch, checked_frames, checked_shape, finite_rows
from oobleck_stream.model import Model

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # What `push` returns, and the type of positions: an array and an int for one stream, a list of
    # arrays and a list of ints with `streams`. The defaults keep the common annotation short.
    Samples = TypeVar("Samples", default=FloatArray)
    Count = TypeVar("Count", default=int)
else:
    from typing import TypeVar

    Samples, Count = TypeVar("Samples"), TypeVar("Count")


@dataclass(frozen=True)
class DecoderState:
    """The complete state of a stream, as `StreamingDecoder.snapshot` returns it.

    Treat it as opaque and pass it to `StreamingDecoder.restore` of any decoder of the same model.
    It is a deep copy, so later pushes don't change it.

    Attributes
    ----------
    network : PackedNetwork
        The decoder network that the state belongs to.
    stack : StackState
        The rows that each layer still needs, and how many rows each layer has processed.
    start : int
        The frame at which the stream began: 0, or the frame that `seek` returned.
    skip : int
        Samples still to be dropped after a `seek`.
    flushed : bool
        Whether the stream was flushed.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model = ob.load("tiny")
    >>> decoder = ob.StreamingDecoder(model)
    >>> latents = ob.piece("keys")
    >>> _ = decoder.push(latents[:100])
    >>> state = decoder.snapshot()
    >>> state.flushed
    False
    >>> first = decoder.push(latents[100:200])
    >>> decoder.restore(state)
    >>> again = decoder.push(latents[100:200])
    >>> bool((first == again).all())
    True
    """

    network: PackedNetwork = field(repr=False)
    stack: StackState = field(repr=False)
    start: int
    skip: int
    flushed: bool


class _Stream(NamedTuple):
    """Per-stream bookkeeping: first frame, samples still to drop after a seek, and status."""

    start: int = 0
    skip: int = 0
    status: Status = "open"


class StreamingDecoder(Generic[Samples, Count]):
    """Decode a stream of latent frames, bit-identical to `Model.decode` of the whole piece.

    The chunks of all pushes and of the flush, concatenated, are bit-identical to the full decode,
    however the frames are divided into pushes and however many threads are used. The network looks
    ahead, so the last `latency` samples are withheld until later frames arrive or the stream is
    flushed. Many decoders may share one model. Each decoder may be used by only one thread at a
    time; different decoders may push in different threads at once.

    With `streams`, one decoder carries that many independent streams and reads the weights once for
    all streams that are pushed together. Each stream is bit-identical to a separate decoder, and
    can be started, flushed, reset and copied independently of the others.

    Parameters
    ----------
    model : Model
    threads : int, optional
        Maximum number of threads of a push on the CPU; by default ``$OOBLECK_STREAM_THREADS``, or
        the number of available cores. The result does not depend on it.
    streams : int, optional
        Number of streams. If given, frames have an additional leading dimension, `push` and `flush`
        return a list with one array for each stream, and positions are lists.
    backend : str, optional
        Where to decode: ``"cpu"``; ``"cuda"``, a GPU; or ``"auto"``, a GPU if one can be used, and
        otherwise the CPU, with a warning. By default the model's backend.

    Attributes
    ----------
    model : Model
    streams : int or None
        Number of streams; None if `streams` was not given.
    backend : str
        The backend in use, ``"cpu"`` or ``"cuda"``.
    latency : int
        Samples withheld until later frames are known, the network's look-ahead.

    Raises
    ------
    ValueError
        If `threads`, `streams` or `backend` is invalid.
    CudaUnavailable
        If the backend is ``"cuda"`` and can't be used; the message names what is missing. It is a
        ``RuntimeError``.

    Examples
    --------
    >>> import numpy as np
    >>> import oobleck_stream as ob
    >>> model, latents = ob.load("tiny"), ob.piece("keys")[:300]
    >>> decoder = ob.StreamingDecoder(model)
    >>> decoder.latency, decoder.hop
    (1056, 64)
    >>> chunks = [decoder.push(frame) for frame in latents]
    >>> sum(map(len, chunks)) == 300 * decoder.hop - decoder.latency
    True
    >>> audio = np.concatenate([*chunks, decoder.flush()])
    >>> np.array_equal(audio, model.decode(latents))
    True

    Four streams, of which the third is left out of the second push:

    >>> four = ob.StreamingDecoder(model, streams=4)
    >>> frames = np.stack([latents[:100]] * 4)
    >>> [chunk.shape for chunk in four.push(frames)]
    [(5344, 2), (5344, 2), (5344, 2), (5344, 2)]
    >>> [len(chunk) for chunk in four.push(frames, active=[True, True, False, True])]
    [6400, 6400, 0, 6400]
    >>> four.frames_in
    [200, 200, 100, 200]
    """

    @overload
    def __init__(
        self: StreamingDecoder[FloatArray, int],
        model: Model,
        threads: int | None = None,
        streams: None = None,
        backend: str | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: StreamingDecoder[list[FloatArray], list[int]],
        model: Model,
        threads: int | None = None,
        *,
        streams: int,
        backend: str | None = None,
    ) -> None: ...

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        streams: int | None = None,
        backend: str | None = None,
    ) -> None:
        whole = isinstance(streams, int | np.integer) and not isinstance(streams, bool)
        if streams is not None and not (whole and streams >= 1):
            raise ValueError(f"streams must be a whole number from 1, not {streams!r}")
        self.model = model
        self.streams = None if streams is None else int(streams)
        self.latency = model.latency
        self._stack = Stack(model.decoder, threads, self.streams or 1, backend or model.backend)
        self.backend = self._stack.backend
        self._streams = [_Stream() for _ in range(self._stack.streams)]

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
    def frames_in(self) -> Count:
        """Index of the next frame to push, in the whole piece.

        This is the number of frames pushed so far, plus the frame that the last `seek` returned. A
        list with `streams`.
        """
        counts = [self._frames_in(number) for number in range(len(self._streams))]
        return cast(Count, self._each(counts))

    @property
    def samples_out(self) -> Count:
        """Index of the first sample of the next chunk, in the whole piece.

        A list with `streams`.
        """
        counts = [
            stream.start * self.hop + self._stack.rows_out(number) + stream.skip
            for number, stream in enumerate(self._streams)
        ]
        return cast(Count, self._each(counts))

    def reset(self, stream: int | None = None) -> None:
        """Return to the beginning, ready for another piece.

        Parameters
        ----------
        stream : int, optional
            The stream to reset; by default all of them.

        Raises
        ------
        ValueError
            If there is no such stream.
        """
        numbers = range(len(self._streams)) if stream is None else [self._number(stream)]
        self._begin(numbers, _Stream())

    def push(self, frames: Any, active: Any = None) -> Samples:
        """Push frames; return the samples that no later frame can change.

        Parameters
        ----------
        frames : (latent_dim,) or (n, latent_dim) array_like of real numbers
            One frame, or several; n may be 0. With `streams`, (streams, latent_dim) or (streams, n,
            latent_dim).
        active : (streams,) array_like of bool, optional
            Only with `streams`: the streams to push into, by default all of them. The other streams
            stay as they are, and their rows of `frames` are ignored.

        Returns
        -------
        (k, channels) float32, C-contiguous
            After t frames, ``max(0, t * hop - latency)`` samples have been returned in total; k may
            be 0. With `streams`, a list of such arrays, one for each stream.

        Raises
        ------
        ValueError
            If the shape is wrong, the dtype is not real, a value is not finite as float32 (the
            message names the frame), or `active` is invalid. No stream has changed.
        NonFiniteError
            If the latents are so large that float32 overflows inside the network and samples would
            not be finite. The error names the first such frame. Its `output` holds the finite
            samples before that frame, and all samples of the other streams, which are not affected.
            The stream that overflowed refuses further pushes until `reset`, `restore` or `seek`.
        RuntimeError
            If a stream was flushed; if an earlier operation was interrupted by an exception or
            raised `NonFiniteError`, until `reset`; or if another thread is using this decoder.
        """
        with self._stack.exclusive():
            chosen = self._chosen(active, "push")
            return self._advance(self._checked(frames, chosen), chosen, last=False)

    def flush(self, active: Any = None) -> Samples:
        """End the stream; return the samples that were withheld.

        Parameters
        ----------
        active : (streams,) array_like of bool, optional
            Only with `streams`: the streams to end, by default all of them.

        Returns
        -------
        (k, channels) float32, C-contiguous
            With `streams`, a list of such arrays, one for each stream.

        Raises
        ------
        ValueError
            If `active` is invalid.
        NonFiniteError
            As for `push`.
        RuntimeError
            If the stream was already flushed, or as for `push`.
        """
        with self._stack.exclusive():
            chosen = self._chosen(active, "flush")
            nothing = np.empty((len(chosen), 0, self.model.latent_dim), np.float32)
            return self._advance(nothing, chosen, last=True)

    def stream(self, frames: Iterable[Any]) -> Iterator[Samples]:
        """Decode an iterable of frames, or of arrays of frames, to its end.

        Parameters
        ----------
        frames : iterable
            Each item is pushed as it arrives.

        Yields
        ------
        (k, channels) float32
            Never empty. The last chunk is what `flush` returns. With `streams`, lists as
            `push` and `flush` return them, unless all arrays in them are empty.

        Raises
        ------
        NonFiniteError
            As for `push`, after the finite samples have been yielded.
        """
        for piece in frames:
            yield from self._nonempty(self.push, piece)
        yield from self._nonempty(self.flush)

    def seek(self, frame: int, stream: int = 0) -> int:
        """Move to the first sample of a frame, and forget what was pushed.

        The decoder keeps no latents, so the caller has to push again from the returned frame, which
        is up to ``model.context`` frames before `frame`. Samples before ``frame * hop`` are
        dropped; the later ones are bit-identical to those of the whole piece.

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
            If `frame` is not an integer of at least 0, or there is no such stream; nothing has
            changed.
        """
        if isinstance(frame, bool) or not isinstance(frame, int | np.integer) or frame < 0:
            raise ValueError(f"frame must be a whole number from 0, not {frame!r}")
        number = self._number(stream)
        start = max(0, int(frame) - self.model.context)
        self._begin([number], _Stream(start, (int(frame) - start) * self.hop))
        return start

    def snapshot(self, stream: int = 0) -> DecoderState:
        """Return a deep copy of a stream's state, for `restore`.

        Parameters
        ----------
        stream : int
            Index of the stream.

        Returns
        -------
        DecoderState

        Raises
        ------
        ValueError
            If there is no such stream.
        RuntimeError
            If an earlier operation was interrupted by an exception or raised `NonFiniteError`,
            until `reset`.
        """
        number = self._number(stream)
        start, skip, status = self._streams[number]
        require_complete(status, "snapshot")
        state = self._stack.snapshot(number)
        return DecoderState(self.model.decoder, state, start, skip, status == "flushed")

    def restore(self, state: DecoderState, stream: int = 0) -> None:
        """Continue a stream from a state, which may be restored any number of times.

        Parameters
        ----------
        state : DecoderState
            From any stream of any decoder of the same model.
        stream : int
            Index of the stream to replace.

        Raises
        ------
        ValueError
            If it is not a state of a decoder of this model, or there is no such stream; nothing
            has changed.
        """
        if not isinstance(state, DecoderState) or state.network is not self.model.decoder:
            raise ValueError("the state is not one of a decoder of this model")
        number = self._number(stream)
        self._interrupt([number])
        self._stack.restore(state.stack, number)
        restored = _Stream(state.start, state.skip, status_of(state.flushed))
        self._replace([number], [restored])

    def _begin(self, numbers: Sequence[int], stream: _Stream) -> None:
        """Clear the state of some streams, and give all of them the same bookkeeping."""
        self._interrupt(numbers)
        for number in numbers:
            self._stack.reset(number)
        self._replace(numbers, [stream] * len(numbers))

    def _interrupt(self, numbers: Sequence[int]) -> None:
        """Mark streams as changing. If an exception follows, they stay marked until a reset."""
        marked = [self._streams[number]._replace(status="interrupted") for number in numbers]
        self._replace(numbers, marked)

    def _replace(self, numbers: Sequence[int], streams: Sequence[_Stream]) -> None:
        """Replace the bookkeeping of streams by a single assignment.

        An exception, even one raised by a signal handler, can't leave half of them replaced.
        """
        replaced = list(self._streams)
        for number, stream in zip(numbers, streams, strict=True):
            replaced[number] = stream
        self._streams = replaced

    def _nonempty(self, step: Callable[..., Samples], *frames: Any) -> Iterator[Samples]:
        """Yield the result of a push or flush unless it is empty, also before an overflow."""
        try:
            chunk = step(*frames)
        except NonFiniteError as error:
            if _has_samples(error.output):
                yield error.output
            raise
        if _has_samples(chunk):
            yield chunk

    def _each(self, values: list[Any]) -> Any:
        """The list of values per stream; without `streams`, the only value."""
        return values[0] if self.streams is None else values

    def _number(self, stream: Any) -> int:
        """A valid stream index, or ``ValueError``."""
        whole = isinstance(stream, int | np.integer) and not isinstance(stream, bool)
        if not (whole and 0 <= stream < len(self._streams)):
            raise ValueError(f"stream must be below {len(self._streams)}, not {stream!r}")
        return int(stream)

    def _chosen(self, active: Any, action: str) -> list[int]:
        """Indices of the active streams; ``RuntimeError`` if one of them is not open."""
        mask = np.ones(len(self._streams), bool) if active is None else np.asarray(active)
        if active is not None and (
            self.streams is None or mask.dtype != bool or mask.shape != (self.streams,)
        ):
            raise ValueError(
                "active needs a decoder with streams, and a bool for each of them, "
                f"not {mask.dtype} of shape {mask.shape}"
            )
        chosen = [int(number) for number in np.flatnonzero(mask)]
        for number in chosen:
            what = action if self.streams is None else f"{action} of stream {number}"
            require_open(self._streams[number].status, what)
        return chosen

    def _frames_in(self, number: int) -> int:
        return self._streams[number].start + self._stack.rows_in(number)

    def _checked(self, frames: Any, chosen: list[int]) -> FloatArray:
        """The frames of the chosen streams, (chosen, n, latent_dim) float32, or ``ValueError``."""
        dim = self.model.latent_dim
        if self.streams is None:
            return checked_frames(checked_shape(frames, dim), self._frames_in(0))[np.newaxis]
        array = checked_batch(frames, self.streams, dim)
        rows = np.empty((len(chosen), array.shape[1], dim), np.float32)
        for place, number in enumerate(chosen):
            what, first = f"latents of stream {number}", self._frames_in(number)
            rows[place] = finite_rows(array[number], first, what, "frame")
        return rows

    def _advance(self, rows: FloatArray, chosen: list[int], last: bool) -> Samples:
        """Push through the stack, drop samples before the target of a seek, detect overflow."""
        self._interrupt(chosen)
        pushed = self._stack.push_streams(rows, chosen, last)
        chunks = [np.empty((0, self.channels), np.float32)] * len(self._streams)
        advanced, lost = [], {}
        for number, samples in zip(chosen, pushed, strict=True):
            start, skip, _ = self._streams[number]
            dropped = min(skip, len(samples))
            chunk = samples[dropped:] if dropped else samples
            status, row = status_of(last), first_not_finite(chunk)
            if row is not None:
                status, lost[number] = "overflowed", len(chunk) - row
                chunk = chunk[:row]
            chunks[number] = chunk
            advanced.append(_Stream(start, skip - dropped, status))
        self._replace(chosen, advanced)
        if lost:
            raise self._overflow(lost, chunks)
        return cast(Samples, self._each(chunks))

    def _overflow(self, lost: dict[int, int], chunks: list[FloatArray]) -> NonFiniteError:
        """The error for streams whose output overflowed.

        Parameters
        ----------
        lost : dict
            For each such stream, the number of samples cut from the end of its chunk.
        chunks : list of array
            The finite samples of every stream.
        """
        frames, problems = {}, []
        for number, count in lost.items():
            end = self._streams[number].start * self.hop + self._stack.rows_out(number)
            frames[number] = (end - count) // self.hop
            problem = samples_not_finite(
                frames[number], self.model.context, self._frames_in(number)
            )
            problems.append(problem if self.streams is None else f"stream {number}: {problem}")
        return NonFiniteError("; ".join(problems), frames, self._each(chunks))


def _has_samples(chunk: Any) -> bool:
    return any(map(len, chunk)) if isinstance(chunk, list) else len(chunk) > 0
