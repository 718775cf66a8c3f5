"""Runs a program: a table of steps, worked off by one thread or several at once.

A step is one product over some rows of every stream, cut into jobs (a chunk of rows by a panel of
output channels), and some moves of floats that the product neither reads nor writes. Streams share
the tiles, so the weights are read once for all of them.

The thread that leads a run can do all jobs alone. Others follow: they join while the run is on.
Threads claim jobs one by one and go on to the next step when all jobs of this one are done, so a
follower that comes late, or not at all, delays no other thread. How the threads are kept apart is
explained above `_work_off`.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, attr-defined"
from __future__ import annotations

from numba import carray, njit

from oobleck_stream.engine.cpu.machine import (
    atomic_add,
    atomic_load,
    clear_bytes,
    clock,
    give_way,
    move_bytes,
    pause,
    plain_floats,
    set_float_mode,
    store_word,
    words_at,
)
from oobleck_stream.engine.cpu.product import finish, tile
from oobleck_stream.engine.cpu.simd import TILE_ROWS, TILE_VECTORS
from oobleck_stream.engine.kernel_cache import keep
from oobleck_stream.engine.program import (
    ACTIVE,
    ALPHA,
    BIAS,
    CHANNELS,
    COLUMNS,
    FIRST_MOVE,
    FIRST_ROW,
    INPUT,
    INPUT_STRIDE,
    INVERSE_BETA,
    JOINED,
    LANES,
    LAST_ROW,
    LEAVES,
    MAX_JOINED,
    MOVES,
    NONE,
    ORIGIN,
    OUTPUT_STRIDE,
    PANEL,
    PHASES,
    PLAIN,
    RESIDUAL,
    ROWS,
    SIZE,
    TANH,
    TAP_STRIDE,
    TAPS,
    TO,
    WEIGHTS,
)

# Columns of the table of streams, int64: addresses.
ARENA, SOURCE, TARGET, STREAM_FIELDS = range(4)

# The control block in bytes: a line for the gate, with the time when the run started; then two
# lines for every step: jobs claimed, with the time when the leader saw the step's end; jobs done.
OPEN, INSIDE, STARTED, LINE = 0, 8, 16, 64
TIME = 8
PATIENCE = 2000

MOST_CHUNK = 96
"""Rows of a job at most."""

JOINED_CHUNK = 24
"""Rows of a job at most where two steps are made together: they stay in the first cache."""

FEWEST_JOBS = 16
"""Jobs a step is cut into at least, where its rows allow, so that the threads end together."""

# A thread's scratch: zeros, the rows' addresses, the sums of a panel, the rows between two steps.
ADDRESSES = 4 * PANEL
SUMS = ADDRESSES + 8 * MOST_CHUNK
BETWEEN = SUMS + 4 * MOST_CHUNK * PANEL
SCRATCH_BYTES = BETWEEN + 4 * JOINED_CHUNK * MAX_JOINED


def control_words(steps: int) -> int:
    """Length of a control block in int64 words."""
    return (2 * steps + 1) * LINE // 8


@njit(nogil=True)
def _jobs_of(step, streams):
    """Rows of a job, and jobs of a step: chunks of rows, by phases, by panels."""
    rows = step[ROWS] * streams
    if step[JOINED] != 0:
        chunk = JOINED_CHUNK
        return chunk, (rows + chunk - 1) // chunk
    panels = step[PHASES] * ((step[COLUMNS] + PANEL - 1) // PANEL)
    chunk = MOST_CHUNK
    if (rows + chunk - 1) // chunk * panels < FEWEST_JOBS:
        chunk = MOST_CHUNK // 4
    return chunk, (rows + chunk - 1) // chunk * panels


@njit(nogil=True)
def product_job(step, job, chunk, streams, parameters, scratch):
    """One chunk of rows, of however many streams, of one panel of one phase."""
    rows, phases = step[ROWS], step[PHASES]
    chunks = (rows * len(streams) + chunk - 1) // chunk
    panels = (step[COLUMNS] + PANEL - 1) // PANEL
    panel = job // chunks
    phase = panel // panels
    column = (panel - phase * panels) * PANEL
    # Of the rows b * PHASES + phase, those from FIRST_ROW to LAST_ROW, the same in every stream.
    first = (step[FIRST_ROW] - phase + phases - 1) // phases
    each = min(rows, (step[LAST_ROW] - phase + phases - 1) // phases) - first
    begin = (job % chunks) * chunk
    count = min(chunk, each * len(streams) - begin)
    if count > 0:
        if step[WEIGHTS] != NONE:
            _list_rows(step, first, each, begin, count, streams, scratch)
            _sum_panel(step, phase, column, count, parameters, scratch)
        _finish_panel(step, phase, column, first, each, begin, count, streams, parameters, scratch)


@njit(nogil=True)
def joined_job(step, following, job, streams, parameters, scratch):
    """One chunk of rows of a step, and of the next one, whose only tap is at the same row."""
    each = step[ROWS]
    begin = job * JOINED_CHUNK
    count = min(JOINED_CHUNK, each * len(streams) - begin)
    between, row_bytes = scratch + BETWEEN, 4 * step[OUTPUT_STRIDE]
    _list_rows(step, 0, each, begin, count, streams, scratch)
    for column in range(0, step[COLUMNS], PANEL):
        _sum_panel(step, 0, column, count, parameters, scratch)
        sums, stride = scratch + SUMS, 4 * _panel_width(step, column)
        plain = active = 0
        if step[ACTIVE] != NONE:
            active = between + 4 * column
        else:
            plain = between + 4 * column
        _finish_rows(step, column, count, sums, stride, 0, plain, active, parameters, scratch)
    for row in range(count):
        store_word(scratch + ADDRESSES + 8 * row, between + row * row_bytes)
    for column in range(0, following[COLUMNS], PANEL):
        _sum_panel(following, 0, column, count, parameters, scratch)
        _finish_panel(following, 0, column, 0, each, begin, count, streams, parameters, scratch)


@njit(nogil=True)
def _panel_width(step, column):
    """Columns of the panel that begins at a column, whole vectors of them."""
    return PANEL if step[COLUMNS] - column > LANES else LANES


@njit(nogil=True)
def _list_rows(step, first, each, begin, count, streams, scratch):
    """Write down where some input rows begin.

    Of every stream `each` blocks are wanted, from number `first` on; of all those, stream after
    stream, these are `count` from number `begin` on.
    """
    stream = begin // each
    row = begin - stream * each
    for index in range(count):
        place = step[INPUT] + (first + row) * step[INPUT_STRIDE]
        store_word(scratch + ADDRESSES + 8 * index, streams[stream, ARENA] + 4 * place)
        row += 1
        if row == each:
            stream += 1
            row = 0


@njit(nogil=True)
def _sum_panel(step, phase, column, count, parameters, scratch):
    """The sums of a panel for the rows that are listed."""
    taps, channels = step[TAPS], step[CHANNELS]
    width = _panel_width(step, column)
    vectors, stride = width // LANES, 4 * width
    whole = (step[COLUMNS] + LANES - 1) // LANES * LANES
    place = step[WEIGHTS] + taps * channels * (phase * whole + column)
    weights = parameters + 4 * place
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
                    scratch + ADDRESSES + 8 * row,
                    4 * tap * step[TAP_STRIDE],
                    channels,
                    weights + at,
                    scratch + SUMS + row * stride + at,
                    stride,
                    tap,
                )
            row += size
        weights += channels * stride


@njit(nogil=True)
def _finish_panel(step, phase, column, first, each, begin, count, streams, parameters, scratch):
    """The epilogue of a panel's sums, stream by stream; the rows are those of `_list_rows`."""
    stream = begin // each
    row = begin - stream * each
    sums, stride = scratch + SUMS, 4 * _panel_width(step, column)
    done = 0
    while done < count:
        length = min(count - done, each - row)
        arena = streams[stream, ARENA]
        if step[WEIGHTS] == NONE:
            stride = 4 * step[INPUT_STRIDE]
            sums = streams[stream, SOURCE] + row * stride + 4 * column
        place = ((first + row) * step[PHASES] + phase) * step[OUTPUT_STRIDE] + column
        residual = plain = active = 0
        if step[RESIDUAL] != NONE:
            residual = arena + 4 * (step[RESIDUAL] + place)
        if step[LEAVES] != 0:
            plain = streams[stream, TARGET] + 4 * (step[PLAIN] + place)
        elif step[PLAIN] != NONE:
            plain = arena + 4 * (step[PLAIN] + place)
        if step[ACTIVE] != NONE:
            active = arena + 4 * (step[ACTIVE] + place)
        _finish_rows(
            step, column, length, sums, stride, residual, plain, active, parameters, scratch
        )
        sums += length * stride
        done += length
        stream += 1
        row = 0


@njit(nogil=True)
def _finish_rows(step, column, count, sums, stride, residual, plain, active, parameters, scratch):
    """The epilogue of consecutive rows of a panel; the last addresses are 0 where there is none."""
    bias = scratch if step[BIAS] == NONE else parameters + 4 * (step[BIAS] + column)
    columns = step[COLUMNS] - column
    for at in range(0, 4 * min(PANEL, columns), 4 * LANES):
        finish(
            count,
            columns - at // 4,
            sums + at,
            stride,
            bias + at,
            residual + at if residual != 0 else 0,
            plain + at if plain != 0 else 0,
            active + at if active != 0 else 0,
            4 * step[PHASES] * step[OUTPUT_STRIDE],
            parameters + 4 * (step[ALPHA] + column) + at,
            parameters + 4 * (step[INVERSE_BETA] + column) + at,
            step[TANH],
        )


@njit(nogil=True)
def _move(move, arena):
    """Move floats within an arena, or fill it with zeros."""
    to, size = arena + 4 * move[TO], 4 * move[SIZE]
    if move[ORIGIN] == NONE:
        clear_bytes(to, size)
    else:
        move_bytes(to, arena + 4 * move[ORIGIN], size)


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


# How the threads of a run are kept apart.
#
# They share a control block. Four kinds of words in it are changed while followers may be near:
#
#     OPEN     the ticket of the run that may be joined; 0 when there is none
#     INSIDE   followers that have arrived and not yet left
#     claimed  of each step: jobs handed out (a number from `jobs` on is no job)
#     done     of each step: jobs finished
#
# Every access to these words during a run is an `atomic_add` or an `atomic_load`, and both are
# sequentially consistent. All other memory is read and written plainly: rows, arenas, parameters,
# the tables, the times, and also the counters when the caller zeroes them before a run. No plain
# access races with another access:
#
# 1. Into a run. The leader's thread zeroes the counters and writes what the jobs read, and only
#    then adds its ticket to OPEN. A follower that loads this ticket sees all that was written
#    before. It touches neither counters nor rows until then.
# 2. From step to step. A thread adds to `done` after it has written a job's rows. Additions
#    continue one another's release sequences, so a thread that loads `done == jobs` sees the rows
#    of all jobs of the step, whoever made them.
# 3. Out of a run. A follower first adds itself to INSIDE and then loads OPEN; the leader first
#    takes its ticket out of OPEN and then loads INSIDE. All four operations have one order that
#    every thread agrees on. So either the leader still finds the follower in INSIDE and waits, or
#    the follower finds the gate closed. (This is the one place where acquire and release would not
#    be enough.) A follower takes itself out of INSIDE after its last access, so when the leader
#    loads 0 there, every access of the run has happened before. Then counters may be zeroed
#    plainly and arrays may be changed or freed.
# 4. Latecomers. A follower whose run is over finds another ticket, or 0, in OPEN, because no
#    ticket is used twice on one control block. It has then touched only INSIDE and OPEN, which are
#    never zeroed, and it holds references to the control block and the tables. The arenas and rows
#    whose addresses are in its table may be gone, but it does not read them.
#
# The tables of steps, moves and streams are complete before a follower is told of the run through
# a queue, which orders these accesses, and they are never changed afterwards. STARTED and the
# times of the steps are written by the leader alone.
#
# A program without data races whose atomic operations are all sequentially consistent behaves, on
# every processor and after every optimisation, like some interleaving of its threads (C++, and so
# LLVM, promises this). Weakly ordered processors such as ARM's therefore need no further argument.
# tests/test_protocol.py runs this function in all interleavings of small runs: it searches for
# data races, for jobs done twice, too early or not at all, and for deadlocks.


@njit(nogil=True)
def _work_off(steps, moves, streams, parameters, control, ticket, scratch, leader):
    """Work off a program, alone or together with other threads.

    Parameters
    ----------
    steps : (steps, FIELDS) int64
    moves : (moves, MOVE_FIELDS) int64
        As `oobleck_stream.engine.program` describes them.
    streams : (streams, STREAM_FIELDS) int64
        Addresses of each stream's arena, of the rows that come in and of the place for those that
        go out.
    parameters : int
        Address of the packed parameters.
    control : int
        Address of a control block of `control_words(steps)` int64, all zero when it is new. Before
        each run the words behind the first `LINE` bytes are set to zero again, and no others.
    ticket : int
        The number of this run, not 0; no other run on this control block has the same.
    scratch : int
        Address of `SCRATCH_BYTES` that only this thread uses, zeros at first.
    leader : bool
        Exactly one thread leads a run; it returns when every job is done and every follower has
        left. Followers may come at any time, also before and after the run.
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
        chunk, product_jobs = _jobs_of(step, len(streams))
        if step[ROWS] == 0 or (index > 0 and steps[index - 1, JOINED] != 0):
            product_jobs = 0
        jobs = product_jobs + step[MOVES] * len(streams)
        job = atomic_add(claimed, 1)
        while job < jobs:
            if job >= product_jobs:
                stream, move = divmod(job - product_jobs, step[MOVES])
                _move(moves[step[FIRST_MOVE] + move], streams[stream, ARENA])
            elif step[JOINED] != 0:
                joined_job(step, steps[index + 1], job, streams, parameters, scratch)
            else:
                product_job(step, job, chunk, streams, parameters, scratch)
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


@keep
@njit(nogil=True)
def run(steps, moves, streams, parameters, control, ticket, scratch, leader):
    """Run `_work_off` in the default floating-point mode; this is what Python calls."""
    mode: int = plain_floats()
    _work_off(
        carray(words_at(steps.ctypes.data), steps.shape),
        carray(words_at(moves.ctypes.data), moves.shape),
        carray(words_at(streams.ctypes.data), streams.shape),
        parameters,
        control,
        ticket,
        scratch,
        leader,
    )
    set_float_mode(mode)
