"""The product kernel: rows by weights, tiled in shared memory and in registers.

The order of arithmetic is the CPU's: for each tap a chain of fused multiply-adds over the channels
from +0, the taps added in their order, then what `finish` does. A tile has rows of all streams.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from oobleck_stream.engine.cuda.epilogue import NOTHING, column_of, give_out, outputs_of
from oobleck_stream.engine.cuda.library import (
    ALIGNMENT,
    add,
    cuda,
    device,
    fma,
    kernel,
    place,
    unsigned,
)
from oobleck_stream.engine.cuda.tiles import Tile
from oobleck_stream.engine.program import (
    CHANNELS,
    COLUMNS,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    LANES,
    LAST_ROW,
    NONE,
    OUTPUT_STRIDE,
    PANEL,
    PHASES,
    ROWS,
    TAP_STRIDE,
    TAPS,
    WEIGHTS,
)

KINDS = "tnifnffnf"
"""The kernel's parameters, as `library.compiled` takes them."""

ZERO = np.float32(0.0)


@device
def weights_of(steps, index, phase, column):
    """Where a column's weights begin, and how far apart they are; the last for one beyond."""
    padded = (steps[index, COLUMNS] + LANES - 1) // LANES * LANES
    column = min(column, padded - 1)
    panel = column // PANEL * PANEL
    width = min(PANEL, padded - panel)
    size = steps[index, TAPS] * steps[index, CHANNELS]
    return steps[index, WEIGHTS] + size * (phase * padded + panel) + column - panel, width


@functools.cache
def product_kernel(tile: Tile) -> Any:
    """The kernel of a tile; a block of threads a tile, in as many splits as the grid is deep.

    Blocks along x are tiles of rows, along y phases of tiles of columns; along z are the taps where
    they are split: their sums go to `sums` as (taps, streams, rows, columns), for `finish`.
    """
    depth, threads = tile.depth, tile.threads
    rows, columns = tile.rows, tile.columns
    # A thread's rows and columns are fours (or less) side by side: read at once, free of conflicts.
    rows_each, columns_each = tile.thread_rows, tile.thread_columns
    row_run, column_run = min(4, rows_each), min(4, columns_each)
    part_rows = rows * row_run // rows_each
    part_columns = columns * column_run // columns_each
    parts, across = rows_each // row_run, columns // columns_each
    cells = rows_each * columns_each
    # Shared memory: twice the inputs, channel by channel, and twice the weights; then the sums.
    input_stride = rows + row_run
    inputs_size, weights_size = depth * input_stride, depth * columns
    shared_size = max(2 * (inputs_size + weights_size), part_rows * columns)
    # Bringing a chunk: a thread keeps to one channel of the inputs, and to one of the columns.
    input_loads, weight_loads = rows * depth // threads, depth * columns // threads
    input_rows, weight_channels = threads // depth, threads // columns
    # Giving out: a thread keeps to a column.
    numbers_each = part_rows * columns // threads
    batch = min(8, numbers_each)
    assert threads % depth == threads % columns == numbers_each % batch == 0

    def product(
        steps,
        index,
        streams,
        arenas,
        arena_floats,
        parameters,
        target,
        target_floats,
        sums,
    ):
        shared = cuda.shared.array(shared_size, np.float32, alignment=ALIGNMENT)
        row_inputs = cuda.shared.array(rows, np.int64)
        row_arenas = cuda.shared.array(rows, np.int64)
        row_groups = cuda.shared.array(rows, np.int64)
        blocks, phases = steps[index, ROWS], steps[index, PHASES]
        channels, taps = steps[index, CHANNELS], steps[index, TAPS]
        tap_stride, width_out = steps[index, TAP_STRIDE], steps[index, COLUMNS]
        thread = unsigned(cuda.threadIdx.x)
        first_row = np.int64(cuda.blockIdx.x) * rows
        column_tiles = (width_out + columns - 1) // columns
        phase = np.int64(cuda.blockIdx.y) // column_tiles
        first_column = (np.int64(cuda.blockIdx.y) - phase * column_tiles) * columns
        count = streams.shape[0] * blocks

        for row in range(thread, rows, threads):
            # Rows beyond the last read what the last one does, and are not given out.
            whole = min(first_row + row, count - 1)
            group = whole // blocks
            arena = streams[group] * arena_floats
            block = whole - group * blocks
            row_groups[row] = group
            row_arenas[row] = arena
            row_inputs[row] = arena + steps[index, INPUT] + block * steps[index, INPUT_STRIDE]
        cuda.syncthreads()

        tap, last_tap = np.int64(0), taps
        splits = cuda.gridDim.z > 1
        if splits:
            tap, last_tap = np.int64(cuda.blockIdx.z), np.int64(cuda.blockIdx.z) + 1
        chunks = (channels + depth - 1) // depth
        chunk, left = 0, chunks
        input_channel, input_row = thread % depth, thread // depth
        weight_column, weight_channel = thread % columns, thread // columns
        weights, weight_width = weights_of(steps, index, phase, first_column + weight_column)
        mine_across = (thread % across) * column_run
        mine_down = (thread // across) * row_run

        new_inputs = cuda.local.array(input_loads, np.float32)
        new_weights = cuda.local.array(weight_loads, np.float32)
        chain = cuda.local.array(cells, np.float32)
        total = cuda.local.array(cells, np.float32)
        x = cuda.local.array(rows_each, np.float32)
        w = cuda.local.array(columns_each, np.float32)
        for i in range(cells):
            chain[i] = ZERO
            total[i] = NOTHING

        # While a chunk is multiplied the next one is on its way, first to registers.
        steps_left = (last_tap - tap) * chunks
        number = 0
        while number <= steps_left:
            if number < steps_left:
                # Beyond the last channel a chain gets what leaves it as it is.
                channel = chunk * depth + input_channel
                along = tap * tap_stride + min(channel, channels - 1)
                for i in range(input_loads):
                    value = arenas[place(row_inputs[place(input_row + i * input_rows)] + along)]
                    new_inputs[i] = value if channel < channels else NOTHING
                for i in range(weight_loads):
                    channel = chunk * depth + weight_channel + i * weight_channels
                    along = tap * channels + min(channel, channels - 1)
                    value = parameters[place(weights + along * weight_width)]
                    new_weights[i] = value if channel < channels else ZERO
                chunk += 1
                if chunk == chunks:
                    chunk = 0
                    tap += 1
            if number > 0:
                buffer = (number + 1) & 1
                inputs_at = buffer * inputs_size + mine_down
                weights_at = 2 * inputs_size + buffer * weights_size + mine_across
                k = 0
                while k < depth:
                    for i in range(rows_each):
                        far = i // row_run * part_rows + i % row_run
                        x[i] = shared[place(inputs_at + k * input_stride + far)]
                    for j in range(columns_each):
                        far = j // column_run * part_columns + j % column_run
                        w[j] = shared[place(weights_at + k * columns + far)]
                    for i in range(rows_each):
                        for j in range(columns_each):
                            cell = i * columns_each + j
                            chain[cell] = fma(x[i], w[j], chain[cell])
                    k += 1
                left -= 1
                if left == 0:
                    left = chunks
                    for i in range(cells):
                        total[i] = add(total[i], chain[i])
                        chain[i] = ZERO
            if number < steps_left:
                buffer = number & 1
                inputs_at = buffer * inputs_size + input_channel * input_stride + input_row
                for i in range(input_loads):
                    shared[place(inputs_at + i * input_rows)] = new_inputs[i]
                weights_at = 2 * inputs_size + buffer * weights_size
                weights_at += weight_channel * columns + weight_column
                for i in range(weight_loads):
                    shared[place(weights_at + i * weight_channels * columns)] = new_weights[i]
            cuda.syncthreads()
            number += 1

        # The sums go through shared memory, so that neighbours give out neighbouring columns.
        column = first_column + weight_column
        factors = column_of(steps, index, min(column, width_out - 1), parameters)
        outputs = outputs_of(steps, index)
        stride = steps[index, OUTPUT_STRIDE]
        wanted, unwanted = steps[index, FIRST_ROW], steps[index, LAST_ROW]
        residuals = cuda.local.array(batch, np.float32)
        for part in range(parts):
            for i in range(rows_each):
                # Written so that every cell is known by its number: only then are they registers.
                if i // row_run == part:
                    for j in range(columns_each):
                        far = j // column_run * part_columns + j % column_run
                        at = (mine_down + i % row_run) * columns + mine_across + far
                        shared[place(at)] = total[i * columns_each + j]
            cuda.syncthreads()
            for first in range(0, numbers_each, batch):
                for i in range(batch):
                    row = part * part_rows + weight_channel + (first + i) * weight_channels
                    block = first_row + row - row_groups[row] * blocks
                    line = block * phases + phase
                    residuals[i] = NOTHING
                    given = column < width_out and first_row + row < count and not splits
                    if given and outputs[0] != NONE and wanted <= line < unwanted:
                        at = row_arenas[row] + outputs[0] + line * stride + column
                        residuals[i] = arenas[place(at)]
                for i in range(batch):
                    below = weight_channel + (first + i) * weight_channels
                    row = part * part_rows + below
                    if column < width_out and first_row + row < count:
                        group, value = row_groups[row], shared[below * columns + weight_column]
                        line = (first_row + row - group * blocks) * phases + phase
                        if splits:
                            above = (cuda.blockIdx.z * streams.shape[0] + group) * blocks * phases
                            sums[place((above + line) * width_out + column)] = value
                        elif wanted <= line < unwanted:
                            give_out(
                                value,
                                residuals[i],
                                factors,
                                outputs,
                                line * stride + column,
                                row_arenas[row],
                                arenas,
                                group * target_floats,
                                target,
                            )
            cuda.syncthreads()

    return kernel(product)
