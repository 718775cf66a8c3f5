"""The kernel that makes a step's moves in all arenas at once, each as C's memmove would."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from oobleck_stream.engine.cuda.library import cuda, kernel, place
from oobleck_stream.engine.program import NONE, ORIGIN, SIZE, TO

KINDS = "tnifn"
"""The kernel's parameters, as `library.compiled` takes them."""


@functools.cache
def moves_kernel() -> Any:
    """The kernel; blocks along y are moves from `first` on, along z streams.

    Floats that lie as far apart as the move goes depend on each other alone: each such row is one
    thread's, which goes along it the way the move goes, so nothing is read after it was written.
    """

    def move(moves, first, streams, arenas, arena_floats):
        number = first + cuda.blockIdx.y
        to, origin, size = moves[number, TO], moves[number, ORIGIN], moves[number, SIZE]
        arena = streams[cuda.blockIdx.z] * arena_floats
        far = origin - to
        start, step = np.int64(cuda.grid(1)), np.int64(cuda.gridsize(1))
        if origin == NONE:
            for at in range(start, size, step):
                arenas[place(arena + to + at)] = np.float32(0.0)
        elif far > 0:
            for begin in range(start, min(far, size), step):
                for at in range(begin, size, far):
                    arenas[place(arena + to + at)] = arenas[place(arena + origin + at)]
        elif far < 0:
            for begin in range(start, min(-far, size), step):
                for at in range(size - 1 - begin, -1, far):
                    arenas[place(arena + to + at)] = arenas[place(arena + origin + at)]

    return kernel(move)
