"""Where everything lies in a stream's arena, and how much of a layer a step may do at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oobleck_stream.kernels.steps import LANES
from oobleck_stream.network import Layer
from oobleck_stream.streaming.progress import Progress

APART = 17 * LANES
"""Floats between a window and its skip: rows written to both must not share their place in a page,
or each write waits for the other (a tenth of a transposed convolution's time)."""


@dataclass(frozen=True)
class Layout:
    """An arena for a stack of layers.

    Parameters
    ----------
    layers : tuple of Layer
    limits : tuple of int
        Blocks of each layer that one step does at most.
    windows : tuple of int
        Where each layer's window starts: its input rows, after the Snake if it has one.
    skips : tuple of int or None
        Where the same rows are kept before their Snake, for layers whose input is added later on.
    floats : int
        Length of the arena.
    """

    layers: tuple[Layer, ...]
    limits: tuple[int, ...]
    windows: tuple[int, ...]
    skips: tuple[int | None, ...]
    floats: int

    @classmethod
    def of(cls, layers: Sequence[Layer], step_cells: int) -> Layout:
        """An arena whose steps read and write at most `step_cells` floats, where they can.

        Raises
        ------
        ValueError
            When a layer adds the input of one that keeps none.
        """
        for previous, layer in itertools.pairwise(layers):
            if layer.residual and not previous.snake:
                raise ValueError(f"{layer.name} adds the input of {previous.name}: none is kept")
        limits = tuple(_block_limit(layer, step_cells) for layer in layers)
        arriving = [limits[0] * layers[0].advance]
        arriving += [n * layer.phases for n, layer in zip(limits, layers, strict=True)]
        windows: list[int] = []
        skips: list[int | None] = []
        # Rows that are dropped at the start have their places before a window's first row.
        end = max(_whole_lines(layer.trim, layer.outputs) for layer in layers)
        for index, layer in enumerate(layers):
            # What is kept, what arrives, and the zeros of the end.
            windows.append(end)
            end += _whole_lines(2 * layer.span + arriving[index] + layer.advance + 2, layer.inputs)
            if index + 1 < len(layers) and layers[index + 1].residual:
                skips.append(end + APART)
                end += APART + _whole_lines(layer.span + arriving[index] + 2, layer.inputs)
            else:
                skips.append(None)
        return cls(tuple(layers), limits, tuple(windows), tuple(skips), end)

    @property
    def entry(self) -> int:
        """Rows that one program takes in at most."""
        return self.limits[0] * self.layers[0].advance

    def kept(self, progress: Progress) -> Iterator[tuple[int, int]]:
        """The places, start and size in floats, of all that a stream has yet to read."""
        for index, (layer, window, skip) in enumerate(
            zip(self.layers, self.windows, self.skips, strict=True)
        ):
            yield window, progress.kept(index, layer) * layer.inputs
            if skip is not None:
                rows = progress.received[index] - progress.produced[index + 1]
                yield skip, rows * layer.inputs


def _whole_lines(rows: int, width: int) -> int:
    """Floats for some rows, in whole cache lines."""
    return -(-rows * width // LANES) * LANES


def _block_limit(layer: Layer, step_cells: int) -> int:
    """Blocks of a layer that keep a step within a number of floats."""
    most = max(layer.inputs * layer.advance, layer.outputs * layer.phases)
    return max(1, step_cells // most)
