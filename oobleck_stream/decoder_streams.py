"""The streams of a decoder: a stack of layers, and each stream's position and status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.engine.arena import StackState
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.stack import Stack
from oobleck_stream.engine.status import Status, require_complete, require_open, status_of
from oobleck_stream.model import Model


@dataclass(frozen=True)
class DecoderState:
    """The complete state of a stream, as `StreamingDecoder.snapshot` returns it.

    Treat it as opaque and pass it to `StreamingDecoder.restore` of any decoder of the same model
    and the same pairing. It is a deep copy, so later pushes don't change it.

    Attributes
    ----------
    network : PackedNetwork
        The decoder network that the state belongs to.
    stack : StackState
        The rows that each layer still needs, and how many rows each layer has processed.
    start : int
        The frame at which the stream began: 0, or the frame that `seek` returned.
    skip : int
        Number of samples that are still to be dropped after a `seek`.
    flushed : bool
        Whether the stream was flushed.
    depth : int
        Number of layers that the stream computes. These are all layers, or, with ``exact=False``,
        the layers that its early samples need.
    pairing : int
        Number of frames that the decoder's deepest levels compute at once.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> decoder, latents = ob.StreamingDecoder(ob.load("tiny")), ob.piece("keys")
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
    depth: int
    pairing: int = 1


class Position(NamedTuple):
    """A stream's first frame, the samples still to drop after a seek, and its status."""

    start: int = 0
    skip: int = 0
    status: Status = "open"


class DecoderStreams:
    """One or more streams of a model's decoder.

    Every operation first marks the streams that it changes as interrupted. When the operation is
    complete, one assignment sets the new positions and statuses of all these streams. So after an
    exception at any point, even one raised by a signal handler, each stream is in one of three
    states: unchanged, completely changed, or marked as interrupted. An interrupted stream can't be
    used until `begin` or `restore` is called for it.

    Parameters
    ----------
    model : Model
    count : int
        Number of streams.
    threads, backend
        As for `oobleck_stream.StreamingDecoder`.
    stack : Stack, optional
        A stack of the decoder's layers with `count` streams; by default a new stack.
    depth : int, optional
        Number of layers that `stack` computes; by default all layers.
    pairing : int
        As for `oobleck_stream.StreamingDecoder`. It is ignored if `stack` is passed.

    Attributes
    ----------
    model : Model
    stack : Stack
    depth : int
    """

    def __init__(
        self,
        model: Model,
        count: int,
        threads: int | None = None,
        backend: str | None = None,
        stack: Stack | None = None,
        depth: int | None = None,
        pairing: int = 1,
    ) -> None:
        self.model = model
        self.depth = len(model.decoder.layers) if depth is None else depth
        self.stack = stack or Stack(
            model.decoder, threads, count, backend or model.backend, pairing=pairing
        )
        self._positions = [Position()] * count
        self._finals = [np.empty((0, model.channels), np.float32)] * count

    def __len__(self) -> int:
        return len(self._positions)

    def frames_in(self, number: int) -> int:
        """Index of the next frame to push into a stream, in the whole piece."""
        return self._positions[number].start + self.stack.rows_in(number)

    def samples_out(self, number: int) -> int:
        """Index of the first sample of a stream's next chunk, in the whole piece."""
        start, skip, _ = self._positions[number]
        return start * self.model.hop + self.stack.rows_out(number) + skip

    def status(self, number: int) -> Status:
        """The status of a stream, which says whether it accepts input and, if not, why."""
        return self._positions[number].status

    def require_open(self, number: int, action: str) -> None:
        """Raise a ``RuntimeError`` that names the action, unless the stream accepts input."""
        require_open(self._positions[number].status, action)

    def begin(self, numbers: Sequence[int], frame: int = 0) -> int:
        """Clear streams, so that their output begins at the first sample of a frame.

        Returns
        -------
        int
            Index of the frame to push next: ``max(0, frame - model.context)``.
        """
        start = max(0, frame - self.model.context)
        position = Position(start, (frame - start) * self.model.hop)
        self._interrupt(numbers)
        for number in numbers:
            self.stack.reset(number)
        self._replace(numbers, [position] * len(numbers))
        return start

    @property
    def exact(self) -> bool:
        """Whether the streams compute the exact samples."""
        return self.depth == len(self.model.decoder.layers)

    @property
    def finals(self) -> list[FloatArray]:
        """For each stream, the exact samples that became final in its last `advance`.

        Raises
        ------
        RuntimeError
            If the streams don't compute exact samples.
        """
        if not self.exact:
            raise RuntimeError("this decoder was made with exact=False: it has no exact samples")
        return self._finals

    def advance(
        self, rows: FloatArray, numbers: Sequence[int], last: bool
    ) -> tuple[list[FloatArray], dict[int, int]]:
        """Push the same number of frames into each of some streams.

        After a seek to a frame, the samples before this frame are dropped.

        Parameters
        ----------
        rows : (numbers, n, latent_dim) float32, C-contiguous
            Finite latents.
        numbers : sequence of int
            Indices of the streams, all different and open.
        last : bool
            Whether the input of all these streams ends with these frames.

        Returns
        -------
        chunks : list of (k, channels) float32
            The finite samples of each stream in `numbers`. If a stream overflowed, these are the
            samples before its first sample that is not finite.
        overflowed : dict
            Maps the index of each stream whose output is not finite to the index of the first frame
            with such samples.
        """
        self._interrupt(numbers)
        chunks: list[FloatArray] = []
        positions, overflowed = [], {}
        pushed = self.stack.push_streams(rows, numbers, last)
        for number, samples in zip(numbers, pushed, strict=True):
            start, skip, _ = self._positions[number]
            dropped = min(skip, len(samples))
            chunk = samples[dropped:] if dropped else samples
            status, row = status_of(last), first_not_finite(chunk)
            if row is not None:
                end = start * self.model.hop + self.stack.rows_out(number)
                overflowed[number] = (end - len(chunk) + row) // self.model.hop
                chunk, status = chunk[:row], "overflowed"
            chunks.append(chunk)
            positions.append(Position(start, skip - dropped, status))
        self._keep_finals(numbers, chunks)
        self._replace(numbers, positions)
        return chunks, overflowed

    def snapshot(self, number: int) -> DecoderState:
        """A deep copy of a stream's state; raises ``RuntimeError`` if the state is inconsistent."""
        start, skip, status = self._positions[number]
        require_complete(status, "snapshot")
        state = self.stack.snapshot(number)
        flushed, pairing = status == "flushed", self.stack.pairing
        return DecoderState(self.model.decoder, state, start, skip, flushed, self.depth, pairing)

    def restore(self, state: DecoderState, number: int) -> None:
        """Continue from a state; raise ``ValueError`` if this stream can't continue from it."""
        if not isinstance(state, DecoderState) or state.network is not self.model.decoder:
            raise ValueError("the state is not one of a decoder of this model")
        if state.depth < self.depth:
            raise ValueError("the state is of a decoder with exact=False: it lacks rows")
        if state.pairing != self.stack.pairing:
            raise ValueError(
                f"the state is of a decoder with pairing={state.pairing}, "
                f"and this decoder has pairing={self.stack.pairing}"
            )
        self._interrupt([number])
        self.stack.restore(state.stack, number)
        self._replace([number], [Position(state.start, state.skip, status_of(state.flushed))])

    def copied(self) -> tuple[list[DecoderState], list[FloatArray]]:
        """Return the states of all streams and their last exact samples, for `continue_from`."""
        states = [self.snapshot(number) for number in range(len(self))]
        return states, [samples.copy() for samples in self._finals]

    def continue_from(self, states: Sequence[DecoderState], finals: list[FloatArray]) -> None:
        """Continue from what `copied` returned for streams with the same options."""
        for number, state in enumerate(states):
            self.restore(state, number)
        self._finals = finals

    def _interrupt(self, numbers: Sequence[int]) -> None:
        """Mark streams as interrupted; if an exception ends the operation, they stay marked."""
        marked = [self._positions[number]._replace(status="interrupted") for number in numbers]
        self._replace(numbers, marked)

    def _keep_finals(self, numbers: Sequence[int], chunks: Sequence[FloatArray]) -> None:
        finals = list(self._finals)
        for number, chunk in zip(numbers, chunks, strict=True):
            finals[number] = chunk
        self._finals = finals

    def _replace(self, numbers: Sequence[int], positions: Sequence[Position]) -> None:
        """Replace the positions of streams by one assignment, which no exception can split."""
        replaced = list(self._positions)
        for number, position in zip(numbers, positions, strict=True):
            replaced[number] = position
        self._positions = replaced


def continued(make: Callable[[], Any], copied: tuple[list[DecoderState], list[FloatArray]]) -> Any:
    """Make a decoder whose streams continue from copied states.

    Parameters
    ----------
    make : callable
        Takes no arguments, and returns a decoder with the options of the copied decoder.
    copied : tuple
        What `DecoderStreams.copied` returned.
    """
    decoder = make()
    decoder._streams.continue_from(*copied)
    return decoder
