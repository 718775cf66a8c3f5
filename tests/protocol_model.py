"""`_execute` as the search for interleavings runs it: its real code, on a model of memory."""

from __future__ import annotations

import functools
import inspect
from types import FunctionType
from typing import NamedTuple

import numpy as np
from interleavings import InterleavingError, Operation, Routine
from numba.core.dispatcher import Dispatcher
from numba.extending import _Intrinsic
from step_tables import step

from oobleck_stream.engine import program as table
from oobleck_stream.engine.cpu import interpreter, jobs
from oobleck_stream.engine.cpu.interpreter import INSIDE, LINE, OPEN
from oobleck_stream.engine.cpu.jobs import MAX_CHUNK, MAX_JOINED_CHUNK, STREAM_FIELDS

BLOCK = 1 << 20
"""The control block has the address run * BLOCK in each run, so that an address names its run."""

SMALL_CHUNK = MAX_CHUNK // 4

Job = tuple[str, int, int]
"""Its kind (product, joined or move), the number of its step and its number among those jobs."""


class Step(NamedTuple):
    """A step: how many product jobs and moves, and whether it is joined with the next step."""

    products: int = 0
    moves: int = 0
    joined: bool = False


class Shared(NamedTuple):
    """The control block's words, and a record of what has happened.

    Parameters
    ----------
    words : tuple of int
    running : int
        The number of the run from its preparation until the caller has the result, else 0.
    done : frozenset of Job
        The jobs of this run that have been done.
    """

    words: tuple[int, ...]
    running: int
    done: frozenset[Job]


class Model:
    """Operations on a control block and on the rows of the jobs, for some runs in turn.

    The rows are one place for each job. Every run uses the same places, as the runs of a decoder
    use the same arena.
    """

    def __init__(self, runs: list[list[Step]]) -> None:
        self.runs = dict(enumerate(runs, start=1))
        self.rows = frozenset(
            ("rows", name) for number in self.runs for name in self.jobs_of(number)
        )
        length = interpreter.control_words(max(map(len, runs)))
        # No counter is 0 before the first run: one that is used without being zeroed shows.
        self.start = Shared((0,) * (LINE // 8) + (99,) * (length - LINE // 8), 0, frozenset())

    def jobs_of(self, run: int, before: int | None = None) -> set[Job]:
        """The jobs of a run, or of its steps before one."""
        names: set[Job] = set()
        previous = Step()
        for number, each in enumerate(self.runs[run][:before]):
            kind = "joined" if each.joined else "product"
            if not previous.joined:
                names |= {(kind, number, job) for job in range(each.products)}
            names |= {("move", number, job) for job in range(each.moves)}
            previous = each
        return names

    def tables(self, run: int) -> tuple[np.ndarray, np.ndarray]:
        """The tables of steps and moves of a run; LAYER and TO hold the step's number."""
        rows, moves = [], []
        for number, each in enumerate(self.runs[run]):
            chunk = MAX_JOINED_CHUNK if each.joined else SMALL_CHUNK
            fields = {"LAYER": number, "ROWS": each.products * chunk, "COLUMNS": table.LANES}
            fields |= {"JOINED": int(each.joined), "FIRST_MOVE": len(moves), "MOVES": each.moves}
            rows.append(step(**fields))
            moves += [(number, move, 1) for move in range(each.moves)]
        return np.array(rows), np.array(moves, np.int64).reshape(-1, table.MOVE_FIELDS)

    def add(self, address: int, amount: int) -> Operation:
        """`atomic_add`."""
        run, word = located(address)

        def apply(shared: Shared) -> tuple[int, Shared]:
            check_run(shared, run, word)
            words = list(shared.words)
            words[word] += amount
            return shared.words[word], shared._replace(words=tuple(words))

        places = frozenset([word])
        return Operation(f"adds {amount} to {name_of(word)}", apply, places, places, True)

    def load(self, address: int) -> Operation:
        """`atomic_load`."""
        run, word = located(address)

        def apply(shared: Shared) -> tuple[int, Shared]:
            check_run(shared, run, word)
            return shared.words[word], shared

        return Operation(f"loads {name_of(word)}", apply, frozenset([word]), atomic=True)

    def store(self, address: int, value: int) -> Operation:
        """`store_word`."""
        run, word = located(address)

        def apply(shared: Shared) -> tuple[int, Shared]:
            check_run(shared, run, word)
            words = list(shared.words)
            words[word] = value
            return 0, shared._replace(words=tuple(words))

        return Operation(f"stores {value} to {name_of(word)}", apply, writes=frozenset([word]))

    def job(self, run: int, name: Job) -> Operation:
        """A job: it reads the rows of all other steps' jobs and writes its own."""
        own = frozenset([("rows", name)])
        others = frozenset(place for place in self.rows if place[1][1] != name[1])

        def apply(shared: Shared) -> tuple[int, Shared]:
            if run != shared.running:
                raise InterleavingError(f"a job of run {run} in run {shared.running}")
            if name not in self.jobs_of(run):
                raise InterleavingError("no such job")
            if name in shared.done:
                raise InterleavingError("the job is done a second time")
            if not self.jobs_of(run, before=name[1]) <= shared.done:
                raise InterleavingError("the job begins before the step before is done")
            return 0, shared._replace(done=shared.done | {name})

        return Operation(f"does {name} of run {run}", apply, others, own)

    def prepare(self, run: int, first: int = LINE // 8) -> Operation:
        """Before a run: the caller zeroes the words from `first` on and writes all rows."""
        words = range(first, interpreter.control_words(len(self.runs[run])))

        def apply(shared: Shared) -> tuple[int, Shared]:
            kept = (*shared.words[: words.start], *[0] * len(words), *shared.words[words.stop :])
            return 0, Shared(kept, run, frozenset())

        return Operation(f"prepares run {run}", apply, writes=self.rows | set(words))

    def take(self, run: int) -> Operation:
        """After a run: the caller may read, write or free the rows and the counters."""

        def apply(shared: Shared) -> tuple[int, Shared]:
            if shared.done != self.jobs_of(run):
                raise InterleavingError("the leader comes back before all jobs are done")
            return 0, shared._replace(running=0)

        counters = range(LINE // 8, len(self.start.words))
        return Operation(f"is back from run {run}", apply, writes=self.rows | set(counters))


def located(address: int) -> tuple[int, int]:
    """The run and the number of the word that an address means."""
    run, offset = divmod(int(address), BLOCK)
    return run, offset // 8


def check_run(shared: Shared, run: int, word: int) -> None:
    """Counters are touched only in the run that the thread was told of."""
    if word >= LINE // 8 and run != shared.running:
        raise InterleavingError(f"a thread of run {run} is at the counters of run {shared.running}")


def name_of(word: int) -> str:
    """The name of a word of the control block."""
    if word * 8 < LINE:
        return {OPEN: "OPEN", INSIDE: "INSIDE"}.get(word * 8, f"word {word}")
    line, rest = divmod(word * 8, LINE)
    counter = ("claimed", "done")[(line - 1) % 2]
    return f"{counter} {(line - 1) // 2}" + (f" + {rest}" if rest else "")


def real_execute(model, perform, source_changes=()):
    """The Python code of `_execute`, which performs operations of a model.

    Parameters
    ----------
    model : Model
    perform : callable
        The `perform` of a `Routine`.
    source_changes : sequence of (str, str)
        Texts that occur once in the source of `_execute`, each with its replacement.
    """
    operations = {
        "atomic_add": lambda address, amount: perform(model.add(address, int(amount))),
        "atomic_load": lambda address: perform(model.load(address)),
        "store_word": lambda address, value: perform(model.store(address, int(value))),
        "clock": lambda: 0,
        "pause": lambda: None,
        "yield_core": lambda: None,
        "product_job": lambda step, job, chunk, streams, parameters, scratch: perform(
            model.job(parameters, ("product", int(step[table.LAYER]), int(job)))
        ),
        "joined_job": lambda step, following, job, streams, parameters, scratch: perform(
            model.job(parameters, ("joined", int(step[table.LAYER]), int(job)))
        ),
        "transform_job": lambda step, job, streams, scratch: perform(
            model.job(int(streams[0, 0]), ("transform", int(step[table.LAYER]), int(job)))
        ),
        "move_job": lambda move, arena: perform(
            model.job(int(arena), ("move", int(move[table.TO]), int(move[table.ORIGIN])))
        ),
    }
    names = vars(jobs) | vars(interpreter)
    for name, value in [*names.items()]:
        if isinstance(value, _Intrinsic):
            names[name] = functools.partial(_not_modelled, name)
        elif isinstance(value, Dispatcher):
            code, closure = value.py_func.__code__, value.py_func.__closure__
            names[name] = FunctionType(code, names, closure=closure)
    assert operations.keys() <= names.keys()
    names |= operations
    if source_changes:
        source = inspect.getsource(interpreter._execute.py_func)
        for old, new in source_changes:
            assert source.count(old) == 1, f"{old!r} is not once in the source of _execute"
            source = source.replace(old, new)
        names["njit"] = lambda **options: lambda function: function
        exec(compile(source, "broken _execute", "exec"), names)
    return names["_execute"]


def _not_modelled(name, *arguments):
    raise AssertionError(f"{name} is used, but the checker has no operation for it")


class Variant(NamedTuple):
    """The protocol, perhaps with an error.

    Parameters
    ----------
    changes : tuple of (str, str)
        Changes of the source of `_execute`, as `real_execute` takes them.
    first_zeroed : int
        The first word of the control block that the caller zeroes.
    tickets : tuple of int
        The tickets of the runs.
    """

    changes: tuple[tuple[str, str], ...] = ()
    first_zeroed: int = LINE // 8
    tickets: tuple[int, ...] = (1, 2, 3, 4)


PROTOCOL = Variant()
"""Without an error."""


def threads_of(model, followers, variant=PROTOCOL):
    """A thread that leads all runs in turn, and followers that try to join each of them.

    A follower may come to a run at any time: before it begins, while it is on, or after later ones.
    """

    def arguments(run):
        steps, moves = model.tables(run)
        streams = np.full((1, STREAM_FIELDS), run, np.int64)
        return steps, moves, streams, run, run * BLOCK, variant.tickets[run - 1], 0

    told = {run: arguments(run) for run in model.runs}

    def make_leader(perform):
        work_off = real_execute(model, perform, variant.changes)

        def lead():
            for run in model.runs:
                perform(model.prepare(run, variant.first_zeroed))
                work_off(*told[run], True)
                perform(model.take(run))

        return lead

    def make_follower(perform):
        work_off = real_execute(model, perform, variant.changes)

        def follow():
            for run in model.runs:
                work_off(*told[run], False)

        return follow

    leader = Routine(make_leader, uncounted=["tries"])
    follower = Routine(make_follower, uncounted=["tries"])
    return [leader, *[follower] * followers]
