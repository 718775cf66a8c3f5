"""Runs a program: a table of steps, worked off by one thread or several at once.

A step is one product over some rows, cut into jobs (a chunk of rows by a panel of output
channels), and some moves of bytes that nobody reads in that step. Threads claim jobs one by one
and go on to the next step when all jobs of this one are done, so a thread that comes late, or
never, delays nobody. The leader opens the gate for its run and closes it; a follower that finds
another run's number there, or none, goes away.
"""

# mypy: disable-error-code="no-untyped-def, call-arg"
from __future__ import annotations

import zlib
from pathlib import Path

from numba import njit

from oobleck_stream.kernels.cpu.machine import (
    atomic_add,
    atomic_load,
    clock,
    give_way,
    move_bytes,
    pause,
    store_word,
)
from oobleck_stream.kernels.cpu.product import PANEL, finish, tile
from oobleck_stream.kernels.cpu.vectors import LANES, TILE_ROWS, TILE_VECTORS

# Columns of the table of steps, int64. Addresses are absolute, strides and offsets in bytes.
(
    ROWS,  # blocks of output rows in this step
    PHASES,  # output rows of a block
    FIRST_ROW,  # of the ROWS * PHASES output rows, the first and
    LAST_ROW,  # one past the last that are wanted
    TAPS,
    CHANNELS,
    COLUMNS,  # output channels
    INPUT,  # address of the first block's first input row; the entry: offset in the caller's rows
    INPUT_STRIDE,  # from block to block
    TAP_STRIDE,
    WEIGHTS,  # panels; 0: the input rows themselves are the sums
    BIAS,
    RESIDUAL,  # address of the row added to output row 0 (which may be before FIRST_ROW), or 0
    PLAIN,  # where output row 0 goes, or 0; the last layer: offset in the caller's output
    LEAVES,  # whether this is the last layer
    ACTIVE,  # where the Snake of output row 0 goes, or 0
    OUTPUT_STRIDE,
    ALPHA,
    INVERSE_BETA,
    TANH,
    CHUNK,  # blocks a job
    JOINED,  # whether the next step's product is made in the same jobs, chunk by chunk
    PRODUCT_JOBS,
    FIRST_MOVE,
    MOVES,
    FIELDS,  # the number of columns
) = range(26)

DESTINATION, SOURCE, BYTES, MOVE_FIELDS = range(4)

# The control block: the gate's words on a cache line of its own, then for every step the
# count of jobs claimed (with the time when the leader saw the step's end) and, a line further, of
# jobs done.
OPEN, INSIDE, STARTED, LINE = 0, 8, 16, 64
TIME = 8
MOST_CHUNK = 96
MOST_JOINED = 4 * PANEL
"""Columns up to which a step can be joined with the next: a chunk of them stays in the cache."""

# A thread's scratch: the rows' addresses, the sums of a panel, the rows between joined steps.
SUMS = 8 * MOST_CHUNK
BETWEEN = SUMS + 4 * MOST_CHUNK * PANEL
SCRATCH_BYTES = BETWEEN + 4 * MOST_CHUNK * MOST_JOINED
PATIENCE = 2000


def control_words(steps: int) -> int:
    """Length of a control block in int64 words."""
    return (2 * steps + 1) * LINE // 8


def jobs_of(rows: int, phases: int, columns: int, chunk: int) -> int:
    """Jobs of a step: chunks of rows, by phases, by panels."""
    return -(-rows // chunk) * phases * -(-columns // PANEL)


@njit(nogil=True)
def product_job(step, job, source, target, scratch):
    """One chunk of rows of one panel of one phase."""
    chunk, rows, phases = step[CHUNK], step[ROWS], step[PHASES]
    chunks = (rows + chunk - 1) // chunk
    panels = (step[COLUMNS] + PANEL - 1) // PANEL
    panel = job // chunks
    phase = panel // panels
    panel -= phase * panels
    first = (job % chunks) * chunk
    last = min(rows, first + chunk)
    # Of the rows b * phases + phase, those from FIRST_ROW to LAST_ROW.
    first = max(first, (step[FIRST_ROW] - phase + phases - 1) // phases)
    last = min(last, (step[LAST_ROW] - phase + phases - 1) // phases)
    if first < last:
        start = step[INPUT] + first * step[INPUT_STRIDE]
        if step[WEIGHTS] == 0:
            start += source
        column = panel * PANEL
        _panel(step, phase, column, first, last - first, start, step[ACTIVE], target, scratch)


@njit(nogil=True)
def joined_job(step, following, job, target, scratch):
    """One chunk of rows of a step, and of the next one, whose only tap is at the same row."""
    first = job * step[CHUNK]
    count = min(step[ROWS], first + step[CHUNK]) - first
    start = step[INPUT] + first * step[INPUT_STRIDE]
    between = scratch + BETWEEN
    active = between - first * step[OUTPUT_STRIDE]
    for column in range(0, step[COLUMNS], PANEL):
        _panel(step, 0, column, first, count, start, active, target, scratch)
    for column in range(0, following[COLUMNS], PANEL):
        active = following[ACTIVE]
        _panel(following, 0, column, first, count, between, active, target, scratch)


@njit(nogil=True)
def _panel(step, phase, column, first, count, start, active, target, scratch):
    """Some rows of a panel: from input rows that begin at `start` to where the step says.

    The Snake of the rows goes to where `active` says.
    """
    taps, channels, columns = step[TAPS], step[CHANNELS], step[COLUMNS]
    vectors = 2 if columns - column > LANES else 1
    totals, totals_stride = scratch + SUMS, 4 * LANES * vectors
    if step[WEIGHTS] == 0:
        totals, totals_stride = start + 4 * column, step[INPUT_STRIDE]
    else:
        for row in range(count):
            store_word(scratch + 8 * row, start + row * step[INPUT_STRIDE])
        whole = (columns + LANES - 1) // LANES * LANES
        weights = step[WEIGHTS] + 4 * taps * channels * (phase * whole + column)
        tiles = (count + TILE_ROWS - 1) // TILE_ROWS
        for tap in range(taps):
            row = 0
            for index in range(tiles):
                size = (count - row + tiles - index - 1) // (tiles - index)
                for vector in range(0, vectors, TILE_VECTORS):
                    at = 4 * LANES * vector
                    tile(
                        size,
                        min(vectors, TILE_VECTORS),
                        scratch + 8 * row,
                        tap * step[TAP_STRIDE],
                        channels,
                        weights + at,
                        totals + row * totals_stride + at,
                        totals_stride,
                        tap,
                    )
                row += size
            weights += channels * totals_stride
    output = (first * step[PHASES] + phase) * step[OUTPUT_STRIDE] + 4 * column
    plain = step[PLAIN] + output if step[PLAIN] != 0 else 0
    if step[LEAVES] != 0:
        plain = target + step[PLAIN] + output
    for vector in range(vectors):
        at = 4 * LANES * vector
        finish(
            count,
            columns - column - LANES * vector,
            totals + at,
            totals_stride,
            step[BIAS] + 4 * column + at,
            step[RESIDUAL] + output + at if step[RESIDUAL] != 0 else 0,
            plain + at if plain != 0 else 0,
            active + output + at if active != 0 else 0,
            step[PHASES] * step[OUTPUT_STRIDE],
            step[ALPHA] + 4 * column + at,
            step[INVERSE_BETA] + 4 * column + at,
            step[TANH],
        )


@njit(nogil=True)
def _wait_until(address, value):
    """Spin, then give way, until the word at an address is `value`."""
    tries = 0
    while atomic_load(address) != value:
        tries += 1
        if tries < PATIENCE:
            pause()
        else:
            give_way()


@njit(nogil=True)
def _work_off(steps, moves, source, target, control, ticket, scratch, leader):
    """Work off a program together with whoever else runs it.

    Parameters
    ----------
    steps : (steps, FIELDS) int64
    moves : (moves, MOVE_FIELDS) int64
    source, target : int
        Addresses of the caller's rows and of its output.
    control : int
        Address of a control block of `control_words(steps)` int64; those behind the first `LINE`
        bytes are zero before the leader runs.
    ticket : int
        The number of this run: none before it on this control block had the same.
    scratch : int
        Address of `SCRATCH_BYTES` of this thread's own.
    leader : bool
        Exactly one thread leads a run; it returns when every job is done and every follower has
        gone. Followers may come at any time, also when no run is on.
    """
    if leader:
        store_word(control + STARTED, clock())
        atomic_add(control + OPEN, ticket)
    else:
        atomic_add(control + INSIDE, 1)
        if atomic_load(control + OPEN) != ticket:
            atomic_add(control + INSIDE, -1)
            return
    for index in range(steps.shape[0]):
        step = steps[index]
        claimed = control + (2 * index + 1) * LINE
        done = claimed + LINE
        product_jobs = step[PRODUCT_JOBS]
        jobs = product_jobs + step[MOVES]
        job = atomic_add(claimed, 1)
        while job < jobs:
            if job < product_jobs and step[JOINED] != 0:
                joined_job(step, steps[index + 1], job, target, scratch)
            elif job < product_jobs:
                product_job(step, job, source, target, scratch)
            else:
                move = moves[step[FIRST_MOVE] + job - product_jobs]
                move_bytes(move[DESTINATION], move[SOURCE], move[BYTES])
            atomic_add(done, 1)
            job = atomic_add(claimed, 1)
        _wait_until(done, jobs)
        if leader:
            store_word(claimed + TIME, clock())
    if leader:
        atomic_add(control + OPEN, -ticket)
        _wait_until(control + INSIDE, 0)
    else:
        atomic_add(control + INSIDE, -1)


def _cached(sources):
    """`_work_off` as a function that Numba keeps on disk.

    Numba looks only at the file of a cached function, not at those that it calls; but the values
    that a function takes from around it are part of its key.
    """

    @njit(nogil=True, cache=True)
    def run(steps, moves, source, target, control, ticket, scratch, leader):
        if sources != 0:
            _work_off(steps, moves, source, target, control, ticket, scratch, leader)

    return run


def _digest_of_sources():
    """A number, never 0, of the text of every kernel module."""
    digest = 1
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest = zlib.crc32(path.read_bytes(), digest)
    return digest | 1


run = _cached(_digest_of_sources())
"""`_work_off`, for everybody to call."""
