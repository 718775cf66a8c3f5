"""Cuts steps into jobs, and executes the jobs.

A job executes one move in one stream, or computes one chunk of rows. It computes one panel of
columns of these rows, or, in transforms and joined steps, all columns. A chunk may contain rows of
several streams, so that the weights are read once for all of them. For a fast convolution, a chunk
consists of tiles (`oobleck_stream.fast_convolution`).

All memory except the tables is passed as integer byte addresses.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, attr-defined"
from __future__ import annotations

from numba import njit

from oobleck_stream.engine.cpu.machine import clear_bytes, move_bytes, store_word
from oobleck_stream.engine.cpu.narrow import add_taps, side_by_side
from oobleck_stream.engine.cpu.product import finish, tile
from oobleck_stream.engine.cpu.simd import TILE_ROWS, TILE_VECTORS
from oobleck_stream.engine.cpu.tiles import combine, transform
from oobleck_stream.engine.program import (
    ALPHA,
    BIAS,
    CHANNELS,
    COLUMNS,
    DTYPE,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    INVERSE_BETA,
    JOINED,
    LANES,
    LAST_ROW,
    MAX_CHAIN,
    MAX_JOINED,
    NONE,
    ORIGIN,
    OUTPUT_STRIDE,
    PANEL,
    PHASE_STRIDE,
    PHASES,
    POINT_PAD,
    POINT_STRIDE,
    POINTS,
    RAW,
    RESIDUAL,
    ROWS,
    SIZE,
    SNAKED,
    TANH,
    TAP_STRIDE,
    TAPS,
    TILE,
    TO,
    TO_TARGET,
    WEIGHTS,
    chain_length,
    weight_panel,
)
from oobleck_stream.fast_convolution import SCHEMES

# Columns of the table of streams, int64: the addresses of each stream's arena, input rows and
# output rows.
ARENA, SOURCE, TARGET, STREAM_FIELDS = range(4)

MAX_CHUNK = 96
"""Maximum number of rows of a job; in a fast convolution, of tiles."""

MAX_JOINED_CHUNK = 24
"""Maximum number of blocks of a job that computes two joined steps. A block is a row of a direct
convolution or a tile of a fast one. With this limit, the rows that one step passes to the other fit
the first-level cache."""

TRANSFORM_CHUNK = 4
"""Maximum number of tiles of a job that computes the rows of points."""

MAX_POINTS = max(scheme.points for scheme in SCHEMES.values())

MIN_JOBS = 16
"""A step with fewer jobs is cut into smaller chunks, so that all threads finish together."""

# The scratch memory of a thread: offsets in bytes.
# - From 0: PANEL zeros, which serve as the bias of a step without one.
# - From INDIRECTION: the addresses of the input rows of a chunk (what XNNPACK calls an indirection
#   buffer). With these addresses, the product needs to know neither the strides nor where the rows
#   of a stream end. A narrow step stores up to LANES - 1 further addresses, for the input rows of
#   its other taps.
# - From SUMS: the sums of one panel, one row of sums for each row of the chunk. In a fast
#   convolution, there is one row of sums for each point of each tile.
# - From BETWEEN: the rows that a step passes to the step joined with it.
# - From TILES: in a job of two joined steps, the rows of the points; in a narrow step, the weights.
INDIRECTION = 4 * PANEL
SUMS = INDIRECTION + 8 * (MAX_CHUNK + LANES)
BETWEEN = SUMS + 4 * MAX_POINTS * MAX_CHUNK * PANEL
TILES = BETWEEN + 4 * MAX_CHUNK * MAX_JOINED
TILE_POINT_BYTES = 4 * (MAX_JOINED_CHUNK * MAX_JOINED + POINT_PAD)
SCRATCH_BYTES = TILES + MAX_POINTS * TILE_POINT_BYTES


@njit(nogil=True)
def jobs_of(step, streams):
    """Return the maximum number of rows per job, and a step's number of jobs without its moves.

    The jobs are ordered by phase, then by panel, then by chunk of rows, so that jobs that run at
    the same time share a panel of weights.
    """
    rows = step[ROWS] * streams
    if step[JOINED] != 0 or step[POINTS] != NONE:
        chunk = TRANSFORM_CHUNK if step[POINTS] != NONE else MAX_JOINED_CHUNK
        return chunk, (rows + chunk - 1) // chunk
    panels = (step[COLUMNS] + PANEL - 1) // PANEL
    if step[TILE] == 1:
        panels *= step[PHASES]
    chunk = MAX_CHUNK
    if (rows + chunk - 1) // chunk * panels < MIN_JOBS:
        chunk = MAX_CHUNK // 4
    return chunk, (rows + chunk - 1) // chunk * panels


@njit(nogil=True)
def transform_job(step, job, streams, scratch):
    """Compute the rows of the points for the tiles of one job."""
    each, width = step[ROWS], 4 * step[CHANNELS]
    begin = job * TRANSFORM_CHUNK
    count = min(TRANSFORM_CHUNK, each * len(streams) - begin)
    _fill_indirection(step, 0, each, begin, count, streams, scratch)
    for index in range(count):
        stream, row = divmod(begin + index, each)
        target = streams[stream, ARENA] + 4 * step[POINTS] + row * width
        transform(
            step[TILE],
            1,
            scratch + INDIRECTION + 8 * index,
            4 * step[TAP_STRIDE],
            width,
            target,
            4 * step[POINT_STRIDE],
            width,
        )


@njit(nogil=True)
def product_job(step, job, chunk, streams, parameters, scratch):
    """Compute one chunk of rows, for one phase and one panel of output columns."""
    rows, phases = step[ROWS], step[PHASES]
    chunks = (rows * len(streams) + chunk - 1) // chunk
    panels = (step[COLUMNS] + PANEL - 1) // PANEL
    panel = job // chunks
    if step[TILE] > 1:
        _tiles_job(step, panel * PANEL, (job % chunks) * chunk, chunk, streams, parameters, scratch)
        return
    phase = panel // panels
    column = (panel - phase * panels) * PANEL
    # The output rows of this phase are b * PHASES + phase. In each stream, compute the blocks b
    # whose row is in [FIRST_ROW, LAST_ROW). These are `each` blocks, beginning with block `first`.
    first = (step[FIRST_ROW] - phase + phases - 1) // phases
    each = min(rows, (step[LAST_ROW] - phase + phases - 1) // phases) - first
    begin = (job % chunks) * chunk
    count = min(chunk, each * len(streams) - begin)
    if count > 0:
        if step[WEIGHTS] != NONE and _is_narrow(step):
            _sum_narrow(step, first, each, begin, count, streams, parameters, scratch)
        elif step[WEIGHTS] != NONE:
            _fill_indirection(step, first, each, begin, count, streams, scratch)
            _sum_panel(step, phase, column, count, parameters, scratch)
        sums = scratch + SUMS
        _finish_panel(
            step, phase, column, first, each, begin, count, streams, sums, parameters, scratch
        )


@njit(nogil=True)
def _tiles_job(step, column, begin, chunk, streams, parameters, scratch):
    """Compute a chunk of fast-convolution tiles for one panel, from the rows of the points."""
    each = step[ROWS]
    count = min(chunk, each * len(streams) - begin)
    _fill_indirection(step, 0, each, begin, count, streams, scratch)
    _sum_tiles(step, column, count, 4 * step[TAP_STRIDE], parameters, scratch)
    sums, size = scratch + SUMS, count * 4 * _panel(step, 0, column)[1]
    for phase in range(step[PHASES]):
        _finish_panel(
            step, phase, column, 0, each, begin, count, streams, sums, parameters, scratch
        )
        sums += size


@njit(nogil=True)
def joined_job(step, following, job, streams, parameters, scratch):
    """Compute one chunk of rows of a step and, from them, the same rows of the next step.

    The next step has a single tap, so each of its rows depends only on the row of this step with
    the same index. The rows that this step passes to the next one stay in the scratch memory. If
    this step computes tiles, these rows are stored phase by phase.
    """
    each = step[ROWS]
    begin = job * MAX_JOINED_CHUNK
    count = min(MAX_JOINED_CHUNK, each * len(streams) - begin)
    rows = count * step[PHASES]
    between, row_bytes = scratch + BETWEEN, 4 * step[OUTPUT_STRIDE]
    _fill_indirection(step, 0, each, begin, count, streams, scratch)
    if step[TILE] > 1:
        tiles, width = scratch + TILES, 4 * step[CHANNELS]
        transform(
            step[TILE],
            count,
            scratch + INDIRECTION,
            4 * step[TAP_STRIDE],
            width,
            tiles,
            TILE_POINT_BYTES,
            width,
        )
        for tile in range(count):
            store_word(scratch + INDIRECTION + 8 * tile, tiles + tile * width)
    for column in range(0, step[COLUMNS], PANEL):
        if step[TILE] > 1:
            _sum_tiles(step, column, count, TILE_POINT_BYTES, parameters, scratch)
        else:
            _sum_panel(step, 0, column, count, parameters, scratch)
        sums, stride = scratch + SUMS, 4 * _panel(step, 0, column)[1]
        raw = snaked = 0
        if step[SNAKED] != NONE:
            snaked = between + 4 * column
        else:
            raw = between + 4 * column
        _finish_rows(
            step, column, rows, sums, stride, 0, raw, snaked, row_bytes, parameters, scratch
        )
    for row in range(rows):
        store_word(scratch + INDIRECTION + 8 * row, between + row * row_bytes)
    for column in range(0, following[COLUMNS], PANEL):
        _sum_panel(following, 0, column, rows, parameters, scratch)
        sums, size = scratch + SUMS, count * 4 * _panel(following, 0, column)[1]
        for phase in range(following[PHASES]):
            _finish_panel(
                following, phase, column, 0, each, begin, count, streams, sums, parameters, scratch
            )
            sums += size


_weight_panel = njit(nogil=True)(weight_panel)
_chain_length = njit(nogil=True)(chain_length)


@njit(nogil=True)
def _weight_size(dtype):
    """Size in bytes of a weight of one of `WEIGHT_DTYPES`."""
    return 4 if dtype == 0 else 2


@njit(nogil=True)
def _panel(step, phase, column):
    """Return the offset of a column's panel in the packed parameters, and the panel's width."""
    offset, width = _weight_panel(step[TAPS], step[CHANNELS], step[COLUMNS], phase, column)
    return step[WEIGHTS] + offset, width


@njit(nogil=True)
def _fill_indirection(step, first, each, begin, count, streams, scratch):
    """Fill the indirection buffer: for each block, the address of the input row of tap 0.

    Each stream contributes the blocks `first` to ``first + each - 1``. These blocks are numbered
    consecutively, stream after stream. The chunk consists of the blocks with the numbers `begin` to
    ``begin + count - 1``.
    """
    stream = begin // each
    row = begin - stream * each
    for index in range(count):
        offset = step[INPUT] + (first + row) * step[INPUT_STRIDE]
        store_word(scratch + INDIRECTION + 8 * index, streams[stream, ARENA] + 4 * offset)
        row += 1
        if row == each:
            stream += 1
            row = 0


@njit(nogil=True)
def _sum_panel(step, phase, column, count, parameters, scratch):
    """Compute the sums of one panel for the rows in the indirection buffer.

    The taps are added to the sums one after another. For each tap, the chunk is cut into tiles of
    at most `TILE_ROWS` rows by `TILE_VECTORS` vectors. The rows are distributed evenly, because a
    tile of few rows reads as many weights as a full one.
    """
    channels, dtype = step[CHANNELS], step[DTYPE]
    offset, width = _weight_panel(step[TAPS], channels, step[COLUMNS], phase, column)
    size = _weight_size(dtype)
    weights = parameters + 4 * step[WEIGHTS] + size * offset
    for tap in range(step[TAPS]):
        inputs = 4 * tap * step[TAP_STRIDE]
        # The sums of the first tap are stored, and those of the other taps are added.
        _sum_tap(inputs, channels, count, weights, dtype, width, scratch + SUMS, tap, scratch)
        weights += size * channels * width


@njit(nogil=True)
def _is_narrow(step):
    """Return whether the kernels of `oobleck_stream.engine.cpu.narrow` can compute a step.

    All taps and columns must fit the lanes of one vector, and each tap must be a single chain. From
    one tap to the next, the input must advance as far as from one output row to the next.
    """
    few = step[TAPS] > 1 and step[TAPS] * step[COLUMNS] <= LANES
    dense = step[PHASES] == 1 and step[TAP_STRIDE] == step[INPUT_STRIDE]
    return few and dense and step[CHANNELS] <= MAX_CHAIN


@njit(nogil=True)
def _sum_narrow(step, first, each, begin, count, streams, parameters, scratch):
    """Compute the sums of a narrow step, stream by stream.

    The arguments describe the chunk as in `_fill_indirection`.
    """
    taps, channels, columns = step[TAPS], step[CHANNELS], step[COLUMNS]
    weights, sums, size = scratch + TILES, scratch + SUMS, 4 * LANES
    clear_bytes(weights, channels * size)
    side_by_side(taps, channels, columns, parameters + 4 * step[WEIGHTS], weights)
    stream = begin // each
    row = begin - stream * each
    done = 0
    while done < count:
        length = min(count - done, each - row)
        offset = step[INPUT] + (first + row) * step[INPUT_STRIDE]
        for index in range(length + taps - 1):
            address = streams[stream, ARENA] + 4 * (offset + index * step[INPUT_STRIDE])
            store_word(scratch + INDIRECTION + 8 * index, address)
        _sum_tap(0, channels, length + taps - 1, weights, 0, LANES, sums, 0, scratch)
        add_taps(length, taps, columns, sums)
        sums += length * size
        done += length
        stream += 1
        row = 0


@njit(nogil=True)
def _sum_tiles(step, column, count, point_stride, parameters, scratch):
    """Compute the output rows of a chunk of tiles in one panel, and store them phase by phase.

    The indirection buffer contains, for each tile, the address of the first point's row. The
    rows of the other points follow at distances of `point_stride` bytes.
    """
    channels = step[CHANNELS]
    offset, width = _panel(step, 0, column)
    weights, stride, sums = parameters + 4 * offset, 4 * width, scratch + SUMS
    for point in range(step[TAPS]):
        _sum_tap(point * point_stride, channels, count, weights, 0, width, sums, 0, scratch)
        weights += channels * stride
        sums += count * stride
    combine(step[TILE], count, scratch + SUMS, stride, count * stride)


@njit(nogil=True)
def _sum_tap(inputs, channels, count, weights, dtype, width, sums, add, scratch):
    """Multiply the input rows of one tap by one panel; store the products or add them to the sums.

    `inputs` is the distance in bytes to the rows of this tap, from the rows whose addresses are in
    the indirection buffer. If `add` is 0, the products overwrite the sums.
    """
    vectors, stride, weight_size = width // LANES, 4 * width, _weight_size(dtype)
    tiles = (count + TILE_ROWS - 1) // TILE_ROWS
    length = _chain_length(channels)
    for start in range(0, channels, length):
        chain = min(length, channels - start)
        row = 0
        for index in range(tiles):
            size = (count - row + tiles - index - 1) // (tiles - index)
            for vector in range(0, vectors, TILE_VECTORS):
                left = 4 * LANES * vector
                tile(
                    dtype,
                    size,
                    min(vectors, TILE_VECTORS),
                    scratch + INDIRECTION + 8 * row,
                    inputs + 4 * start,
                    chain,
                    weights + weight_size * (start * width + LANES * vector),
                    sums + row * stride + left,
                    stride,
                    add + start,
                )
            row += size


@njit(nogil=True)
def _finish_panel(
    step, phase, column, first, each, begin, count, streams, sums, parameters, scratch
):
    """Apply the epilogue to the sums of a panel, stream by stream.

    The arguments describe the chunk as in `_fill_indirection`. The step that copies the input rows
    has no sums; it uses the rows of the source instead.
    """
    stream = begin // each
    row = begin - stream * each
    stride = 4 * _panel(step, 0, column)[1]
    phases, shift = step[PHASES], phase * step[PHASE_STRIDE]
    row_stride = 4 * phases * step[OUTPUT_STRIDE]
    # Select the blocks whose row of this phase is in [FIRST_ROW, LAST_ROW).
    low = (step[FIRST_ROW] - shift + phases - 1) // phases
    high = (step[LAST_ROW] - shift + phases - 1) // phases
    done = 0
    while done < count:
        length = min(count - done, each - row)
        arena = streams[stream, ARENA]
        if step[WEIGHTS] == NONE:
            stride = 4 * step[INPUT_STRIDE]
            sums = streams[stream, SOURCE] + (first + row) * stride
            sums += 4 * (step[INPUT] + column)
        block = first + row
        skipped = max(0, low - block)
        kept = min(length, high - block) - skipped
        block += skipped
        offset = (block * phases + shift) * step[OUTPUT_STRIDE] + column
        residual = raw = snaked = 0
        if step[RESIDUAL] != NONE:
            residual = arena + 4 * (step[RESIDUAL] + offset)
        if step[TO_TARGET] != 0:
            raw = streams[stream, TARGET] + 4 * (step[RAW] + offset)
        elif step[RAW] != NONE:
            raw = arena + 4 * (step[RAW] + offset)
        if step[SNAKED] != NONE:
            snaked = arena + 4 * (step[SNAKED] + offset)
        if kept > 0:
            _finish_rows(
                step,
                column,
                kept,
                sums + skipped * stride,
                stride,
                residual,
                raw,
                snaked,
                row_stride,
                parameters,
                scratch,
            )
        sums += length * stride
        done += length
        stream += 1
        row = 0


@njit(nogil=True)
def _finish_rows(
    step, column, count, sums, stride, residual, raw, snaked, row_stride, parameters, scratch
):
    """Apply the epilogue to consecutive rows of the sums of a panel.

    `residual`, `raw` and `snaked` are addresses of rows, which are `row_stride` bytes apart. Each
    of these addresses is 0 if there are no such rows.
    """
    bias = scratch if step[BIAS] == NONE else parameters + 4 * (step[BIAS] + column)
    columns = step[COLUMNS] - column
    for left in range(0, 4 * min(PANEL, columns), 4 * LANES):
        finish(
            count,
            columns - left // 4,
            sums + left,
            stride,
            bias + left,
            residual + left if residual != 0 else 0,
            raw + left if raw != 0 else 0,
            snaked + left if snaked != 0 else 0,
            row_stride,
            parameters + 4 * (step[ALPHA] + column) + left,
            parameters + 4 * (step[INVERSE_BETA] + column) + left,
            step[TANH],
        )


@njit(nogil=True)
def move_job(move, arena):
    """Move floats within an arena, or write zeros into it."""
    to, size = arena + 4 * move[TO], 4 * move[SIZE]
    if move[ORIGIN] == NONE:
        clear_bytes(to, size)
    else:
        move_bytes(to, arena + 4 * move[ORIGIN], size)
