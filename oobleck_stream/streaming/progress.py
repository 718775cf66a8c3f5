"""How far a stream is in every layer, and a copy of all it remembers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oobleck_stream.network import Layer
from oobleck_stream.packed import FloatArray

Counts = npt.NDArray[np.int64]
"""(3, layers): input rows received, blocks computed, output rows produced, for every layer."""


@dataclass
class Progress:
    """Counts for every layer; with the rows kept, all that decides what comes next.

    Parameters
    ----------
    received : list of int
        Input rows so far.
    blocks : list of int
        Blocks computed.
    produced : list of int
        Output rows written.
    complete : list of bool
        Whether the input has ended.
    """

    received: list[int]
    blocks: list[int]
    produced: list[int]
    complete: list[bool]

    @classmethod
    def at(cls, counts: Counts, ended: bool = False) -> Progress:
        """The progress that some counts tell."""
        received, blocks, produced = counts.tolist()
        return cls(received, blocks, produced, [ended] * len(received))

    @property
    def counts(self) -> Counts:
        """The counts as an array."""
        return np.array([self.received, self.blocks, self.produced], np.int64)

    def origin(self, index: int, layer: Layer) -> int:
        """Number of the input row that stands first in a layer's window."""
        return self.blocks[index] * layer.advance - layer.before

    def kept(self, index: int, layer: Layer) -> int:
        """Rows in a layer's window, with the zeros behind the last one once the input has ended."""
        end = self.received[index]
        if self.complete[index]:
            last_block = (layer.last_block(end) - 1) * layer.advance - layer.before
            end = max(end, last_block + layer.span + 1)
        return max(0, end - self.origin(index, layer))


@dataclass(frozen=True)
class StackState:
    """A deep copy of a stream's state: its counts, and what it keeps in its arena, in order."""

    counts: Counts
    ended: bool
    kept: tuple[FloatArray, ...]
