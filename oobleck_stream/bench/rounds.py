"""Times cases in rounds. Every case has a turn in each round, so other load affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tqdm import tqdm

MIN_ROUNDS = 3
MAX_TURN_SECONDS = 0.25

Turn = Callable[[float], list[float]]


def take_turn(call: Callable[[], object], seconds: float) -> list[float]:
    """Time consecutive calls for about `seconds` in total, and return the seconds of each call.

    There is at least one call. If the first call takes less than `seconds`, it is not counted,
    because it runs with caches that another measurement has filled.
    """
    first = _timed(call)
    if first >= seconds:
        return [first]
    times: list[float] = []
    total = 0.0
    while total < seconds:
        times.append(_timed(call))
        total += times[-1]
    return times


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@dataclass
class Case:
    """A call that is timed in every round.

    Parameters
    ----------
    turn : callable
        A function that takes a duration in seconds, makes calls for about that long, and returns
        the seconds of each call.
    times : list of float
        Seconds of all calls so far.
    """

    turn: Turn
    times: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, call: Callable[[], object]) -> Case:
        """Return a case for a function that runs in this process."""
        return cls(partial(take_turn, call))

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return self.quantile(0.5)

    @property
    def mean(self) -> float:
        """Mean seconds of a call."""
        return float(np.mean(self.times))

    def quantile(self, share: float) -> float:
        """Return a quantile of the seconds of all calls. `share` is from 0 to 1."""
        return float(np.quantile(self.times, share))


def run_rounds(cases: Sequence[Case], seconds: float) -> int:
    """Give each case a turn in every round, and return the number of rounds.

    Parameters
    ----------
    cases : sequence of Case
    seconds : float
        No round begins after this time, but there are always at least `MIN_ROUNDS` rounds.
    """
    turn = min(MAX_TURN_SECONDS, seconds / MIN_ROUNDS / len(cases))
    start, rounds = time.perf_counter(), 0
    with tqdm(desc="rounds", unit="", disable=None, leave=False) as bar:
        while rounds < MIN_ROUNDS or time.perf_counter() - start < seconds:
            for case in cases:
                case.times += case.turn(turn)
            rounds += 1
            bar.update()
    return rounds
