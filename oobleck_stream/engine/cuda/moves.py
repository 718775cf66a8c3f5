"""The kernel that executes the moves of a step in the arenas of all streams of a group."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from oobleck_stream.engine.cuda.library import cuda, kernel, unsigned_index
from oobleck_stream.engine.program import NONE, ORIGIN, SIZE, TO


@functools.cache
def moves_kernel() -> Any:
    """Create the kernel that executes moves.

    The grid's y axis selects the move, counted from move `first`. Its z axis selects the stream.

    Elements whose indices differ by a multiple of the displacement form a chain. One thread copies
    one chain, in the direction in which every element is read before it is overwritten. So, as in
    memmove, overlapping moves are safe, and no synchronisation is needed.
    """

    def move(moves, first, streams, arenas, arena_floats):
        number = first + cuda.blockIdx.y
        size = moves[number, SIZE]
        arena = streams[cuda.blockIdx.z] * arena_floats
        to, origin = arena + moves[number, TO], arena + moves[number, ORIGIN]
        displacement = moves[number, ORIGIN] - moves[number, TO]
        start, step = np.int64(cuda.grid(1)), np.int64(cuda.gridsize(1))
        if moves[number, ORIGIN] == NONE:
            for i in range(start, size, step):
                arenas[unsigned_index(to + i)] = np.float32(0.0)
        elif displacement > 0:
            for begin in range(start, min(displacement, size), step):
                for i in range(begin, size, displacement):
                    arenas[unsigned_index(to + i)] = arenas[unsigned_index(origin + i)]
        elif displacement < 0:
            for begin in range(start, min(-displacement, size), step):
                for i in range(size - 1 - begin, -1, displacement):
                    arenas[unsigned_index(to + i)] = arenas[unsigned_index(origin + i)]

    return kernel(move)
