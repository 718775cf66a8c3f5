"""A program being written: steps in order, and moves of bytes that ride along with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oobleck_stream.kernels.cpu import program

IntArray = npt.NDArray[np.int64]
Move = tuple[int, int, int]

FEWEST_JOBS = 16
"""Jobs a step is cut into at least, where its rows allow, so that the threads end together."""


JOINED_CHUNK = 24
"""Rows a job of joined steps has at most."""


class Plan:
    """Steps and moves for `oobleck_stream.kernels.cpu.program.run`.

    What a step has used up is moved out of its window only when nobody reads or writes there: with
    the next step, where that works elsewhere, or else in a step of its own.
    """

    def __init__(self) -> None:
        self._steps: list[list[int]] = []
        self._moves: list[Move] = []
        self._waiting: list[Move] = []
        self._waiting_layer = -1
        self._added = -1

    def add(self, layer: int, fields: dict[int, int]) -> None:
        """Append the step of a layer (-1: the entry), cut into jobs."""
        works_beside = layer > self._waiting_layer or layer + 2 < self._waiting_layer
        if self._waiting and not works_beside:
            self.settle()
        rows, phases = fields[program.ROWS], fields[program.PHASES]
        columns = fields[program.COLUMNS]
        chunk = program.MOST_CHUNK
        if program.jobs_of(rows, phases, columns, chunk) < FEWEST_JOBS:
            chunk = program.MOST_CHUNK // 4
        step = [0] * program.FIELDS
        for name, value in fields.items():
            step[name] = value
        step[program.CHUNK] = chunk
        step[program.PRODUCT_JOBS] = program.jobs_of(rows, phases, columns, chunk)
        self._append(step)
        self._added = len(self._steps) - 1

    def join(self, fields: dict[int, int]) -> None:
        """Put a step of one tap and one phase behind the last one that was added.

        The two are made together, chunk by chunk.
        """
        last = self._steps[self._added]
        last[program.JOINED] = 1
        last[program.CHUNK] = min(last[program.CHUNK], JOINED_CHUNK)
        last[program.PRODUCT_JOBS] = -(-last[program.ROWS] // last[program.CHUNK])
        step = [0] * program.FIELDS
        for name, value in fields.items():
            step[name] = value
        self._steps.insert(self._added + 1, step)

    def move(self, layer: int, to: int, origin: int, size: int) -> None:
        """Move `size` bytes once the last step, of `layer`, is done."""
        if size > 0 and to != origin:
            self._waiting.append((to, origin, size))
            self._waiting_layer = layer

    def settle(self) -> None:
        """Have all moves done before whatever comes next."""
        if self._waiting:
            self._append([0] * program.FIELDS)

    def _append(self, step: list[int]) -> None:
        step[program.FIRST_MOVE] = len(self._moves)
        step[program.MOVES] = len(self._waiting)
        self._moves += self._waiting
        self._waiting = []
        self._steps.append(step)

    def tables(self) -> tuple[IntArray, IntArray]:
        """The steps and the moves as the kernel takes them."""
        self.settle()
        steps = np.array(self._steps, np.int64).reshape(-1, program.FIELDS)
        return steps, np.array(self._moves, np.int64).reshape(-1, program.MOVE_FIELDS)
