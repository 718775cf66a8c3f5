"""The streaming decoder: latent frames in, every sample out as early as the network allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, cast, overload

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import (
    checked_batch,
    checked_frames,
    checked_latents,
    decoder_overflow,
    finite_rows,
    first_not_finite,
)
from oobleck_stream.engine.arena import StackState
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.stack import Stack
from oobleck_stream.engine.status import Status, require_complete, require_open, status_of
from oobleck_stream.errors import NonFiniteError
from oobleck_stream.model import Model

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # Of one stream, unless it is said otherwise.
    Samples = TypeVar("Samples", default=FloatArray)
    Count = TypeVar("Count", default=int)
else:
    from typing import TypeVar

    Samples, Count = TypeVar("Samples"), TypeVar("Count")


@dataclass(frozen=True)
class DecoderState:
    """All that a stream remembers, as `StreamingDecoder.snapshot` gives it."""

    network: PackedNetwork = field(repr=False)
    stack: StackState = field(repr=False)
    start: int
    skip: int
    flushed: bool


class _Stream(NamedTuple):
    """A stream's first frame, the samples still to be dropped after a seek, and its status."""

    start: int = 0
    skip: int = 0
    status: Status = "open"


class StreamingDecoder(Generic[Samples, Count]):
    """Decodes a stream of latent frames, sample for sample as `Model.decode` decodes the whole.

    The samples of all pushes and the flush, put together, have the same bits as the full decode,
    however the frames are cut into pushes and whatever the number of threads. The network looks
    ahead, so the last `latency` samples are withheld until later frames come or the stream is
    flushed. Many decoders may share one model, each used by one thread at a time; pushes of
    different decoders may run in different threads at once.

    With `streams` one decoder carries that many streams side by side and reads the weights once
    for all that are pushed together. Each is what a decoder of its own would be, bit for bit: it
    starts, ends, is reset and is copied without regard to the others.

    Parameters
    ----------
    model : Model
    threads : int, optional
        Threads of a push; by default the environment's OOBLECK_STREAM_THREADS, or all cores.
    streams : int, optional
        Number of streams. Then frames have one more dimension in front, `push` and `flush` give a
        list with an array for each stream, and positions are lists too.
    backend : str, optional
        Where to decode: ``"cpu"``; ``"cuda"``, a GPU; ``"auto"``, a GPU if there is one, and
        otherwise the CPU with a warning. By default the model's.

    Raises
    ------
    CudaUnavailable
        A ``RuntimeError``, when the backend is ``"cuda"`` and can't be used: says what is missing.

    Examples
    --------
    >>> decoder = StreamingDecoder(model)                     # doctest: +SKIP
    >>> for frame in latents:                                 # doctest: +SKIP
    ...     play(decoder.push(frame))
    >>> play(decoder.flush())                                 # doctest: +SKIP

    >>> four = StreamingDecoder(model, streams=4)             # doctest: +SKIP
    >>> chunks = four.push(frames_of_four)                    # doctest: +SKIP
    >>> chunks = four.push(frames_of_four, active=[True, True, False, True])  # doctest: +SKIP
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
    def frames_in(self) -> Count:
        """Number of the frame that the next push begins with: frames so far, or since a seek."""
        counts = [self._frames_in(number) for number in range(len(self._streams))]
        return cast(Count, self._each(counts))

    @property
    def samples_out(self) -> Count:
        """Number of the sample that the next chunk begins with."""
        counts = [
            stream.start * self.hop + self._stack.rows_out(number) + stream.skip
            for number, stream in enumerate(self._streams)
        ]
        return cast(Count, self._each(counts))

    def reset(self, stream: int | None = None) -> None:
        """Back to the beginning, ready for another piece: all streams, or one."""
        numbers = range(len(self._streams)) if stream is None else [self._number(stream)]
        self._begin(numbers, _Stream())

    def push(self, frames: Any, active: Any = None) -> Samples:
        """Take in frames; give out the samples that no later frame can change.

        Parameters
        ----------
        frames : (latent_dim,) or (n, latent_dim) array_like of real numbers
            One frame, or several; none is fine. With `streams`, (streams, latent_dim) or
            (streams, n, latent_dim).
        active : (streams,) array_like of bool, optional
            Only with `streams`: which of them get their frames; the others stay as they are, and
            what `frames` has for them is not looked at. All by default.

        Returns
        -------
        (k, channels) float32, C-contiguous
            After t frames, ``max(0, t * hop - latency)`` samples have come in all. `k` may be 0.
            With `streams`, a list of such arrays, one for each stream.

        Raises
        ------
        ValueError
            On a wrong shape, a dtype that is not real, or values that are not finite as float32
            (the frame is named); no stream has changed.
        NonFiniteError
            When latents are so large that float32 overflows in the network, and samples that are
            not finite would be given out. The error names the first such frame, and has the finite
            samples before it and those of all other streams, which go on as usual. The stream with
            the overflow has to be reset, restored or sent elsewhere by `seek`.
        RuntimeError
            After a flush; after an exception inside an operation or a `NonFiniteError`, until
            `reset`; or when another thread is inside this decoder.
        """
        with self._stack.exclusive():
            chosen = self._chosen(active, "push")
            return self._advance(self._checked(frames, chosen), chosen, last=False)

    def flush(self, active: Any = None) -> Samples:
        """End the stream; give out the samples withheld.

        Parameters
        ----------
        active : (streams,) array_like of bool, optional
            Only with `streams`: which of them end. All by default.

        Returns
        -------
        (k, channels) float32, C-contiguous
            With `streams`, a list of such arrays, one for each stream.

        Raises
        ------
        NonFiniteError
            As for `push`.
        RuntimeError
            When the stream is flushed already, as for `push`.
        """
        with self._stack.exclusive():
            chosen = self._chosen(active, "flush")
            nothing = np.empty((len(chosen), 0, self.model.latent_dim), np.float32)
            return self._advance(nothing, chosen, last=True)

    def stream(self, frames: Iterable[Any]) -> Iterator[Samples]:
        """Decode an iterable of frames (or of arrays of frames) chunk by chunk, to the end.

        Yields
        ------
        (k, channels) float32
            Never empty; the last one is what `flush` gives. With `streams`, what `push` and
            `flush` give, unless there is nothing in it.

        Raises
        ------
        NonFiniteError
            As for `push`, after the finite samples have been given.
        """
        for piece in frames:
            yield from self._given(self.push, piece)
        yield from self._given(self.flush)

    def seek(self, frame: int, stream: int = 0) -> int:
        """Go to a frame's first sample; what was pushed is forgotten.

        The decoder keeps no latents, so the caller pushes again from the frame returned, a few
        before `frame`. The samples before ``frame * hop`` are dropped; those from there on are
        exactly those of the whole piece.

        Parameters
        ----------
        frame : int
            From 0.
        stream : int
            Which stream, from 0.

        Returns
        -------
        int
            The frame to push next: ``max(0, frame - context)``.
        """
        if isinstance(frame, bool) or not isinstance(frame, int | np.integer) or frame < 0:
            raise ValueError(f"frame must be a whole number from 0, not {frame!r}")
        number = self._number(stream)
        start = max(0, int(frame) - self.model.context)
        self._begin([number], _Stream(start, (int(frame) - start) * self.hop))
        return start

    def snapshot(self, stream: int = 0) -> DecoderState:
        """A deep copy of a stream's state, to be taken up again by `restore`.

        Raises
        ------
        RuntimeError
            After an exception inside an operation, until `reset`.
        """
        number = self._number(stream)
        start, skip, status = self._streams[number]
        require_complete(status, "snapshot")
        state = self._stack.snapshot(number)
        return DecoderState(self.model.decoder, state, start, skip, status == "flushed")

    def restore(self, state: DecoderState, stream: int = 0) -> None:
        """Take up a state of any stream of the same model; it may be restored again and again.

        Raises
        ------
        ValueError
            When it is another model's state.
        """
        if not isinstance(state, DecoderState) or state.network is not self.model.decoder:
            raise ValueError("the state is not one of a decoder of this model")
        number = self._number(stream)
        self._interrupt([number])
        self._stack.restore(state.stack, number)
        restored = _Stream(state.start, state.skip, status_of(state.flushed))
        self._replace([number], [restored])

    def _begin(self, numbers: Sequence[int], stream: _Stream) -> None:
        """Clear some streams and give each the same first frame."""
        self._interrupt(numbers)
        for number in numbers:
            self._stack.reset(number)
        self._replace(numbers, [stream] * len(numbers))

    def _interrupt(self, numbers: Sequence[int]) -> None:
        """Mark some streams as changing; if an exception comes, they stay marked until a reset."""
        marked = [self._streams[number]._replace(status="interrupted") for number in numbers]
        self._replace(numbers, marked)

    def _replace(self, numbers: Sequence[int], streams: Sequence[_Stream]) -> None:
        """Replace some streams by one assignment, which no exception can split."""
        replaced = list(self._streams)
        for number, stream in zip(numbers, streams, strict=True):
            replaced[number] = stream
        self._streams = replaced

    def _given(self, step: Callable[..., Samples], *frames: Any) -> Iterator[Samples]:
        """What a push or a flush gives, unless it is nothing; before an overflow too."""
        try:
            chunk = step(*frames)
        except NonFiniteError as error:
            if _has_samples(error.output):
                yield error.output
            raise
        if _has_samples(chunk):
            yield chunk

    def _each(self, values: list[Any]) -> Any:
        """What there is for each stream, or for the only one."""
        return values[0] if self.streams is None else values

    def _number(self, stream: Any) -> int:
        """The number of a stream, if there is such a one."""
        whole = isinstance(stream, int | np.integer) and not isinstance(stream, bool)
        if not (whole and 0 <= stream < len(self._streams)):
            raise ValueError(f"stream must be below {len(self._streams)}, not {stream!r}")
        return int(stream)

    def _chosen(self, active: Any, action: str) -> list[int]:
        """Numbers of the streams that are meant, all of them open."""
        mask = np.ones(len(self._streams), bool) if active is None else np.asarray(active)
        if active is not None and (
            self.streams is None or mask.dtype != bool or mask.shape != (self.streams,)
        ):
            raise ValueError(
                f"active goes with streams: a bool for each, not {mask.dtype} of shape {mask.shape}"
            )
        chosen = [int(number) for number in np.flatnonzero(mask)]
        for number in chosen:
            what = action if self.streams is None else f"{action} of stream {number}"
            require_open(self._streams[number].status, what)
        return chosen

    def _frames_in(self, number: int) -> int:
        return self._streams[number].start + self._stack.rows_in(number)

    def _checked(self, frames: Any, chosen: list[int]) -> FloatArray:
        """The frames of the streams that are meant, (streams, n, latent_dim)."""
        dim = self.model.latent_dim
        if self.streams is None:
            return checked_frames(checked_latents(frames, dim), self._frames_in(0))[np.newaxis]
        array = checked_batch(frames, self.streams, dim)
        rows = np.empty((len(chosen), array.shape[1], dim), np.float32)
        for place, number in enumerate(chosen):
            what, first = f"latents of stream {number}", self._frames_in(number)
            rows[place] = finite_rows(array[number], first, what, "frame")
        return rows

    def _advance(self, rows: FloatArray, chosen: list[int], last: bool) -> Samples:
        """Push through the stack; drop what lies before a seek's target; refuse an overflow."""
        self._interrupt(chosen)
        made = self._stack.push_streams(rows, chosen, last)
        chunks = [np.empty((0, self.channels), np.float32)] * len(self._streams)
        advanced, lost = [], {}
        for number, samples in zip(chosen, made, strict=True):
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
        """The error for the samples at the end of some streams' chunks that are lost."""
        frames, problems = {}, []
        for number, count in lost.items():
            end = self._streams[number].start * self.hop + self._stack.rows_out(number)
            frames[number] = (end - count) // self.hop
            problem = decoder_overflow(frames[number], self.model.context, self._frames_in(number))
            problems.append(problem if self.streams is None else f"stream {number}: {problem}")
        return NonFiniteError("; ".join(problems), frames, self._each(chunks))


def _has_samples(chunk: Any) -> bool:
    return any(map(len, chunk)) if isinstance(chunk, list) else len(chunk) > 0
