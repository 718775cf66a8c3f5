"""The epilogue of a step on the GPU: bias, residual, tanh, Snake, and the stores of the rows."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from oobleck_stream.engine.arithmetic import activations
from oobleck_stream.engine.cuda.library import (
    add,
    cuda,
    device,
    divide,
    fma,
    kernel,
    less,
    multiply,
    power_of_two,
    select,
    subtract,
    unsigned_index,
)
from oobleck_stream.engine.program import (
    ALPHA,
    BIAS,
    COLUMNS,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    INVERSE_BETA,
    LAST_ROW,
    NONE,
    OUTPUT_STRIDE,
    PHASES,
    RAW,
    RESIDUAL,
    ROWS,
    SNAKED,
    TANH,
    TO_TARGET,
    WEIGHTS,
)
from oobleck_stream.operations import Operations

NEGATIVE_ZERO = np.float32(-0.0)
"""The exact identity of addition in IEEE 754: adding +0.0 would turn -0.0 into +0.0."""

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
def output_fields(steps, index):
    """Return the fields of a step for `store_output`: residual, tanh and output addresses."""
    return (
        steps[index, RESIDUAL],
        steps[index, RAW],
        steps[index, SNAKED],
        steps[index, TANH],
        steps[index, TO_TARGET],
    )


@device
def column_parameters(steps, index, column, parameters):
    """Load the bias, alpha and inverse beta of a column. They apply to all rows of a thread."""
    # As on the CPU, +0.0 is added if there is no bias. This turns a sum of -0.0 into +0.0.
    bias, alpha, inverse_beta = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    if steps[index, BIAS] != NONE:
        bias = parameters[unsigned_index(steps[index, BIAS] + column)]
    if steps[index, SNAKED] != NONE:
        alpha = parameters[unsigned_index(steps[index, ALPHA] + column)]
        inverse_beta = parameters[unsigned_index(steps[index, INVERSE_BETA] + column)]
    return bias, alpha, inverse_beta


@device
def store_output(
    value, residual, parameters_of_column, outputs, offset, arena, arenas, target_start, target
):
    """Apply the epilogue to one sum and store the result.

    `offset` is the index of the element within the step's output rows. The stream's arena starts at
    index `arena` of `arenas`, and its output rows start at index `target_start` of `target`.
    """
    _, raw, snaked, has_tanh, to_target = outputs
    bias, alpha, inverse_beta = parameters_of_column
    value = add(add(value, bias), residual)
    if has_tanh != 0:
        value = tanh(value)
    if to_target != 0:
        target[unsigned_index(target_start + raw + offset)] = value
    elif raw != NONE:
        arenas[unsigned_index(arena + raw + offset)] = value
    if snaked != NONE:
        arenas[unsigned_index(arena + snaked + offset)] = snake(value, alpha, inverse_beta)


@device
def finish_element(
    steps, index, value, row, column, parameters, arena, arenas, target_start, target
):
    """Apply the epilogue of a step to the sum of a row and a column, and store the result."""
    offset = row * steps[index, OUTPUT_STRIDE] + column
    outputs = output_fields(steps, index)
    residual = NEGATIVE_ZERO
    if outputs[0] != NONE:
        residual = arenas[unsigned_index(arena + outputs[0] + offset)]
    own = column_parameters(steps, index, column, parameters)
    store_output(value, residual, own, outputs, offset, arena, arenas, target_start, target)


@device
def added_parts(sums, first, parts, elements):
    """Add up the partial sums of an element, in ascending order of the parts."""
    value = sums[unsigned_index(first)]
    for part in range(1, parts):
        value = add(value, sums[unsigned_index(first + part * elements)])
    return value


@functools.cache
def finish_kernel() -> Any:
    """Create the kernel that applies the epilogue where the product kernel does not.

    The kernel adds up the parts of split sums. If the step is the copy of the input, the kernel
    reads the source rows instead. One thread computes one element of the output. `sums` has the
    shape (parts, streams, rows, columns).
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
        parts,
        source_floats,
    ):
        columns = steps[index, COLUMNS]
        rows = steps[index, ROWS] * steps[index, PHASES]
        # Compute the stream within the group, the row and the column from the thread's number.
        number = np.int64(cuda.grid(1))
        elements = streams.shape[0] * rows * columns
        if number >= elements:
            return
        group = number // (rows * columns)
        row = (number - group * rows * columns) // columns
        column = number - (group * rows + row) * columns
        if row < steps[index, FIRST_ROW] or row >= steps[index, LAST_ROW]:
            return
        if steps[index, WEIGHTS] == NONE:
            begin = group * source_floats + steps[index, INPUT]
            value = source[unsigned_index(begin + row * steps[index, INPUT_STRIDE] + column)]
        else:
            value = added_parts(sums, number, parts, elements)
        arena = streams[group] * arena_floats
        start = group * target_floats
        finish_element(steps, index, value, row, column, parameters, arena, arenas, start, target)

    return kernel(finish)
