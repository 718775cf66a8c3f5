"""A program being written: steps in order, and moves of floats that ride along with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oobleck_stream.kernels import steps

IntArray = npt.NDArray[np.int64]
Move = tuple[int, int, int]

_BLANK = [0] * steps.FIELDS
for _place in (steps.WEIGHTS, steps.BIAS, steps.RESIDUAL, steps.PLAIN, steps.ACTIVE):
    _BLANK[_place] = steps.NONE


class Plan:
    """Steps and moves as `oobleck_stream.kernels.steps` describes them.

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
        """Append the step of a layer (-1: the entry)."""
        # The layer, and the one that may be joined with it, write up to two windows further; what
        # waits are the windows of a layer and of the one that it was joined with.
        works_beside = layer > self._waiting_layer or layer + 3 < self._waiting_layer
        if self._waiting and not works_beside:
            self.settle()
        self._append(_step(layer, fields))
        self._added = len(self._steps) - 1

    def join(self, layer: int, fields: dict[int, int]) -> None:
        """Put a step of one tap and one phase behind the last one that was added.

        The two may be made together, chunk by chunk.
        """
        self._steps[self._added][steps.JOINED] = 1
        self._steps.insert(self._added + 1, _step(layer, fields))

    def move(self, layer: int, to: int, origin: int, size: int) -> None:
        """Move `size` floats once the last step, of `layer`, is done."""
        if size > 0 and to != origin:
            self._waiting.append((to, origin, size))
            self._waiting_layer = layer

    def settle(self) -> None:
        """Have all moves done before whatever comes next."""
        if self._waiting:
            self._append(_step(steps.MOVES_ALONE, {}))

    def _append(self, step: list[int]) -> None:
        step[steps.FIRST_MOVE] = len(self._moves)
        step[steps.MOVES] = len(self._waiting)
        self._moves += self._waiting
        self._waiting = []
        self._steps.append(step)

    def tables(self) -> tuple[IntArray, IntArray]:
        """The steps and the moves."""
        self.settle()
        table = np.array(self._steps, np.int64).reshape(-1, steps.FIELDS)
        return table, np.array(self._moves, np.int64).reshape(-1, steps.MOVE_FIELDS)


def _step(layer: int, fields: dict[int, int]) -> list[int]:
    step = _BLANK.copy()
    step[steps.LAYER] = layer
    for name, value in fields.items():
        step[name] = value
    return step
