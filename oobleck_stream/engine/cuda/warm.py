"""Every kernel compiled, or loaded from disk, before the first push asks for one."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from oobleck_stream.arrays import IntArray
from oobleck_stream.engine import program as table
from oobleck_stream.engine.cuda.engine import CudaEngine
from oobleck_stream.engine.cuda.library import SIMULATED
from oobleck_stream.engine.cuda.tiles import TILES, TINY_TILES
from oobleck_stream.engine.program import Program


def warm() -> None:
    """Run every kernel once: a row of one number goes in, and through a product of each tile.

    Raises
    ------
    CudaUnavailable
        When CUDA can't be used here.
    """
    way_in = _step(LAYER=-1, INPUT_STRIDE=1, PLAIN=0)
    product = _step(CHANNELS=1, WEIGHTS=0, PLAIN=1)
    moves = np.zeros((0, table.MOVE_FIELDS), np.int64)
    stream, row = np.zeros(1, np.int64), np.zeros((1, 1, 1), np.float32)
    program = Program(np.stack([way_in, product]), moves, np.zeros((3, 1), np.int64))
    # Opening an engine runs the kernel for moves.
    for tile in TINY_TILES if SIMULATED else TILES:
        with closing(CudaEngine(np.zeros(table.LANES, np.float32), 1, 2, (tile,))) as engine:
            engine.run(program, stream, row, row[:, :0].copy())


def _step(**given: int) -> IntArray:
    """A step of one row of one column, without anything that is not given."""
    step = np.zeros(table.FIELDS, np.int64)
    step[[table.ROWS, table.PHASES, table.LAST_ROW, table.TAPS, table.COLUMNS]] = 1
    step[[table.WEIGHTS, table.BIAS, table.RESIDUAL, table.PLAIN, table.ACTIVE]] = table.NONE
    for name, value in given.items():
        step[getattr(table, name)] = value
    return step
