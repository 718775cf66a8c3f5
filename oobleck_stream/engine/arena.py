"""The state of a stream: an arena with the rows that its layers still need, and counters.

The arena is one array of floats. Every layer has a window in the arena, with the input rows that
are still needed, followed by room for new rows. If the layer has a Snake, the window holds the rows
after this Snake. If a later layer adds the same rows to its output (a residual), a copy of these
rows, taken before the Snake, is kept in the layer's skip rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from oobleck_stream.arrays import FloatArray, IntArray
from oobleck_stream.engine.program import LANES, MAX_JOINED, POINT_PAD
from oobleck_stream.network import Layer, due_rows, growth, paired_layers

ALIASING_PAD = 17 * LANES
"""Number of unused floats between a window and its skip rows. Rows written to both must not have
the same offset within 4 KiB: 4K aliasing stalls cost 10 % of a transposed convolution."""


@dataclass
class Counters:
    """The progress of a stream in every layer. Counters and arena are a stream's whole state.

    Parameters
    ----------
    received : list of int
        Input rows received by each layer.
    blocks : list of int
        Blocks of output rows computed by each layer.
    produced : list of int
        Output rows written by each layer. Rows that are computed but dropped, at the start and at
        the end, are not counted.
    complete : list of bool
        Whether the input of each layer has ended.
    """

    received: list[int]
    blocks: list[int]
    produced: list[int]
    complete: list[bool]

    @classmethod
    def at(cls, counts: IntArray, ended: bool = False) -> Counters:
        """Make counters from a (3, layers) array of rows `received`, `blocks`, `produced`."""
        received, blocks, produced = counts.tolist()
        return cls(received, blocks, produced, [ended] * len(received))

    @classmethod
    def after(cls, layers: Sequence[Layer], rows: int) -> Counters:
        """The counters of a stream that has received `rows` input rows."""
        received, blocks, produced = [rows], [], []
        for layer in layers:
            blocks.append(layer.due_blocks(received[-1]))
            produced.append(layer.due_rows(received[-1]))
            received.append(produced[-1])
        return cls(received[:-1], blocks, produced, [False] * len(layers))

    @property
    def counts(self) -> IntArray:
        """Return a (3, layers) array of rows `received`, `blocks`, `produced`."""
        return np.array([self.received, self.blocks, self.produced], np.int64)

    def origin(self, index: int, layer: Layer) -> int:
        """Index of the first input row in a layer's window; negative for a row of padding."""
        return self.blocks[index] * layer.stride_in - layer.left_padding

    def kept(self, index: int, layer: Layer, early: int) -> int:
        """Number of rows in a layer's window, including the `early` rows after those received.

        Once the layer's input has ended, the zeros that pad the end of the input are included too.
        """
        end = self.received[index] + early
        if self.complete[index]:
            last_block = (layer.last_block(end) - 1) * layer.stride_in - layer.left_padding
            end = max(self.received[index], last_block + layer.reach + 1)
        return max(0, end - self.origin(index, layer))


@dataclass(frozen=True)
class StackState:
    """A deep copy of a stream's state: the counters, and the used parts of the arena in order."""

    counts: IntArray
    ended: bool
    kept: tuple[FloatArray, ...]


@dataclass(frozen=True)
class ArenaLayout:
    """Where everything is stored in an arena, and how many blocks of a layer a step may compute.

    Parameters
    ----------
    layers : tuple of Layer
    limits : tuple of int
        Maximum number of blocks of each layer in one step.
    gathers : tuple of bool
        Whether each layer waits, within a push, until it has enough rows for a step of `limits`
        blocks. Layers do so if a step of the layer before them writes few rows, as in the deep
        levels of encoders. Otherwise they would read their weights for a few rows at a time.
    entry : int
        Maximum number of input rows of one program.
    windows : tuple of int
        Offset of each layer's window, in floats.
    skips : tuple of int or None
        Offset of each layer's skip rows; None if no later layer adds them.
    joined : tuple of bool
        Whether each layer is computed together with the one before it.
    early : tuple of int
        For each layer, the maximum number of rows after the received rows that its window and its
        skip rows may hold. The tiles of the previous layer write these rows early, before all rows
        in front of them are known.
    points : int
        Offset of the memory for the rows of points (`oobleck_stream.fast_convolution`) of fast
        convolutions that are not joined with the next layer.
    floats : int
        Length of the arena.
    pairing : int
        Number of frames that the first layers compute at once. The other layers compute each frame
        ``pairing - 1`` frames after it was received, so that every push of a frame has rows for
        them.
    paired : int
        Number of these first layers.
    """

    layers: tuple[Layer, ...]
    limits: tuple[int, ...]
    gathers: tuple[bool, ...]
    entry: int
    windows: tuple[int, ...]
    skips: tuple[int | None, ...]
    joined: tuple[bool, ...]
    early: tuple[int, ...]
    points: int
    floats: int
    pairing: int = 1
    paired: int = 0

    @classmethod
    def of(
        cls, layers: Sequence[Layer], step_floats: int, join: bool = True, pairing: int = 1
    ) -> ArenaLayout:
        """A layout in which a step reads and writes at most `step_floats` floats.

        A step of one block may exceed this limit. If `join` is false, no layers are computed
        together. `pairing` is the number of frames that the first layers compute at once.

        Raises
        ------
        ValueError
            If a layer adds the input of a layer that keeps no skip rows, or if the last layer
            computes tiles, whose rows would not be written in order.
        """
        for previous, layer in itertools.pairwise(layers):
            if layer.residual and not previous.snake:
                raise ValueError(f"{layer.name} adds the input of {previous.name}: none is kept")
        if layers[-1].tile > 1:
            raise ValueError(f"{layers[-1].name} is the last layer, and has tiles")
        joined = joined_layers(layers) if join else (False,) * len(layers)
        limits = _limits(layers, joined, step_floats)
        early = _early_rows(layers, joined)
        arriving = [limits[0] * layers[0].stride_in]
        arriving += [n * layer.phases for n, layer in zip(limits, layers, strict=True)]
        gathers = _gathers(layers, joined, limits)
        entry = _entry(layers, limits, gathers, step_floats)
        arriving[0] = entry
        paired = paired_layers(layers) if pairing > 1 else 0
        # Rows that wait for the next frame: in the first window, and after the paired layers.
        waiting = [0] * len(layers)
        waiting[0] = pairing - 1
        waiting[paired] = (pairing - 1) * growth(layers[:paired])
        windows: list[int] = []
        skips: list[int | None] = []
        # Output rows dropped at the start are written before a window's first row.
        end = max(_whole_lines(layer.trim, layer.outputs) for layer in layers)
        for index, layer in enumerate(layers):
            # Room for the rows kept, for those that arrive, and for the zeros at the end.
            windows.append(end)
            rows = layer.reach + arriving[index] + waiting[index] + early[index]
            rows += layer.stride_in * (limits[index] if gathers[index] else 1) + 2
            end += _whole_lines(layer.reach + rows, layer.inputs)
            if index + 1 < len(layers) and layers[index + 1].residual:
                skips.append(end + ALIASING_PAD)
                end += ALIASING_PAD + _whole_lines(rows, layer.inputs)
            else:
                skips.append(None)
        points = end
        end += max(
            layer.scheme.points * _point_stride(layer, limit) if layer.scheme else 0
            for layer, limit in zip(layers, limits, strict=True)
        )
        return cls(
            layers=tuple(layers),
            limits=limits,
            gathers=gathers,
            entry=entry,
            windows=tuple(windows),
            skips=tuple(skips),
            joined=joined,
            early=early,
            points=points,
            floats=end,
            pairing=pairing,
            paired=paired,
        )

    def point_stride(self, index: int) -> int:
        """Distance in floats from the rows of one point of a layer to those of the next point."""
        return _point_stride(self.layers[index], self.limits[index])

    def due_blocks(self, rows: int) -> list[int]:
        """Number of blocks of each layer that are computed once `rows` input rows are received."""
        together = Counters.after(self.layers, rows - rows % self.pairing)
        each = Counters.after(self.layers, max(0, rows - self.pairing + 1))
        return together.blocks[: self.paired] + each.blocks[self.paired :]

    def due_rows(self, rows: int) -> int:
        """Number of output rows that are returned once `rows` input rows are received."""
        return due_rows(self.layers, max(0, rows - self.pairing + 1))

    def kept(self, counters: Counters) -> Iterator[tuple[int, int]]:
        """Offset and size, in floats, of every part of the arena that is still to be read."""
        for index, (layer, window, skip) in enumerate(
            zip(self.layers, self.windows, self.skips, strict=True)
        ):
            early = self.early[index]
            yield window, counters.kept(index, layer, early) * layer.inputs
            if skip is not None:
                rows = counters.received[index] + early - counters.produced[index + 1]
                yield skip, rows * layer.inputs


def _whole_lines(rows: int, width: int) -> int:
    """Size of `rows` rows of `width` floats, in floats, rounded up to whole cache lines."""
    return -(-rows * width // LANES) * LANES


def _limits(layers: Sequence[Layer], joined: Sequence[bool], step_floats: int) -> tuple[int, ...]:
    """Maximum number of blocks of each layer in a step, with equally many rows in joined layers."""
    limits: list[int] = []
    for index, layer in enumerate(layers):
        followed = index + 1 < len(layers) and joined[index + 1]
        limits.append(_max_blocks(layer, step_floats, not followed))
        if joined[index]:
            phases = layers[index - 1].phases
            limits[index - 1] = max(1, min(limits[index - 1], limits[index] // phases))
            limits[index] = limits[index - 1] * phases
    return tuple(limits)


def _max_blocks(layer: Layer, step_floats: int, alone: bool) -> int:
    """The largest number of blocks for which a step reads and writes at most `step_floats`.

    The result is at least 1, even if a single block has more floats. If `alone` is true, the layer
    is not joined with the next layer. If it is a fast convolution, its transformed input rows are
    then written to the arena too.
    """
    most = max(layer.inputs * layer.stride_in, layer.outputs * layer.phases)
    if layer.scheme and alone:
        most = max(most, layer.inputs * layer.scheme.points)
    return max(1, step_floats // most)


def _spans(layers: Sequence[Layer]) -> tuple[list[Fraction], Fraction]:
    """Count the network's input rows: those for a block of each layer, and for an output row."""
    spans, rows = [], Fraction(1)
    for layer in layers:
        rows *= layer.stride_in
        spans.append(rows)
        rows /= layer.phases
    return spans, rows


def _gathers(
    layers: Sequence[Layer], joined: Sequence[bool], limits: Sequence[int]
) -> tuple[bool, ...]:
    """Whether each layer waits until it has enough rows for a step, see `ArenaLayout`.

    In an encoder, a layer does so if a step of the layer before it writes at most a quarter of
    these rows. The second layer of a residual unit never does.
    """
    if _spans(layers)[1] <= 1:
        return (False,) * len(layers)
    gathers, rows = [], limits[0] * layers[0].stride_in
    for layer, together, limit in zip(layers, joined, limits, strict=True):
        blocks = min(limit, rows // layer.stride_in)
        gathers.append(not together and not layer.residual and 4 * blocks <= limit)
        rows = (limit if gathers[-1] else max(1, blocks)) * layer.phases
    return tuple(gathers)


def _entry(
    layers: Sequence[Layer], limits: Sequence[int], gathers: Sequence[bool], step_floats: int
) -> int:
    """Maximum number of input rows of one program.

    These are the rows of a step of the first layer. If layers gather rows, the number is raised
    until it suffices for a step of each of them, but not beyond `step_floats` floats. It is then a
    whole number of frames, because all programs of a long push are the same if they begin at the
    same place in a frame.
    """
    spans, hop = _spans(layers)
    needed = [span * limit for span, limit, ok in zip(spans, limits, gathers, strict=True) if ok]
    rows = min(max(needed, default=0), step_floats // layers[0].inputs)
    return max(limits[0] * layers[0].stride_in, int(rows // hop * hop))


def _point_stride(layer: Layer, limit: int) -> int:
    return limit * layer.inputs + POINT_PAD


def joined_layers(layers: Sequence[Layer]) -> tuple[bool, ...]:
    """Whether each layer is computed together with the previous layer, chunk by chunk.

    This is true for the last layer of a residual unit if it is narrow enough for the first-level
    cache. Such a layer is pointwise. It reads exactly the rows that the previous layer has just
    written, and no other layer reads these rows. The network's last layer is not joined with a
    layer that computes tiles, because the network's output rows have to be written in order.
    """
    joined = [False]
    for index, (previous, layer) in enumerate(itertools.pairwise(layers), start=1):
        adds_rows = index + 1 < len(layers) and layers[index + 1].residual
        pointwise = layer.kernel == layer.stride == 1 and layer.padding == 0
        simple = not (previous.transposed or previous.residual or joined[-1])
        narrow = layer.inputs <= MAX_JOINED
        ordered = previous.tile == 1 or index + 1 < len(layers)
        fits = narrow and simple and ordered
        joined.append(pointwise and not layer.transposed and not adds_rows and fits)
    return tuple(joined)


def _early_rows(layers: Sequence[Layer], joined: Sequence[bool]) -> tuple[int, ...]:
    """For each layer, the maximum number of rows beyond the received ones in its window.

    If a layer is joined with the previous one, its output rows have the order of that layer's
    tiles.
    """
    early = [0]
    for index, layer in enumerate(layers[:-1]):
        if joined[index]:
            early.append(layers[index - 1].spread)
        else:
            early.append(0 if joined[index + 1] else layer.spread)
    return tuple(early)
