"""A plain interpreter of programs (`oobleck_stream.engine.program`), in float64.

It finds the weights by its own arithmetic, and so checks that of the package.
"""

from __future__ import annotations

import numpy as np

from oobleck_stream.engine import program as table
from oobleck_stream.fast_convolution import SCHEMES
from oobleck_stream.operations import Operations

FLOAT64 = Operations(
    constant=float,
    fma=lambda a, b, c: a * b + c,
    multiply=np.multiply,
    add=np.add,
    subtract=np.subtract,
    divide=np.divide,
    less=np.less,
    select=np.where,
    power_of_two=np.exp2,
)


def weights_of(step, parameters, phase) -> np.ndarray:
    """The weights of a phase, (taps, channels, columns), from the panels."""
    taps, channels, columns = (int(step[f]) for f in (table.TAPS, table.CHANNELS, table.COLUMNS))
    tap, channel, column = np.indices((taps, channels, columns))
    padded = -(-columns // 16) * 16
    panel = column // 32 * 32
    width = np.minimum(32, padded - panel)
    inside = (tap * channels + channel) * width + column - panel
    start = int(step[table.WEIGHTS])
    return parameters[start + taps * channels * (phase * padded + panel) + inside]


def run(steps, moves, parameters, arena, source, target) -> None:
    """Run a program for one stream.

    Parameters
    ----------
    steps : (steps, FIELDS) int64
    moves : (moves, MOVE_FIELDS) int64
    parameters, arena, source, target : float64 arrays
        The arena and the target are written.
    """
    joined = None
    for step in steps:
        if step[table.LAYER] != table.MOVES_ALONE:
            joined = _run_step(step, parameters, arena, source, target, joined)
        first = int(step[table.FIRST_MOVE])
        for to, origin, size in moves[first : first + int(step[table.MOVES])]:
            # Copy first, as origin and destination may overlap.
            values = 0.0 if origin == table.NONE else arena[origin : origin + size].copy()
            arena[to : to + size] = values


def _run_step(step, parameters, arena, source, target, joined):
    """Run a step; `joined` are the rows of the step before if that is joined with it.

    Returns this step's rows if it is joined with the next: for each block, those of each phase.
    """
    one = joined is not None or step[table.TILE] > 1
    phases = range(1 if one else int(step[table.PHASES]))
    weights = []
    if step[table.WEIGHTS] != table.NONE:
        weights = [weights_of(step, parameters, phase) for phase in phases]
    kept = []
    for block in range(int(step[table.ROWS])):
        if step[table.POINTS] != table.NONE:
            _transform(step, block, arena)
            continue
        values = _values(step, block, weights, arena, source, joined)
        if step[table.JOINED]:
            finished = [_finished(step, value, parameters) for value in values]
            kept.append([raw if snaked is None else snaked for raw, snaked in finished])
            continue
        for phase, value in enumerate(values):
            row = block * int(step[table.PHASES]) + phase * int(step[table.PHASE_STRIDE])
            if step[table.FIRST_ROW] <= row < step[table.LAST_ROW]:
                _store(step, row, value, parameters, arena, target)
    return kept or None


def _values(step, block, weights, arena, source, joined) -> list[np.ndarray]:
    """The sums of the rows of a block, before the epilogue."""
    if step[table.WEIGHTS] == table.NONE:
        begin = int(step[table.INPUT] + block * step[table.INPUT_STRIDE])
        return [source[begin : begin + int(step[table.COLUMNS])].copy()]
    if joined is not None:
        return [row @ weights[0][0] for row in joined[block]]
    if step[table.TILE] > 1:
        inputs = _points(step, block, arena) if step[table.JOINED] else _taps(step, block, arena)
        products = [row @ matrix for row, matrix in zip(inputs, weights[0], strict=True)]
        return SCHEMES[int(step[table.TILE])].combine(products, FLOAT64)
    inputs = _taps(step, block, arena)
    return [
        sum(row @ matrix for row, matrix in zip(inputs, matrices, strict=True))
        for matrices in weights
    ]


def _taps(step, block, arena, count=None) -> list[np.ndarray]:
    """The first input rows of a block: as many as the step has taps, or `count`."""
    rows = []
    for tap in range(int(step[table.TAPS]) if count is None else count):
        start = int(step[table.INPUT] + block * step[table.INPUT_STRIDE])
        start += tap * int(step[table.TAP_STRIDE])
        rows.append(arena[start : start + int(step[table.CHANNELS])])
    return rows


def _points(step, block, arena) -> list[np.ndarray]:
    """The rows of the points of a tile."""
    scheme = SCHEMES[int(step[table.TILE])]
    return scheme.transform(_taps(step, block, arena, scheme.inputs), FLOAT64)


def _transform(step, block, arena) -> None:
    """Write the rows of the points of a tile into the arena."""
    for point, values in enumerate(_points(step, block, arena)):
        start = int(step[table.POINTS] + point * step[table.POINT_STRIDE]) + block * len(values)
        arena[start : start + len(values)] = values


def _finished(step, value, parameters, residual=None) -> tuple[np.ndarray, np.ndarray | None]:
    """The value of a row after bias, residual and tanh; and after Snake."""

    def of_columns(field) -> np.ndarray:
        return parameters[int(step[field]) : int(step[field]) + len(value)]

    if step[table.BIAS] != table.NONE:
        value = value + of_columns(table.BIAS)
    if residual is not None:
        value = value + residual
    if step[table.TANH]:
        value = np.tanh(value)
    if step[table.SNAKED] == table.NONE:
        return value, None
    alpha, inverse_beta = of_columns(table.ALPHA), of_columns(table.INVERSE_BETA)
    return value, value + np.sin(alpha * value) ** 2 * inverse_beta


def _store(step, row, value, parameters, arena, target) -> None:
    columns, offset = len(value), row * int(step[table.OUTPUT_STRIDE])

    def along(field) -> slice:
        return slice(int(step[field]) + offset, int(step[field]) + offset + columns)

    residual = arena[along(table.RESIDUAL)] if step[table.RESIDUAL] != table.NONE else None
    raw, snaked = _finished(step, value, parameters, residual)
    if step[table.TO_TARGET]:
        target[along(table.RAW)] = raw
    elif step[table.RAW] != table.NONE:
        arena[along(table.RAW)] = raw
    if snaked is not None:
        arena[along(table.SNAKED)] = snaked
