"""The cases of this package: pushes and full batches, each with and without epilogues.

The epilogues are the Snakes, the residual additions and the tanh.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oobleck_stream.bench.limits import Limits
from oobleck_stream.bench.rounds import Case
from oobleck_stream.bench.task import Task
from oobleck_stream.validation.stages import half_of

Facts = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """The work on `frames` frames, in a push of a running stream or as a whole piece.

    Parameters
    ----------
    task : Task
    frames : int
    threads : int
    whole : bool
        Whether to time `Task.whole` instead of a push.
    pairing : int
        If this is 2, `frames` pushes of one frame are timed together, in a decoder that pairs them.
    """

    task: Task
    frames: int
    threads: int
    whole: bool = False
    pairing: int = 1

    def case(self) -> Case:
        """Make untimed calls that allocate memory and make the plans. Then return the case."""
        task, rows = self.task, self.task.rows(self.frames)
        if self.whole:
            task.whole(rows, self.threads)
            return Case.of(lambda: task.whole(rows, self.threads))
        push_rows = task.push(self.threads, self.pairing)
        pieces = [rows] if self.pairing == 1 else list(rows)

        def push() -> None:
            for piece in pieces:
                push_rows(piece)

        for _ in range(2 * task.context // self.frames + 1):
            push()
        return Case.of(push)

    def facts(self, case: Case, peak: float) -> Facts:
        """Return the figures of a case. `peak` is the machine's peak in operations per second."""
        model = self.task.model
        budget = self.frames / model.config.frame_rate
        rate = self.task.operations * self.frames / case.median
        return {
            "frames": self.frames,
            "threads": self.threads,
            "calls": len(case.times),
            "median_seconds": case.median,
            "p99_seconds": case.quantile(0.99),
            "max_seconds": case.quantile(1),
            "spread": (case.quantile(0.75) - case.quantile(0.25)) / case.median,
            "gflops": rate / 1e9,
            "share_of_peak": rate / peak if model.backend == "cpu" else None,
            "real_time_factor": case.median / budget,
            "late_share": float(np.mean(np.array(case.times) > budget)),
        }


class Ours:
    """All cases of this package.

    Parameters
    ----------
    task : Task
    threads : int
    pushes : sequence of int
        The sizes of the pushes, in frames.
    batch : int
        Number of frames of the full batch.
    """

    def __init__(self, task: Task, threads: int, pushes: Sequence[int], batch: int) -> None:
        bare = products_only(task)
        works = [Work(task, frames, threads) for frames in pushes]
        works.append(Work(task, batch, threads, whole=True))
        self._timed = [
            (work, work.case(), dataclasses.replace(work, task=bare).case()) for work in works
        ]
        self._paired = Work(task, 2, threads, pairing=2) if task.half == "decoder" else None
        self._paired_case = self._paired.case() if self._paired else None
        self._single = Work(task, batch, 1, whole=True)
        self._single_case = self._single.case() if threads > 1 else None

    @property
    def cases(self) -> list[Case]:
        """All cases, in the order in which they are timed."""
        cases = [case for _, whole, bare in self._timed for case in (whole, bare)]
        return cases + [case for case in (self._paired_case, self._single_case) if case]

    @property
    def push_medians(self) -> dict[int, float]:
        """The median seconds of each push, keyed by the push's number of frames."""
        return {work.frames: case.median for work, case, _ in self._timed[:-1]}

    @property
    def batch_median(self) -> float:
        """Median seconds of the full batch."""
        return self._timed[-1][1].median

    def facts(self, limits: Limits) -> Facts:
        """Return the figures of all cases, and the speed-up of `threads` threads over one."""
        rows = [
            work.facts(case, limits.peak(work.threads))
            | {"epilogue_share": 1 - bare.median / case.median}
            for work, case, bare in self._timed
        ]
        facts: Facts = {"pushes": rows[:-1], "batch": rows[-1]}
        facts["paired"] = facts["one_thread"] = facts["threads_ratio"] = None
        if self._paired and self._paired_case:
            peak = limits.peak(self._paired.threads)
            facts["paired"] = self._paired.facts(self._paired_case, peak)
        if self._single_case:
            facts["one_thread"] = self._single.facts(self._single_case, limits.peak(1))
            facts["threads_ratio"] = self._single_case.median / self.batch_median
        return facts


def products_only(task: Task) -> Task:
    """Return the task with identity epilogues: no Snake, no residual addition and no tanh.

    The layers are otherwise unchanged and read the same packed weights, so each product has the
    same size, order and memory traffic. The bias stays, because it is only one addition to a
    register that is stored anyway. The output is meaningless. Only the time is of interest.
    """
    network = half_of(task.model, task.half)
    layers = tuple(
        dataclasses.replace(layer, snake=None, residual=False, tanh=False)
        for layer in network.layers
    )
    bare = dataclasses.replace(network, layers=layers)
    if task.half == "decoder":
        model = dataclasses.replace(task.model, decoder=bare)
    else:
        model = dataclasses.replace(task.model, load_encoder=lambda: bare)
    return dataclasses.replace(task, model=model)
