"""Runs a stack of layers on streams of rows, and returns every output row once it is final."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.engine.arena import ArenaLayout, Counters, StackState
from oobleck_stream.engine.backends import SIZES, checked_threads, default_threads, open_engine
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.planner import Planner
from oobleck_stream.network import output_length


class Stack:
    """One or more streams that run through the layers of a packed network.

    Parameters
    ----------
    network : PackedNetwork
        The layers and their parameters.
    threads : int, optional
        Maximum number of threads of a push; by default what `default_threads` returns. The results
        do not depend on the number of threads.
    streams : int
        Number of streams, each with a separate state.
    backend : str
        One of `oobleck_stream.engine.backends.CHOICES`.
    spare : callable, optional
        ``spare(layout)`` takes the `ArenaLayout` and returns how many floats to append to each
        stream's arena. By default none are appended.
    pairing : int
        Number of frames that the first layers compute at once, see `ArenaLayout`.

    Attributes
    ----------
    backend : str
        The backend in use, one of `oobleck_stream.engine.backends.BACKENDS`.
    """

    def __init__(
        self,
        network: PackedNetwork,
        threads: int | None = None,
        streams: int = 1,
        backend: str = "cpu",
        spare: Callable[[ArenaLayout], int] = lambda layout: 0,
        pairing: int = 1,
    ) -> None:
        self.network = network
        self.pairing = pairing
        self.threads = default_threads() if threads is None else checked_threads(threads)
        self.streams = streams
        self.backend, self._layout, self._engine = open_engine(
            backend, network, streams, self.threads, spare, pairing
        )
        if self.backend == "cuda":
            self.network = network.widened
        self._max_group = SIZES[self.backend].max_group
        self._planner = Planner(self.network, self._layout)
        self._counts = np.zeros((streams, 3, len(network.layers)), np.int64)
        self._ended = [False] * streams
        self._keys = [self._planner.key(self._counts[0])] * streams
        self._busy = threading.RLock()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads out while the context is active.

        Raises
        ------
        RuntimeError
            If another thread is using the stack, or was interrupted before it could release the
            lock.
        """
        # An exception between acquiring the lock and `try` leaves the lock held. The lock is
        # reentrant, so that the thread that was interrupted can continue to use the stack.
        busy = self._busy
        if not busy.acquire(blocking=False):
            raise RuntimeError(
                "another thread is using this stream, or was interrupted while it did: "
                "give each thread a stream of its own, or call reset()"
            )
        try:
            yield
        finally:
            busy.release()

    def reset(self, stream: int = 0) -> None:
        """Return a stream to its state before the first row."""
        # The old lock may be held by a thread that was interrupted, or that exists only in the
        # parent process.
        self._busy = threading.RLock()
        self._counts[stream] = 0
        self._ended[stream] = False
        self._keys[stream] = self._planner.key(self._counts[stream])

    def rows_in(self, stream: int = 0) -> int:
        """Number of rows pushed so far."""
        return int(self._counts[stream, 0, 0])

    def rows_out(self, stream: int = 0) -> int:
        """Number of rows returned so far."""
        return int(self._counts[stream, 2, -1])

    def ended(self, stream: int = 0) -> bool:
        """Whether the stream's input has ended."""
        return self._ended[stream]

    def due(self, rows: int, last: bool = False, stream: int = 0) -> int:
        """Number of rows that a push of `rows` rows would return; `last` is as in `push`."""
        received = self.rows_in(stream) + rows
        if last:
            return output_length(self.network.layers, received) - self.rows_out(stream)
        return self._layout.due_rows(received) - self.rows_out(stream)

    def push(
        self, rows: FloatArray, last: bool = False, out: FloatArray | None = None
    ) -> FloatArray:
        """Push rows into the first stream and return every output row that is now final.

        Parameters
        ----------
        rows : (n, inputs) float32, C-contiguous
        last : bool
            Whether the input ends with these rows. If so, all withheld rows are returned too.
        out : (due, outputs) float32, C-contiguous, optional
            Where to write the result.

        Returns
        -------
        (due, outputs) float32
        """
        return self.push_streams(rows[None], [0], last, None if out is None else out[None])[0]

    def push_streams(
        self,
        rows: FloatArray,
        streams: Sequence[int],
        last: bool = False,
        out: FloatArray | None = None,
    ) -> list[FloatArray]:
        """Push the same number of rows into each of `streams`.

        Parameters
        ----------
        rows : (streams, n, inputs) float32, C-contiguous
        streams : sequence of int
            Indices of the streams, all different.
        last : bool
            Whether the input of all these streams ends with these rows.
        out : (streams, due, outputs) float32, optional
            Where to write the result, if the same number of rows is due in all streams.

        Returns
        -------
        list of (due, outputs) float32
            One array for each of `streams`.
        """
        lockstep: dict[int, list[int]] = {}
        for position, stream in enumerate(streams):
            lockstep.setdefault(self._keys[stream], []).append(position)
        if len(lockstep) == 1 and len(streams) <= self._max_group:
            return list(self._push_group(rows, streams, last, out))
        results: dict[int, FloatArray] = {}
        for positions in lockstep.values():
            for first in range(0, len(positions), self._max_group):
                group = positions[first : first + self._max_group]
                chosen = [streams[position] for position in group]
                pushed = self._push_group(rows[group], chosen, last, None)
                results |= zip(group, pushed, strict=True)
        return [results[position] for position in range(len(streams))]

    def _push_group(
        self, rows: FloatArray, streams: Sequence[int], last: bool, out: FloatArray | None
    ) -> FloatArray:
        """Push rows into streams with the same plan key, so that one program serves all of them."""
        length, entry, first = rows.shape[1], self._layout.entry, streams[0]
        numbers = np.array(streams, np.int64)
        width, written = self.network.layers[-1].outputs, 0
        if out is None and length > entry:
            out = np.empty((len(streams), self.due(length, last, first), width), np.float32)
        for start in range(0, max(1, length), entry):
            piece, ends = rows[:, start : start + entry], last and start + entry >= length
            program, key = self._planner.program(
                self._keys[first], self._counts[first], piece.shape[1], ends
            )
            if out is None:
                out = np.empty((len(streams), program.rows_out, width), np.float32)
            room = out[:, written : written + program.rows_out]
            if room.shape[1] != program.rows_out:
                raise ValueError(f"room for {program.rows_out} rows was expected in out")
            self._engine.run(program, numbers, piece, room)
            written += program.rows_out
            for stream in streams:
                self._counts[stream] += program.counts
                self._keys[stream] = key
                self._ended[stream] = ends
        assert out is not None
        return out

    def step_times(self) -> list[tuple[int, float]]:
        """The layer of each step of the last program, and its share of the time.

        A push of few rows is one program. A longer push runs several programs, and only the last
        one is reported.
        """
        return self._engine.step_times()

    def snapshot(self, stream: int = 0) -> StackState:
        """A deep copy of a stream's state."""
        counts, ended = self._counts[stream].copy(), self._ended[stream]
        kept = self._layout.kept(Counters.at(counts, ended))
        rows = tuple(self._engine.read(stream, start, size) for start, size in kept)
        return StackState(counts, ended, rows)

    def restore(self, state: StackState, stream: int = 0) -> None:
        """Continue a stream from a snapshot, even one of another stack of the same layers."""
        kept = self._layout.kept(Counters.at(state.counts, state.ended))
        for (start, _), values in zip(kept, state.kept, strict=True):
            self._engine.write(stream, start, values)
        self._counts[stream] = state.counts
        self._ended[stream] = state.ended
        self._keys[stream] = self._planner.key(state.counts)
