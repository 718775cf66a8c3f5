"""Follows the rows of a stream through its programs, without computing a value.

Every float of the tracked arena contains a name in place of a value. The name says which row of
which layer the float belongs to. For each step, the tracker computes from the definition of the
layer which rows the step has to read and write, and compares this with the step's offsets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from oobleck_stream.engine import program as table
from oobleck_stream.engine.arena import ALIASING_PAD, ArenaLayout, Counters
from oobleck_stream.network import Layer

EMPTY, ZERO = -2, -1
"""The names of a float that no step may read, and of a float of padding."""

INPUT, SKIP, POINT = range(3)
"""Kinds of rows: input rows of a layer after its Snake and before it, and rows of points."""

ENDLESS = 2**32
"""More rows than any layer has. As the length of an input, it means that more rows will come."""


class Region(NamedTuple):
    """A part of the arena."""

    name: str
    start: int
    end: int


@dataclass
class RowTracker:
    """A stream whose arena contains names of rows.

    Parameters
    ----------
    layout : ArenaLayout
    received, returned : int
        Number of rows that the stream has received, and that it has written to targets.
    blocks : list of int
        Number of blocks that each layer has computed. Layers joined with the previous one have 0.
    """

    layout: ArenaLayout
    received: int = 0
    returned: int = 0
    blocks: list[int] = field(init=False)

    def __post_init__(self):
        layout, layers = self.layout, self.layout.layers
        self.blocks = [0] * len(layers)
        self._lengths = [ENDLESS] * (len(layers) + 1)
        self._arena = np.full(layout.floats, EMPTY, np.int64)
        self._points = Region("points", layout.points, layout.floats)
        self._windows, self._skips = [], []
        for index, end in enumerate((*layout.windows[1:], layout.points)):
            skip = layout.skips[index]
            window_end = end if skip is None else skip - ALIASING_PAD
            self._windows.append(Region(f"window {index}", layout.windows[index], window_end))
            self._skips.append(Region(f"skip rows {index}", end if skip is None else skip, end))
        self._touched: list[tuple[int, int]] = []
        self._before = 0

    def push(self, program: table.Program, rows: int, last: bool) -> None:
        """Run the program of a push of `rows` rows; `last` says whether the input ends."""
        if last:
            self._lengths = [self.received + rows]
            for layer in self.layout.layers:
                self._lengths.append(layer.output_length(self._lengths[-1]))
        self._before = self.returned
        joined: list[list[int]] = []
        for step in program.steps.tolist():
            joined.append(step)
            if not step[table.JOINED]:
                self._run(joined, program.moves.tolist())
                joined = []
        assert not joined, "the last step is joined with a step that does not exist"

    def keep_only(self, counters: Counters) -> None:
        """Erase all floats that a snapshot of the stream does not contain."""
        kept = np.full_like(self._arena, EMPTY)
        for start, size in self.layout.kept(counters):
            kept[start : start + size] = self._arena[start : start + size]
        self._arena = kept

    def _run(self, steps: list[list[int]], moves: list[list[int]]) -> None:
        """Run a step, or two that are joined, and then their moves."""
        self._touched = []
        first, last = steps[0], steps[-1]
        index = first[table.LAYER]
        if index == -1:
            assert first[table.INPUT_STRIDE] == first[table.COLUMNS] == self._layer(0).inputs
            self._store(first, self.received + np.arange(first[table.ROWS])[:, None])
            self.received += first[table.ROWS]
        elif index != table.MOVES_ALONE:
            layer, count = self._layer(index), first[table.ROWS]
            assert 0 < count <= self.layout.limits[index], f"a step of {count} blocks of {index}"
            assert first[table.CHANNELS] == layer.inputs
            blocks = self.blocks[index] + np.arange(count)
            if first[table.POINTS] != table.NONE:
                self._transform(first, blocks)
            else:
                rows = self._product(first, blocks)
                for joined in steps[1:]:
                    fields = (table.ROWS, table.PHASES, table.PHASE_STRIDE)
                    assert all(joined[name] == first[name] for name in fields)
                self._store(last, rows)
                self.blocks[index] += count
        for step in steps:
            start = step[table.FIRST_MOVE]
            self._move(moves[start : start + step[table.MOVES]])

    def _transform(self, step: list[int], blocks: np.ndarray) -> None:
        """The step that writes the rows of the points of some tiles."""
        index, points = step[table.LAYER], np.arange(self._layer(step[table.LAYER]).scheme.points)
        self._read_inputs(step, blocks)
        to = step[table.POINTS] + points * step[table.POINT_STRIDE]
        to = to + np.arange(len(blocks))[:, None] * step[table.CHANNELS]
        names = self._names(POINT, index, blocks[:, None] * len(points) + points)
        self._write(self._points, to, step[table.CHANNELS], names)

    def _product(self, step: list[int], blocks: np.ndarray) -> np.ndarray:
        """Check what a product reads; return the indices of the output rows of its blocks."""
        index, layer = step[table.LAYER], self._layer(step[table.LAYER])
        points = np.arange(layer.scheme.points if layer.scheme else layer.taps)
        assert (step[table.TAPS], step[table.TILE]) == (len(points), layer.tile)
        if layer.scheme and not step[table.JOINED]:
            names = self._names(POINT, index, blocks[:, None] * len(points) + points)
            self._read(self._points, _starts(step, len(points)), layer.inputs, names)
        else:
            self._read_inputs(step, blocks)
        phases = np.arange(layer.phases) * (layer.dilation if layer.tile > 1 else 1)
        return blocks[:, None] * layer.phases - layer.trim + phases

    def _read_inputs(self, step: list[int], blocks: np.ndarray) -> None:
        """Check that a step finds the input rows of its blocks in its layer's window."""
        index, layer = step[table.LAYER], self._layer(step[table.LAYER])
        taps = np.arange(layer.scheme.inputs if layer.scheme else layer.taps)
        rows = blocks[:, None] * layer.stride_in - layer.left_padding
        rows = rows + taps * (1 if layer.transposed else layer.dilation)
        names = self._names(INPUT, index, rows)
        self._read(self._windows[index], _starts(step, len(taps)), layer.inputs, names)

    def _store(self, step: list[int], rows: np.ndarray) -> None:
        """Add the residual to the output rows of a step, and write them."""
        index, stride = step[table.LAYER], step[table.OUTPUT_STRIDE]
        count, phases = rows.shape
        places = np.arange(count)[:, None] * step[table.PHASES]
        places = places + np.arange(phases) * step[table.PHASE_STRIDE]
        written = (step[table.FIRST_ROW] <= places) & (places < step[table.LAST_ROW])
        real = (rows >= 0) & (rows < self._lengths[index + 1])
        assert (written == real).all(), f"layer {index} has other rows than the step writes"
        rows, offsets, width = rows[written], places[written] * stride, step[table.COLUMNS]
        residual = index >= 0 and self._layer(index).residual
        assert residual == (step[table.RESIDUAL] != table.NONE)
        if residual:
            names = self._names(SKIP, index - 1, rows)
            self._read(self._skips[index - 1], step[table.RESIDUAL] + offsets, width, names)
        following = index + 1
        assert step[table.TO_TARGET] == (following == len(self.layout.layers))
        if step[table.TO_TARGET]:
            expected = self.returned + np.arange(len(rows))
            assert (rows == expected).all(), f"rows {rows} are returned, not {expected}"
            assert (step[table.RAW] + offsets == (rows - self._before) * width).all()
            self.returned += len(rows)
            return
        snake = self._layer(following).snake
        window = step[table.SNAKED if snake else table.RAW] + offsets
        self._write(self._windows[following], window, width, self._names(INPUT, following, rows))
        if snake and self.layout.skips[following] is not None:
            raw = step[table.RAW] + offsets
            self._write(self._skips[following], raw, width, self._names(SKIP, following, rows))

    def _move(self, moves: list[list[int]]) -> None:
        """Move rows, or write zeros."""
        for to, origin, size in moves:
            source = to if origin == table.NONE else origin
            start, end = min(to, source), max(to, source) + size
            inside = (r.start <= start and end <= r.end for r in (*self._windows, *self._skips))
            assert any(inside), f"a move from {origin} to {to} leaves its region"
            overlaps = (start < used_end and used < end for used, used_end in self._touched)
            assert not any(overlaps), f"a move from {origin} to {to} touches what its step uses"
            self._touched.append((start, end))
            moved = ZERO if origin == table.NONE else self._arena[origin : origin + size].copy()
            self._arena[to : to + size] = moved

    def _layer(self, index: int) -> Layer:
        return self.layout.layers[index]

    def _names(self, kind: int, index: int, rows: np.ndarray) -> np.ndarray:
        """The names of rows of a layer; input rows outside the layer's input are padding."""
        names = (kind * len(self.blocks) + index) * ENDLESS + rows
        if kind == POINT:
            return names
        return np.where((rows < 0) | (rows >= self._lengths[index]), ZERO, names)

    def _read(self, region: Region, starts: np.ndarray, width: int, names: np.ndarray) -> None:
        found = self._arena[self._cells(region, starts, width)]
        wrong = (found != names[..., None]).any(axis=-1)
        assert not wrong.any(), f"{region.name} has {found[wrong][0, 0]}, not {names[wrong][0]}"

    def _write(self, region: Region, starts: np.ndarray, width: int, names: np.ndarray) -> None:
        self._arena[self._cells(region, starts, width)] = names[..., None]

    def _cells(self, region: Region, starts: np.ndarray, width: int) -> np.ndarray:
        """The offsets of the floats of rows of `width` floats; a step touches them in `region`."""
        if starts.size:
            start, end = int(starts.min()), int(starts.max()) + width
            assert region.start <= start < end <= region.end, f"{start} to {end}: not in {region}"
            self._touched.append((start, end))
        return starts[..., None] + np.arange(width)


def _starts(step: list[int], taps: int) -> np.ndarray:
    """Where the input rows of a step start, for each block and each tap."""
    blocks = np.arange(step[table.ROWS])[:, None] * step[table.INPUT_STRIDE]
    return step[table.INPUT] + blocks + np.arange(taps) * step[table.TAP_STRIDE]
