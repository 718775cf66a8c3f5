"""The kernels before and after the products of a fast convolution (see `fast_convolution`)."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from oobleck_stream.engine.cuda.epilogue import OPERATIONS, added_parts, finish_element
from oobleck_stream.engine.cuda.library import cuda, device, kernel, unsigned_index
from oobleck_stream.engine.program import (
    CHANNELS,
    COLUMNS,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    LAST_ROW,
    PHASE_STRIDE,
    POINT_STRIDE,
    POINTS,
    ROWS,
    TAP_STRIDE,
)
from oobleck_stream.fast_convolution import SCHEMES
from oobleck_stream.operations import Operations

NAMES = ("fma", "multiply", "add", "subtract", "divide", "less", "select", "power_of_two")
"""The operations whose calls are recorded."""


def straight_line(part: Callable[..., list[Any]], inputs: int) -> Any:
    """Compile `Scheme.transform` or `Scheme.combine` to a function that kernels can call.

    Numba can't compile these functions directly, because they work on lists of any type. Instead,
    `part` is called once with operations that record each call as a line of Python. These lines are
    then compiled.

    Parameters
    ----------
    part : callable
        `Scheme.transform` or `Scheme.combine`.
    inputs : int
        Number of inputs of `part`.

    Returns
    -------
    callable
        ``function(x, y)`` computes the outputs `y` from the inputs `x`; both are local arrays.
    """
    lines: list[str] = []
    names: dict[str, Any] = {"__name__": __name__}

    def constant(value: float) -> str:
        names[f"c{len(names)}"] = np.float32(value)
        return f"c{len(names) - 1}"

    def recorded(name: str) -> Callable[..., str]:
        names[name] = getattr(OPERATIONS, name)

        def operation(*arguments: str) -> str:
            lines.append(f"v{len(lines)} = {name}({', '.join(arguments)})")
            return f"v{len(lines) - 1}"

        return operation

    operations = Operations(constant=constant, **{name: recorded(name) for name in NAMES})
    outputs = part([f"x[{number}]" for number in range(inputs)], operations)
    lines += [f"y[{number}] = {value}" for number, value in enumerate(outputs)]
    exec("\n    ".join(["def function(x, y):", *lines]), names)
    return device(names["function"])


@functools.cache
def transform_kernel(rows: int) -> Any:
    """Create the kernel that computes the rows of points, for tiles of `rows` rows.

    One thread computes one channel of a tile.
    """
    scheme = SCHEMES[rows]
    inputs, points = scheme.inputs, scheme.points
    transformed = straight_line(scheme.transform, inputs)

    def transform(steps, index, streams, arenas, arena_floats):
        channels, blocks = steps[index, CHANNELS], steps[index, ROWS]
        # Compute the stream within the group, the tile and the channel from the thread's number.
        number = np.int64(cuda.grid(1))
        if number >= streams.shape[0] * blocks * channels:
            return
        group = number // (blocks * channels)
        block = (number - group * blocks * channels) // channels
        channel = number - (group * blocks + block) * channels
        arena = streams[group] * arena_floats + channel
        x = cuda.local.array(inputs, np.float32)
        y = cuda.local.array(points, np.float32)
        start = arena + steps[index, INPUT] + block * steps[index, INPUT_STRIDE]
        for i in range(inputs):
            x[i] = arenas[unsigned_index(start + i * steps[index, TAP_STRIDE])]
        transformed(x, y)
        start = arena + steps[index, POINTS] + block * channels
        for i in range(points):
            arenas[unsigned_index(start + i * steps[index, POINT_STRIDE])] = y[i]

    return kernel(transform)


@functools.cache
def combine_kernel(rows: int) -> Any:
    """Create the kernel that combines products into tiles of `rows` rows, and stores the tiles.

    One thread computes one column of a tile. `sums` has the shape (points, parts of a point,
    streams, tiles, columns). The kernel takes the same arguments as the kernel of `finish_kernel`.
    """
    scheme = SCHEMES[rows]
    points = scheme.points
    combined = straight_line(scheme.combine, points)

    def combine(
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
        columns, blocks = steps[index, COLUMNS], steps[index, ROWS]
        # Compute the stream within the group, the tile and the column from the thread's number.
        number = np.int64(cuda.grid(1))
        elements = streams.shape[0] * blocks * columns
        if number >= elements:
            return
        group = number // (blocks * columns)
        block = (number - group * blocks * columns) // columns
        column = number - (group * blocks + block) * columns
        x = cuda.local.array(points, np.float32)
        y = cuda.local.array(rows, np.float32)
        each = parts // points
        for i in range(points):
            x[i] = added_parts(sums, number + i * each * elements, each, elements)
        combined(x, y)
        arena = streams[group] * arena_floats
        start = group * target_floats
        for phase in range(rows):
            row = block * rows + phase * steps[index, PHASE_STRIDE]
            # All indices of `y` must be constants. Otherwise `y` would not be kept in registers.
            value = y[0]
            for i in range(1, rows):
                if i == phase:
                    value = y[i]
            if steps[index, FIRST_ROW] <= row < steps[index, LAST_ROW]:
                finish_element(
                    steps, index, value, row, column, parameters, arena, arenas, start, target
                )

    return kernel(combine)
