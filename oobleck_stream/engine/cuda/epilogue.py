"""What follows the sums of a step: bias, residual, tanh, plain rows out, Snake rows out."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from oobleck_stream.engine.arithmetic import Operations, activations
from oobleck_stream.engine.cuda.library import (
    add,
    cuda,
    device,
    divide,
    fma,
    kernel,
    less,
    multiply,
    place,
    power_of_two,
    select,
    subtract,
)
from oobleck_stream.engine.program import (
    ACTIVE,
    ALPHA,
    BIAS,
    COLUMNS,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    INVERSE_BETA,
    LAST_ROW,
    LEAVES,
    NONE,
    OUTPUT_STRIDE,
    PHASES,
    PLAIN,
    RESIDUAL,
    ROWS,
    TANH,
    TAPS,
    WEIGHTS,
)

KINDS = "tniffnfnffn"
"""The kernel's parameters, as `library.compiled` takes them."""

NOTHING = np.float32(-0.0)
"""Added to any number, it leaves it as it is; so does a product of it in a chain."""

OPERATIONS = Operations(
    constant=np.float32,
    fma=fma,
    multiply=multiply,
    add=add,
    subtract=subtract,
    divide=divide,
    less=less,
    select=select,
    power_of_two=power_of_two,
    compiled=device,
)

snake, tanh = activations(OPERATIONS)


@device
def outputs_of(steps, index):
    """What `give_out` needs to know of a step."""
    return (
        steps[index, RESIDUAL],
        steps[index, PLAIN],
        steps[index, ACTIVE],
        steps[index, TANH],
        steps[index, LEAVES],
    )


@device
def column_of(steps, index, column, parameters):
    """Bias, alpha and inverse beta of a column."""
    bias, alpha, inverse_beta = NOTHING, NOTHING, NOTHING
    if steps[index, BIAS] != NONE:
        bias = parameters[place(steps[index, BIAS] + column)]
    if steps[index, ACTIVE] != NONE:
        alpha = parameters[place(steps[index, ALPHA] + column)]
        inverse_beta = parameters[place(steps[index, INVERSE_BETA] + column)]
    return bias, alpha, inverse_beta


@device
def give_out(value, residual, factors, outputs, offset, arena, arenas, target_at, target):
    """Finish one sum and store it.

    `offset` is the number's place in the output rows; `arena` and `target_at` are where those of
    its stream begin.
    """
    _, plain, active, bends, leaves = outputs
    bias, alpha, inverse_beta = factors
    value = add(add(value, bias), residual)
    if bends != 0:
        value = tanh(value)
    if leaves != 0:
        target[place(target_at + plain + offset)] = value
    elif plain != NONE:
        arenas[place(arena + plain + offset)] = value
    if active != NONE:
        arenas[place(arena + active + offset)] = snake(value, alpha, inverse_beta)


@functools.cache
def finish_kernel() -> Any:
    """The kernel that adds up a step's taps, or takes the source's rows, and finishes them.

    One thread a number of the output; `sums` holds (taps, streams, rows, columns).
    """

    def finish(
        steps,
        index,
        streams,
        source,
        arenas,
        arena_floats,
        target,
        target_floats,
        parameters,
        sums,
        source_floats,
    ):
        columns, phases = steps[index, COLUMNS], steps[index, PHASES]
        rows = steps[index, ROWS] * phases
        number = np.int64(cuda.grid(1))
        numbers = streams.shape[0] * rows * columns
        if number >= numbers:
            return
        group = number // (rows * columns)
        row = (number - group * rows * columns) // columns
        column = number - (group * rows + row) * columns
        if row < steps[index, FIRST_ROW] or row >= steps[index, LAST_ROW]:
            return
        if steps[index, WEIGHTS] == NONE:
            begin = group * source_floats + steps[index, INPUT]
            value = source[place(begin + row * steps[index, INPUT_STRIDE] + column)]
        else:
            value = sums[place(number)]
            for tap in range(1, steps[index, TAPS]):
                value = add(value, sums[place(number + tap * numbers)])
        arena = streams[group] * arena_floats
        offset = row * steps[index, OUTPUT_STRIDE] + column
        outputs = outputs_of(steps, index)
        residual = NOTHING
        if outputs[0] != NONE:
            residual = arenas[place(arena + outputs[0] + offset)]
        factors = column_of(steps, index, column, parameters)
        target_at = group * target_floats
        give_out(value, residual, factors, outputs, offset, arena, arenas, target_at, target)

    return kernel(finish)
