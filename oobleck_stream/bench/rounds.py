"""Timing many things in rounds, each in turn, so that a busy machine's drift hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tqdm import tqdm

LEAST_ROUNDS = 3
LONGEST_TURN = 0.25

Turn = Callable[[float], list[float]]


def take_turn(call: Callable[[], object], seconds: float) -> list[float]:
    """Time calls in a row until they have taken some seconds together; at least one.

    The first call is not counted where it is shorter than the turn: it finds the caches as another
    measurement left them.
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
    """One thing that is timed in every round.

    Parameters
    ----------
    turn : callable
        Given the seconds it should last, makes some calls and returns the seconds of each.
    times : list of float
        Seconds of all calls so far.
    """

    turn: Turn
    times: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, call: Callable[[], object]) -> Case:
        """A case of this process."""
        return cls(partial(take_turn, call))

    @property
    def median(self) -> float:
        """Seconds of the median call."""
        return self.quantile(0.5)

    def quantile(self, share: float) -> float:
        """Seconds that a share of the calls did not exceed."""
        return float(np.quantile(self.times, share))


def run_rounds(cases: Sequence[Case], seconds: float) -> int:
    """Give each case its turn, round after round; the number of rounds.

    Parameters
    ----------
    cases : sequence of Case
    seconds : float
        No round begins after these, but `LEAST_ROUNDS` are made in any case.
    """
    turn = min(LONGEST_TURN, seconds / LEAST_ROUNDS / len(cases))
    start, rounds = time.perf_counter(), 0
    with tqdm(desc="rounds", unit="", disable=None, leave=False) as bar:
        while rounds < LEAST_ROUNDS or time.perf_counter() - start < seconds:
            for case in cases:
                case.times += case.turn(turn)
            rounds += 1
            bar.update()
    return rounds
