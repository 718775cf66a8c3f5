"""A plain interpreter of programs (`oobleck_stream.engine.program`), in float64.

It finds the weights by its own arithmetic, and so checks that of the package.
"""

from __future__ import annotations

import numpy as np

from oobleck_stream.engine import program as table


def weight(step, parameters, phase, tap, channel, column) -> float:
    """One weight, from the panels."""
    padded = -(-int(step[table.COLUMNS]) // 16) * 16
    panel = column // 32 * 32
    width = min(32, padded - panel)
    each = int(step[table.TAPS] * step[table.CHANNELS])
    inside = (tap * int(step[table.CHANNELS]) + channel) * width + column - panel
    return parameters[int(step[table.WEIGHTS]) + each * (phase * padded + panel) + inside]


def weights_of(step, parameters, phase) -> np.ndarray:
    """The weights of a phase, (taps, channels, columns)."""
    taps, channels, columns = (int(step[f]) for f in (table.TAPS, table.CHANNELS, table.COLUMNS))
    found = np.empty((taps, channels, columns))
    for place in np.ndindex(found.shape):
        found[place] = weight(step, parameters, phase, *place)
    return found


def run(steps, moves, parameters, arena, source, target) -> None:
    """Run a program for one stream.

    Parameters
    ----------
    steps : (steps, FIELDS) int64
    moves : (moves, MOVE_FIELDS) int64
    parameters, arena, source, target : float64 arrays
        The arena and the target are written.
    """
    for step in steps:
        if step[table.LAYER] != table.MOVES_ALONE:
            _run_step(step, parameters, arena, source, target)
        first = int(step[table.FIRST_MOVE])
        for to, origin, size in moves[first : first + int(step[table.MOVES])]:
            # Copy first, as origin and destination may overlap.
            values = 0.0 if origin == table.NONE else arena[origin : origin + size].copy()
            arena[to : to + size] = values


def _run_step(step, parameters, arena, source, target) -> None:
    phases, columns = int(step[table.PHASES]), int(step[table.COLUMNS])
    product = step[table.WEIGHTS] != table.NONE
    weights = [weights_of(step, parameters, phase) for phase in range(phases)] if product else []
    for row in range(int(step[table.FIRST_ROW]), int(step[table.LAST_ROW])):
        block, phase = divmod(row, phases)
        begin = int(step[table.INPUT] + block * step[table.INPUT_STRIDE])
        if product:
            value = np.zeros(columns)
            for tap, matrix in enumerate(weights[phase]):
                start = begin + tap * int(step[table.TAP_STRIDE])
                value += arena[start : start + len(matrix)] @ matrix
        else:
            value = source[begin : begin + columns].copy()
        _store(step, row, value, parameters, arena, target)


def _store(step, row, value, parameters, arena, target) -> None:
    columns, offset = len(value), row * int(step[table.OUTPUT_STRIDE])

    def along(field) -> slice:
        return slice(int(step[field]) + offset, int(step[field]) + offset + columns)

    def of_columns(field) -> np.ndarray:
        return parameters[int(step[field]) : int(step[field]) + columns]

    if step[table.BIAS] != table.NONE:
        value = value + of_columns(table.BIAS)
    if step[table.RESIDUAL] != table.NONE:
        value = value + arena[along(table.RESIDUAL)]
    if step[table.TANH]:
        value = np.tanh(value)
    if step[table.TO_TARGET]:
        target[along(table.RAW)] = value
    elif step[table.RAW] != table.NONE:
        arena[along(table.RAW)] = value
    if step[table.SNAKED] != table.NONE:
        alpha, inverse_beta = of_columns(table.ALPHA), of_columns(table.INVERSE_BETA)
        arena[along(table.SNAKED)] = value + np.sin(alpha * value) ** 2 * inverse_beta
