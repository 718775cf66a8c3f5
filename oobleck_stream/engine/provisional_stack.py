"""A stack that also gives output rows before they are final."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from oobleck_stream.arrays import FloatArray, IntArray
from oobleck_stream.engine.arena import Counters
from oobleck_stream.engine.packed import PackedNetwork
from oobleck_stream.engine.planner import Planner
from oobleck_stream.engine.program import Program
from oobleck_stream.engine.provisional import (
    Blocks,
    plan_provisional,
    scratch_layout,
    without_products,
)
from oobleck_stream.engine.stack import Stack
from oobleck_stream.network import context, output_length

MAX_PROGRAMS = 64
"""Programs kept for reuse."""


class ProvisionalStack(Stack):
    """A `Stack` whose streams can be asked for rows beyond those that are final.

    Parameters
    ----------
    network, threads, streams, backend
        As for `Stack`. No layer may shorten its input, and the last may not be transposed.
    depth : int, optional
        Number of layers that the stream computes; by default all of them. With fewer, the rows that
        `push` returns have no meaning, but those of `provisional` are as they would be, as long as
        they read no final rows of other layers (`layers_read`).
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
            self._planner = _ShallowPlanner(network, self._layout, depth=depth)
            self._keys = [self._planner.key(self._counts[0])] * streams
        self._hop = int(np.prod([layer.phases for layer in network.layers]))
        # Once this many rows were received, no needed row lies before the first.
        self._steady = 2 * context(network.layers) + 4
        self._provisional: dict[tuple[int, Range], Program] = {}

    def provisional(
        self, streams: Sequence[int], first: int, end: int | None, held: int = 0
    ) -> list[FloatArray]:
        """Output rows as they would be if the input ended now, without those that are final.

        Parameters
        ----------
        streams : sequence of int
            Indices of the streams, all different; each has received at least one row.
        first, end : int
            The range of rows, counted from the row ``rows_in * hop`` of each stream. Rows before
            the beginning are left out. Without `end`, to the end of the output.
        held : int
            Number of times that the last input row is repeated behind the input received so far;
            zeros in the activations follow, as in a flush. The first layer must have no Snake then.

        Returns
        -------
        list of (n, outputs) float32
            For each of `streams`, the last rows of the range: those that are not final.
        """
        groups: dict[tuple[int, Range], list[int]] = {}
        for position, stream in enumerate(streams):
            # Programs depend on the row of a stream only as long as it is near the beginning.
            wanted = Range(min(self.rows_in(stream), self._steady), first, end, held)
            groups.setdefault((self._keys[stream], wanted), []).append(position)
        results: dict[int, FloatArray] = {}
        for key, positions in groups.items():
            program = self._provisional_program(key, streams[positions[0]])
            for start in range(0, len(positions), self._max_group):
                group = positions[start : start + self._max_group]
                numbers = np.array([streams[position] for position in group], np.int64)
                layers = self.network.layers
                rows = np.empty((len(group), 0, layers[0].inputs), np.float32)
                out = np.empty((len(group), program.rows_out, layers[-1].outputs), np.float32)
                if program.rows_out:
                    self._engine.run(program, numbers, rows, out)
                results |= zip(group, out, strict=True)
        return [results[position] for position in range(len(streams))]

    def _provisional_program(self, key: tuple[int, Range], stream: int) -> Program:
        known = self._provisional.get(key)
        if known is not None:
            return known
        layers, counters = self.network.layers, Counters.at(self._counts[stream])
        wanted = key[1]
        now = self.rows_in(stream) * self._hop
        end = output_length(layers, self.rows_in(stream) + wanted.held)
        if wanted.end is not None:
            end = min(end, now + wanted.end)
        blocks = Blocks.of(layers, counters, wanted.held, max(0, now + wanted.first), end)
        program = plan_provisional(
            self._layout, self._scratch, self.network.offsets, counters, blocks, wanted.held
        )
        if len(self._provisional) >= MAX_PROGRAMS:
            self._provisional.clear()
        self._provisional[key] = program
        return program


class Range(NamedTuple):
    """What a provisional end is asked for, as `ProvisionalStack.provisional` takes it."""

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
