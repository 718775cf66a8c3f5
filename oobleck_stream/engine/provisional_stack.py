"""A stack that can also return output rows before they are final."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from oobleck_stream.arrays import FloatArray, IntArray
from oobleck_stream.engine.arena import Counters
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.planner import Planner
from oobleck_stream.engine.program import Program
from oobleck_stream.engine.provisional import (
    Blocks,
    layers_read,
    plan_provisional,
    scratch_layout,
    without_products,
)
from oobleck_stream.engine.provisional_front import Push
from oobleck_stream.engine.stack import Stack
from oobleck_stream.network import context, growth, output_length

MAX_PROGRAMS = 64
"""Maximum number of programs kept for reuse."""


class ProvisionalStack(Stack):
    """A `Stack` whose streams can also return rows that are not final yet.

    Parameters
    ----------
    network, threads, streams, backend
        As for `Stack`. No layer may shorten its input, and the last may not be transposed.
    depth : int, optional
        Number of layers whose final rows are computed; by default all layers. With fewer, the rows
        that `push` returns have no meaning. The rows that `provisional` returns are the same as
        with all layers, if they depend on no final rows of the other layers (see `layers_read`).
    """

    def __init__(
        self,
        network: PackedNetwork,
        threads: int | None = None,
        streams: int = 1,
        backend: str = "cpu",
        depth: int | None = None,
    ) -> None:
        super().__init__(
            network,
            threads,
            streams,
            backend,
            spare=lambda layout: scratch_layout(layout).floats - layout.floats,
        )
        self._scratch = scratch_layout(self._layout)
        if depth is not None:
            self._planner = _ShallowPlanner(self.network, self._layout, depth=depth)
            self._keys = [self._planner.key(self._counts[0])] * streams
        self._hop = growth(network.layers)
        # Once this many rows have been received, no needed row is before the first row.
        self._steady = 2 * context(network.layers) + 4
        self._provisional: dict[tuple[int, Range], Program] = {}
        self._pushes: dict[tuple[int, Range], tuple[Program, Program, int]] = {}

    def push_provisional(
        self, rows: FloatArray, streams: Sequence[int], first: int, end: int, held: int
    ) -> tuple[list[FloatArray], list[FloatArray]]:
        """Push one row into each of `streams`, and return the final and the provisional rows.

        The result is the same as if `push_streams` and then `provisional` were called, but the
        weights of the first layers are read only once for both.

        Parameters
        ----------
        rows : (streams, 1, inputs) float32, C-contiguous
        streams : sequence of int
            Indices of the streams, all different.
        first, end, held
            As for `provisional`.

        Returns
        -------
        final, provisional : list of (n, outputs) float32
        """
        final: dict[int, FloatArray] = {}
        early: dict[int, FloatArray] = {}
        for key, positions in self._groups(streams, 1, first, end, held):
            chosen = [streams[position] for position in positions]
            numbers = np.array(chosen, np.int64)
            pushed, program, after = self._push_programs(key, chosen[0])
            rows_out = self._empty(len(chosen), pushed.rows_out)
            self._engine.run(pushed, numbers, rows[positions], rows_out)
            for stream in chosen:
                self._counts[stream] += pushed.counts
                self._keys[stream] = after
            final |= zip(positions, rows_out, strict=True)
            early |= zip(positions, self._run(program, numbers), strict=True)
        order = range(len(streams))
        return [final[position] for position in order], [early[position] for position in order]

    def provisional(
        self, streams: Sequence[int], first: int, end: int | None, held: int = 0
    ) -> list[FloatArray]:
        """Return output rows as if the input ended now, without the rows that are already final.

        Parameters
        ----------
        streams : sequence of int
            Indices of the streams, all different; each has received at least one row.
        first, end : int
            The rows from `first` to ``end - 1``, counted from row ``rows_in * hop`` of each stream.
            Rows before the first row of the output are left out. If `end` is None, the range ends
            with the output.
        held : int
            Number of copies of the last input row that are appended to the input received so far.
            Zeros in the activations follow these copies, as in a flush. If `held` is not 0, the
            first layer must have no Snake.

        Returns
        -------
        list of (n, outputs) float32
            For each of `streams`, the rows of this range that are not final.
        """
        results: dict[int, FloatArray] = {}
        for key, positions in self._groups(streams, 0, first, end, held):
            chosen = [streams[position] for position in positions]
            program = self._provisional_program(key, chosen[0])
            rows = self._run(program, np.array(chosen, np.int64))
            results |= zip(positions, rows, strict=True)
        return [results[position] for position in range(len(streams))]

    def _groups(
        self, streams: Sequence[int], coming: int, first: int, end: int | None, held: int
    ) -> Iterator[tuple[tuple[int, Range], list[int]]]:
        """Yield the key of each program, and the positions in `streams` that the program serves.

        `coming` is the number of input rows that will be pushed before provisional rows are
        computed.
        """
        groups: dict[tuple[int, Range], list[int]] = {}
        for position, stream in enumerate(streams):
            # Programs depend on the number of rows received only near the beginning of a stream.
            rows = min(self.rows_in(stream) + coming, self._steady)
            key = self._keys[stream], Range(rows, first, end, held)
            groups.setdefault(key, []).append(position)
        for key, positions in groups.items():
            for start in range(0, len(positions), self._max_group):
                yield key, positions[start : start + self._max_group]

    def _run(self, program: Program, numbers: IntArray) -> FloatArray:
        """Run a program without input."""
        rows = np.empty((len(numbers), 0, self.network.layers[0].inputs), np.float32)
        out = self._empty(len(numbers), program.rows_out)
        if program.rows_out:
            self._engine.run(program, numbers, rows, out)
        return out

    def _empty(self, streams: int, rows: int) -> FloatArray:
        return np.empty((streams, rows, self.network.layers[-1].outputs), np.float32)

    def _provisional_program(self, key: tuple[int, Range], stream: int) -> Program:
        if key not in self._provisional:
            counters, wanted = Counters.at(self._counts[stream]), key[1]
            blocks = self._blocks(wanted, counters)
            _make_room(self._provisional)
            self._provisional[key] = self._plan(counters, blocks, wanted.held)
        return self._provisional[key]

    def _push_programs(self, key: tuple[int, Range], stream: int) -> tuple[Program, Program, int]:
        """The programs of a push and of its provisional end, and the plan key after the push."""
        if key not in self._pushes:
            counts, wanted = self._counts[stream], key[1]
            program, number = self._planner.program(key[0], counts, 1, False)
            before, after = Counters.at(counts), Counters.at(counts + program.counts)
            blocks = self._blocks(wanted, after)
            push = Push(self._layout, program, before, after, blocks, wanted.held)
            front = push.front(layers_read(self.network.layers, blocks, after))
            received = 0
            if front:
                program, received = push.with_front(front, self._scratch)
            ahead = self._plan(after, blocks, wanted.held, (front, received))
            _make_room(self._pushes)
            self._pushes[key] = program, ahead, number
        return self._pushes[key]

    def _blocks(self, wanted: Range, counters: Counters) -> Blocks:
        layers, rows = self.network.layers, counters.received[0]
        now, end = rows * self._hop, output_length(layers, rows + wanted.held)
        if wanted.end is not None:
            end = min(end, now + wanted.end)
        first, joined = max(0, now + wanted.first), self._layout.joined
        return Blocks.of(layers, joined, counters, wanted.held, first, end)

    def _plan(
        self, counters: Counters, blocks: Blocks, held: int, front: tuple[int, int] = (0, 0)
    ) -> Program:
        offsets = self.network.offsets
        return plan_provisional(self._layout, self._scratch, offsets, counters, blocks, held, front)


def _make_room(programs: dict[Any, Any]) -> None:
    if len(programs) >= MAX_PROGRAMS:
        programs.clear()


class Range(NamedTuple):
    """The rows requested of a provisional end, as in `ProvisionalStack.provisional`."""

    rows_in: int
    first: int
    end: int | None
    held: int


@dataclass(eq=False)
class _ShallowPlanner(Planner):
    """A planner whose programs compute only the first `depth` layers."""

    depth: int = 0
    _shallow: WeakKeyDictionary[Program, Program] = field(default_factory=WeakKeyDictionary)

    def program(self, key: int, counts: IntArray, rows: int, last: bool) -> tuple[Program, int]:
        """As `Planner.program`."""
        program, after = super().program(key, counts, rows, last)
        if program not in self._shallow:
            self._shallow[program] = without_products(program, self.depth)
        return self._shallow[program], after
