"""Runs a program, step by step, on one or more threads.

A step consists of a product, which computes rows of every stream, and of moves. The moves don't
touch memory that the product reads or writes. A step is cut into jobs
(`oobleck_stream.engine.cpu.jobs`).

A run has one leader thread and any number of follower threads. All of them claim jobs from an
atomic counter, and go on to the next step once all jobs of the current step are done. The leader
can do all jobs alone, so no run waits for a follower to arrive. A comment above `_execute` explains
how the threads are synchronised.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, attr-defined"
from __future__ import annotations

from numba import carray, njit

from oobleck_stream.engine.cpu.jobs import (
    ARENA,
    jobs_of,
    joined_job,
    move_job,
    product_job,
    transform_job,
)
from oobleck_stream.engine.cpu.machine import (
    atomic_add,
    atomic_load,
    clock,
    pause,
    set_float_mode,
    store_word,
    use_ieee_mode,
    words_at,
    yield_core,
)
from oobleck_stream.engine.kernel_cache import keep
from oobleck_stream.engine.program import FIRST_MOVE, JOINED, MOVES, NONE, POINTS, ROWS

# The control block: offsets in bytes. The words OPEN, INSIDE and STARTED share the first cache
# line. Each step has two more cache lines. The first holds the number of jobs claimed and, at TIME,
# the time when the leader saw the step end. The second holds the number of jobs done. It is a
# separate line so that counting finished jobs doesn't disturb threads that claim jobs.
OPEN, INSIDE, STARTED, LINE = 0, 8, 16, 64
TIME = 8

MAX_SPINS = 2000
"""How many times a waiting thread polls before it yields its core to the scheduler."""


def control_words(steps: int) -> int:
    """Length of a control block in int64 words."""
    return (2 * steps + 1) * LINE // 8


@njit(nogil=True)
def _wait_until(address, value):
    """Wait until the word at an address is `value`: spin at first, then yield the core."""
    tries = 0
    while atomic_load(address) != value:
        tries += 1
        if tries < MAX_SPINS:
            pause()
        else:
            yield_core()


# How the threads of a run are synchronised.
#
# They share a control block. Four kinds of words in it change while followers may access them:
#
#     OPEN     the ticket of the run that followers may join; 0 if there is none
#     INSIDE   followers that have arrived and have not left yet
#     claimed  for each step: jobs claimed (a thread that gets `jobs` or more has no job)
#     done     for each step: jobs finished
#
# During a run, every access to these words is an `atomic_add` or an `atomic_load`, and both are
# sequentially consistent. All other memory is accessed without atomics: rows, arenas, parameters,
# tables, times, and also the counters when the caller zeroes them before a run. No such access
# races with another access:
#
# 1. Into a run. The leader's thread zeroes the counters and writes everything that the jobs read.
#    Only then does it add its ticket to OPEN. A follower that loads this ticket therefore sees
#    everything that was written before. Until then, it touches neither counters nor rows.
# 2. From step to step. A thread adds to `done` after it has written the rows of a job. Additions
#    continue one another's release sequences, so a thread that loads `done == jobs` sees the rows
#    of all jobs of the step, whichever thread computed them.
# 3. Out of a run. A follower first adds itself to INSIDE and then loads OPEN. The leader first
#    takes its ticket out of OPEN and then loads INSIDE. All four operations have a single order
#    that every thread agrees on. So either the leader still finds the follower in INSIDE and waits,
#    or the follower finds the run closed. (This is the only place where acquire and release would
#    not be enough.) A follower takes itself out of INSIDE after its last access. So when the leader
#    loads 0 there, no follower accesses anything of the run any more, and the caller may zero the
#    counters and change or free the arrays.
# 4. Late followers. A follower that arrives after its run finds another ticket, or 0, in OPEN,
#    because no ticket is used twice on one control block. It touches only INSIDE and OPEN, which
#    are never zeroed, and it holds references to the control block and the tables. The arenas and
#    rows at the addresses in its table may be freed by then, but it does not read them.
#
# The tables of steps, moves and streams are complete before a follower receives them through a
# queue, which orders these accesses, and they never change afterwards. Only the leader writes
# STARTED and the times of the steps.
#
# The memory model of C++, which LLVM follows, makes a promise about programs that have no data
# races and only sequentially consistent atomic operations. On every processor and after every
# optimisation, such a program behaves like some interleaving of its threads. So weakly ordered
# processors such as ARM's need no further argument. tests/test_protocol.py runs this function in
# all interleavings of small runs. It searches for data races, for jobs done twice, too early or not
# at all, and for deadlocks.


@njit(nogil=True)
def _execute(steps, moves, streams, parameters, control, ticket, scratch, leader):
    """Execute a program, alone or together with other threads.

    Parameters
    ----------
    steps : (steps, FIELDS) int64
    moves : (moves, MOVE_FIELDS) int64
        See `oobleck_stream.engine.program`.
    streams : (streams, STREAM_FIELDS) int64
        The addresses of each stream's arena, input rows and output rows.
    parameters : int
        Address of the packed parameters.
    control : int
        Address of a control block of ``control_words(len(steps))`` int64, all zero when it is new.
        Before each run the caller zeroes the words after the first `LINE` bytes, and no others.
    ticket : int
        The number of this run. It is not 0, and no other run on this control block has the same
        number.
    scratch : int
        Address of `SCRATCH_BYTES` bytes that only this thread uses. They are zero when allocated.
    leader : bool
        Whether this thread is the leader. A run has exactly one leader, which returns when every
        job is done and every follower has left. Followers may call this function at any time, even
        before and after the run.
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
        chunk, product_jobs = jobs_of(step, len(streams))
        # A step that has only moves has no product. The product of a step that is joined with the
        # step before it has already been computed.
        if step[ROWS] == 0 or (index > 0 and steps[index - 1, JOINED] != 0):
            product_jobs = 0
        jobs = product_jobs + step[MOVES] * len(streams)
        job = atomic_add(claimed, 1)
        while job < jobs:
            if job >= product_jobs:
                stream, move = divmod(job - product_jobs, step[MOVES])
                move_job(moves[step[FIRST_MOVE] + move], streams[stream, ARENA])
            elif step[POINTS] != NONE:
                transform_job(step, job, streams, scratch)
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
    """Call `_execute` in IEEE 754's default floating-point mode. Python calls this function."""
    mode: int = use_ieee_mode()
    _execute(
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
