"""The kernel that multiplies input rows by weights, in tiles of shared memory and registers.

"The order of arithmetic" in oobleck_stream/README.md applies. A tile may contain rows of several
streams.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from oobleck_stream.engine.cuda.epilogue import (
    NEGATIVE_ZERO,
    column_parameters,
    output_fields,
    store_output,
)
from oobleck_stream.engine.cuda.library import (
    ALIGNMENT,
    add,
    cuda,
    device,
    fma,
    kernel,
    unsigned,
    unsigned_index,
)
from oobleck_stream.engine.cuda.tiles import Tile
from oobleck_stream.engine.program import (
    CHANNELS,
    COLUMNS,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    LAST_ROW,
    MAX_CHAIN,
    NONE,
    OUTPUT_STRIDE,
    PANEL,
    PHASES,
    ROWS,
    TAP_STRIDE,
    TAPS,
    TILE,
    WEIGHTS,
    WIDE_CHAIN,
    chain_length,
    weight_panel,
)

ZERO = np.float32(0.0)


_weight_panel = device(weight_panel)
_chain_length = device(chain_length)


@device
def weights_of(steps, index, phase, column):
    """Return the offset of a column's weights in the packed parameters, and its panel's width."""
    taps, channels, columns = steps[index, TAPS], steps[index, CHANNELS], steps[index, COLUMNS]
    offset, width = _weight_panel(taps, channels, columns, phase, column)
    return steps[index, WEIGHTS] + offset + column % PANEL, width


@functools.cache
def product_kernel(tile: Tile) -> Any:
    """Create the kernel for one size of tile. Each block of threads computes one tile.

    The grid's x axis selects the tile along the rows. Its y axis selects the phase and the tile
    along the columns. If the sums are split, its z axis selects the part. A part consists of one or
    more whole taps, or of a single chain. The parts are written to `sums`, which has the shape
    (parts, streams, rows, columns), and a second kernel adds them up. The sums of fast convolutions
    are always split, so that no part contains several points.
    """
    depth, threads = tile.depth, tile.threads
    rows, columns = tile.rows, tile.columns
    # A thread computes rows_each x columns_each cells. Its rows form runs of up to four
    # neighbouring rows, and its columns form such runs too. One instruction loads a run, without
    # bank conflicts. The runs of a thread are spaced evenly over the tile, and the runs of the
    # other threads lie between them.
    rows_each, columns_each = tile.thread_rows, tile.thread_columns
    row_run, column_run = min(4, rows_each), min(4, columns_each)
    part_rows = rows * row_run // rows_each
    part_columns = columns * column_run // columns_each
    parts, threads_across = rows_each // row_run, columns // columns_each
    cells = rows_each * columns_each
    # While the sums are computed, shared memory holds two buffers for chunks of inputs, followed by
    # two buffers for chunks of weights. Their shapes are (depth, rows), padded to (depth,
    # input_stride), and (depth, columns). In the epilogue, shared memory holds a part of the tile's
    # sums.
    input_stride = rows + row_run
    inputs_size, weights_size = depth * input_stride, depth * columns
    shared_size = max(2 * (inputs_size + weights_size), part_rows * columns)
    # To copy a chunk, a thread copies every `input_rows`-th row of one channel of the inputs, and
    # every `weight_channels`-th channel of one column of the weights.
    input_loads, weight_loads = rows * depth // threads, depth * columns // threads
    input_rows, weight_channels = threads // depth, threads // columns
    # To store a part of the output, a thread stores one column, `batch` rows at a time.
    outputs_each = part_rows * columns // threads
    batch = min(8, outputs_each)
    assert threads % depth == threads % columns == outputs_each % batch == 0
    assert MAX_CHAIN % depth == WIDE_CHAIN % depth == 0

    @device
    def load_inputs(new_inputs, arenas, row_inputs, row, offset, is_channel):
        """Load a thread's share of a chunk's inputs from global memory to registers."""
        for i in range(input_loads):
            value = arenas[
                unsigned_index(row_inputs[unsigned_index(row + i * input_rows)] + offset)
            ]
            # After the last channel, the inputs are -0.0 and the weights +0.0. Adding their
            # products, -0.0, does not change a chain.
            new_inputs[i] = value if is_channel else NEGATIVE_ZERO

    @device
    def load_weights(new_weights, parameters, weights, width, tap, channel, channels):
        """Load a thread's share of a chunk's weights from global memory to registers."""
        for i in range(weight_loads):
            own = channel + i * weight_channels
            row = tap * channels + min(own, channels - 1)
            value = parameters[unsigned_index(weights + row * width)]
            new_weights[i] = value if own < channels else ZERO

    @device
    def store_chunk(shared, new_inputs, inputs_start, new_weights, weights_start):
        """Store the loaded values, which are in registers, to a buffer of shared memory."""
        for i in range(input_loads):
            shared[unsigned_index(inputs_start + i * input_rows)] = new_inputs[i]
        for i in range(weight_loads):
            shared[unsigned_index(weights_start + i * weight_channels * columns)] = new_weights[i]

    @device
    def multiply_chunk(shared, inputs_start, weights_start, x, w, chain):
        """Extend every chain by the channels of a chunk in shared memory."""
        k = 0
        while k < depth:
            for i in range(rows_each):
                offset = i // row_run * part_rows + i % row_run
                x[i] = shared[unsigned_index(inputs_start + k * input_stride + offset)]
            for j in range(columns_each):
                offset = j // column_run * part_columns + j % column_run
                w[j] = shared[unsigned_index(weights_start + k * columns + offset)]
            for i in range(rows_each):
                for j in range(columns_each):
                    cell = i * columns_each + j
                    chain[cell] = fma(x[i], w[j], chain[cell])
            k += 1

    @device
    def share_part(shared, total, part, first_row, first_column):
        """Store a thread's sums of one part of the tile to shared memory.

        The shared memory has the shape (part_rows, columns).
        """
        for i in range(rows_each):
            # The loop is unrolled, so the indices of `total` are constants. Otherwise `total` would
            # not be kept in registers.
            if i // row_run == part:
                for j in range(columns_each):
                    offset = j // column_run * part_columns + j % column_run
                    start = (first_row + i % row_run) * columns + first_column
                    shared[unsigned_index(start + offset)] = total[i * columns_each + j]

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
        # In a fast convolution, each point has a single product, which all phases use.
        blocks, phases = steps[index, ROWS], np.int64(1)
        if steps[index, TILE] == 1:
            phases = steps[index, PHASES]
        channels, taps = steps[index, CHANNELS], steps[index, TAPS]
        tap_stride, width_out = steps[index, TAP_STRIDE], steps[index, COLUMNS]
        thread = unsigned(cuda.threadIdx.x)
        first_row = np.int64(cuda.blockIdx.x) * rows
        column_tiles = (width_out + columns - 1) // columns
        phase = np.int64(cuda.blockIdx.y) // column_tiles
        first_column = (np.int64(cuda.blockIdx.y) - phase * column_tiles) * columns
        count = streams.shape[0] * blocks

        # For each row of the tile: its stream within the group, the offset of that stream's arena,
        # and the offset of the input row of tap 0.
        for row in range(thread, rows, threads):
            # Rows after the last row read the same input as the last row, and are not stored.
            whole = min(first_row + row, count - 1)
            group = whole // blocks
            arena = streams[group] * arena_floats
            block = whole - group * blocks
            row_groups[row] = group
            row_arenas[row] = arena
            row_inputs[row] = arena + steps[index, INPUT] + block * steps[index, INPUT_STRIDE]
        cuda.syncthreads()

        # Find the first tap of this part, the part's first chunk in that tap, and its number of
        # chunks.
        length = _chain_length(channels)
        chain_chunks = length // depth
        chunks, chains = (channels + depth - 1) // depth, (channels + length - 1) // length
        parts_of_sum = np.int64(cuda.gridDim.z)
        splits = parts_of_sum > 1
        chains_each = taps * chains // parts_of_sum
        first_chain = cuda.blockIdx.z * chains_each
        tap = first_chain // chains
        chunk = (first_chain - tap * chains) * chain_chunks
        chunks_left = chains_each // chains * chunks
        if chains_each < chains:
            chunks_left = min(chain_chunks, chunks - chunk)
        input_channel, input_row = thread % depth, thread // depth
        weight_column, weight_channel = thread % columns, thread // columns
        # Columns after the last column are computed like the last column, and are not stored.
        column = first_column + weight_column
        last_column = min(column, width_out - 1)
        weights, weight_width = weights_of(steps, index, phase, last_column)
        own_column = (thread % threads_across) * column_run
        own_row = (thread // threads_across) * row_run

        new_inputs = cuda.local.array(input_loads, np.float32)
        new_weights = cuda.local.array(weight_loads, np.float32)
        # `chain` is the current chain, `total` the sum of the chains before it.
        chain = cuda.local.array(cells, np.float32)
        total = cuda.local.array(cells, np.float32)
        x = cuda.local.array(rows_each, np.float32)
        w = cuda.local.array(columns_each, np.float32)
        for i in range(cells):
            chain[i] = ZERO
            total[i] = NEGATIVE_ZERO

        # Software pipeline over the chunks of all taps. In each iteration, chunk `number` is loaded
        # to registers, the chunk before it is multiplied out of shared memory, and then the new
        # chunk is stored to the other buffer. So loads from global memory overlap with arithmetic.
        multiplied, number = chunk, 0
        while number <= chunks_left:
            if number < chunks_left:
                channel = chunk * depth + input_channel
                offset = tap * tap_stride + min(channel, channels - 1)
                load_inputs(new_inputs, arenas, row_inputs, input_row, offset, channel < channels)
                channel = chunk * depth + weight_channel
                load_weights(new_weights, parameters, weights, weight_width, tap, channel, channels)
                chunk += 1
                if chunk == chunks:
                    chunk = 0
                    tap += 1
            if number > 0:
                buffer = (number + 1) & 1
                inputs_start = buffer * inputs_size + own_row
                weights_start = 2 * inputs_size + buffer * weights_size + own_column
                multiply_chunk(shared, inputs_start, weights_start, x, w, chain)
                multiplied += 1
                if multiplied == chunks or multiplied % chain_chunks == 0:
                    # The chain is complete.
                    if multiplied == chunks:
                        multiplied = 0
                    for i in range(cells):
                        total[i] = add(total[i], chain[i])
                        chain[i] = ZERO
            if number < chunks_left:
                buffer = number & 1
                inputs_start = buffer * inputs_size + input_channel * input_stride + input_row
                weights_start = 2 * inputs_size + buffer * weights_size
                weights_start += weight_channel * columns + weight_column
                store_chunk(shared, new_inputs, inputs_start, new_weights, weights_start)
            cuda.syncthreads()
            number += 1

        # Epilogue. The sums go through shared memory, part by part, so that neighbouring threads
        # store neighbouring columns.
        own = column_parameters(steps, index, last_column, parameters)
        outputs = output_fields(steps, index)
        stride = steps[index, OUTPUT_STRIDE]
        first_line, last_line = steps[index, FIRST_ROW], steps[index, LAST_ROW]
        residuals = cuda.local.array(batch, np.float32)
        for part in range(parts):
            share_part(shared, total, part, own_row, own_column)
            cuda.syncthreads()
            for first in range(0, outputs_each, batch):
                # Load all residuals before using them, so that their latencies overlap.
                for i in range(batch):
                    row = part * part_rows + weight_channel + (first + i) * weight_channels
                    block = first_row + row - row_groups[row] * blocks
                    line = block * phases + phase
                    residuals[i] = NEGATIVE_ZERO
                    exists = column < width_out and first_row + row < count and not splits
                    if exists and outputs[0] != NONE and first_line <= line < last_line:
                        offset = row_arenas[row] + outputs[0] + line * stride + column
                        residuals[i] = arenas[unsigned_index(offset)]
                for i in range(batch):
                    part_row = weight_channel + (first + i) * weight_channels
                    row = part * part_rows + part_row
                    if column < width_out and first_row + row < count:
                        group, value = row_groups[row], shared[part_row * columns + weight_column]
                        line = (first_row + row - group * blocks) * phases + phase
                        if splits:
                            above = (cuda.blockIdx.z * streams.shape[0] + group) * blocks * phases
                            sums[unsigned_index((above + line) * width_out + column)] = value
                        elif first_line <= line < last_line:
                            store_output(
                                value,
                                residuals[i],
                                own,
                                outputs,
                                line * stride + column,
                                row_arenas[row],
                                arenas,
                                group * target_floats,
                                target,
                            )
            cuda.syncthreads()

    return kernel(product)
