"""Runs the tasks of a plan on an engine, and reports progress."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from oobleck_stream.dataset.engines import Engine, WorkerDied
from oobleck_stream.dataset.plan import Plan, Report, Status
from oobleck_stream.dataset.records import Line
from oobleck_stream.dataset.tasks import Task

TICK_SECONDS = 0.5
"""How often progress is reported."""

AHEAD = 2
"""Number of submitted and unfinished tasks, per task that can run at the same time."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes
    ----------
    status : Status
        The part of the run that is done.
    wall_seconds : float
        Seconds since the run began.
    workers : int
        Number of tasks that can run at the same time, or 0 if this process does the work itself.
    failures : tuple of Line
        Inputs that have failed since progress was last reported.
    """

    status: Status
    wall_seconds: float
    workers: int
    failures: tuple[Line, ...] = ()

    @property
    def speed(self) -> float:
        """Seconds of sound that are processed per second of the run."""
        return self.status.seconds / max(1e-9, self.wall_seconds)

    @property
    def seconds_left(self) -> float | None:
        """The estimated time to the end in seconds, or None if no estimate is possible yet."""
        done, total = self.status.bytes, self.status.total_bytes
        return max(0, total - done) * self.wall_seconds / done if done else None


def execute(
    plan: Plan, engine: Engine, strict: bool = False, tell: Callable[[Progress], None] | None = None
) -> Report:
    """Run all tasks of a plan.

    Parameters
    ----------
    plan : Plan
    engine : Engine
    strict : bool
        Whether the first input that fails ends the run.
    tell : callable, optional
        Called with the `Progress`, about twice a second.

    Returns
    -------
    Report

    Raises
    ------
    OSError
        If an output can't be written, or the connection to the workers is lost. Finished outputs
        are kept. Repeat the run to do the rest.
    InputError
        If a worker loads another model than the one that the data set was begun with.
    """
    tell = tell or (lambda progress: None)
    start, last, told = time.perf_counter(), -TICK_SECONDS, 0
    fresh, following, in_flight, more = plan.tasks(), deque[Task](), 0, True
    # Tasks whose workers died. Another task on the same worker may have been the cause. So each of
    # these tasks is run again while no other task runs.
    suspects, alone = deque[Task](), False
    while more or following or suspects or in_flight:
        width = engine.width()
        if suspects and not in_flight:
            engine.submit(suspects.popleft())
            in_flight, alone = 1, True
        while not suspects and not alone and in_flight < AHEAD * width + 1:
            # Tasks that follow from results go first, to keep few long inputs open at a time.
            task = following.popleft() if following else next(fresh, None)
            if task is None:
                more = False
                break
            engine.submit(task)
            in_flight += 1
        for task, outcome in engine.wait(TICK_SECONDS):
            in_flight -= 1
            if isinstance(outcome, WorkerDied) and not alone:
                suspects += plan.suspects(task)
            elif isinstance(outcome, WorkerDied):
                following += plan.set_aside(task, str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                following += plan.follow(task, outcome)
            alone = False
        failures, now = tuple(plan.failures[told:]), time.perf_counter()
        ended = not (more or following or suspects or in_flight)
        if failures or ended or now - last >= TICK_SECONDS:
            told, last = told + len(failures), now
            tell(Progress(plan.status, now - start, width, failures))
        if strict and plan.status.failed:
            break
    report = plan.finish()
    return dataclasses.replace(report, wall_seconds=time.perf_counter() - start)
