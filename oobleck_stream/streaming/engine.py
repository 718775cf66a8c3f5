"""Where programs run: what a `Stack` asks of an engine, which holds the arenas of some streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from oobleck_stream.packed import FloatArray
from oobleck_stream.streaming.plan import IntArray


@dataclass(frozen=True)
class Sizes:
    """How much work suits an engine.

    Parameters
    ----------
    step_cells : int
        Floats that a step reads or writes at most, unless a single block has more.
    shares : int
        Streams that have to share these cells; beyond so many each has as much as with so many.
    together : int
        Streams of a program at most.
    """

    step_cells: int
    shares: int
    together: int

    def cells(self, streams: int) -> int:
        """Floats that a step reads or writes at most of each of some streams."""
        return self.step_cells // min(streams, self.shares)


class Engine(Protocol):
    """What a `Stack` asks of an engine."""

    def run(
        self,
        steps: IntArray,
        moves: IntArray,
        streams: IntArray,
        rows: FloatArray,
        out: FloatArray,
    ) -> None:
        """Run a program on some streams; back when `out` is filled.

        Parameters
        ----------
        steps, moves : int64 arrays
            As `oobleck_stream.kernels.steps` describes them.
        streams : (streams,) int64
            Numbers of the streams, all in the same situation.
        rows : (streams, n, inputs) float32, each stream's C-contiguous
        out : (streams, k, outputs) float32, each stream's C-contiguous
            For the rows that the program gives out.
        """

    def read(self, stream: int, start: int, size: int) -> FloatArray:
        """A copy of some floats of an arena."""

    def write(self, stream: int, start: int, values: FloatArray) -> None:
        """Overwrite some floats of an arena."""

    def step_times(self) -> list[tuple[int, float]]:
        """Where the time of the last program went, if that is known: layers and their shares."""
