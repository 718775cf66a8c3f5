"""The machine's limits: the peak rate of fused multiply-adds, and the memory's read bandwidth."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from oobleck_stream.bench.rounds import Case

Facts = dict[str, Any]

READ_BYTES = 2**29
"""Bytes read to measure the bandwidth. Most last-level caches are many times smaller."""

JOBS = 64
"""Number of jobs per measurement. Threads claim one job after another, so a slow thread claims
fewer."""

TURNS = 2**18
"""Iterations of the multiply-add loop per job. They take about a millisecond."""


class Limits:
    """Measures both limits, with `threads` threads and with one thread.

    Parameters
    ----------
    threads : int
    """

    def __init__(self, threads: int) -> None:
        self.counts = sorted({1, threads}, reverse=True)
        self._array = np.ones(READ_BYTES // 4, np.float32)
        self._half = np.full(16, 0.5, np.float32)
        self._pool = ThreadPoolExecutor(threads)
        self._operations = JOBS * self._multiply_add(0)
        self._read(0)
        self.peaks = {count: self._case(self._multiply_add, count) for count in self.counts}
        self.reads = {count: self._case(self._read, count) for count in self.counts}

    @property
    def cases(self) -> list[Case]:
        """All cases, in the order in which they are timed."""
        return [*self.peaks.values(), *self.reads.values()]

    def peak(self, threads: int) -> float:
        """The peak rate in floating-point operations per second: the median of all rounds."""
        return self._operations / self.peaks[threads].median

    def read(self, threads: int) -> float:
        """The read bandwidth in bytes per second: the median of all rounds."""
        return READ_BYTES / self.reads[threads].median

    def facts(self) -> Facts:
        """Return both limits, the processor's name, and the number of cores."""
        return {
            "name": processor_name(),
            "cores": os.cpu_count(),
            "peak": [
                {
                    "threads": count,
                    "median_gflops": self.peak(count) / 1e9,
                    "max_gflops": self._operations / self.peaks[count].quantile(0) / 1e9,
                }
                for count in self.counts
            ],
            "read": [
                {
                    "threads": count,
                    "median_gbytes_per_second": self.read(count) / 1e9,
                    "max_gbytes_per_second": READ_BYTES / case.quantile(0) / 1e9,
                }
                for count, case in self.reads.items()
            ],
        }

    def _case(self, job: Callable[[int], object], threads: int) -> Case:
        def work(jobs: Iterator[int]) -> None:
            for number in jobs:
                job(number)

        def call() -> None:
            jobs = iter(range(JOBS))
            list(self._pool.map(work, [jobs] * threads))

        return Case.of(call)

    def _multiply_add(self, number: int) -> int:
        from oobleck_stream.engine.cpu.peak import multiply_add

        total = np.empty(16, np.float32)
        return int(multiply_add(TURNS, self._half.ctypes.data, total.ctypes.data))

    def _read(self, number: int) -> None:
        from oobleck_stream.engine.cpu.peak import READ_STEP, read

        total = np.empty(16, np.float32)
        part = READ_BYTES // JOBS
        address = self._array.ctypes.data + number * part
        read(address, part // READ_STEP, total.ctypes.data)


def processor_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
