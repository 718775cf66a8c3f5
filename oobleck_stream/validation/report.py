"""Formats a validation as plain text and as JSON."""

from __future__ import annotations

import math
from typing import Any

from oobleck_stream.validation.check import Validation
from oobleck_stream.validation.comparison import Comparison

HEADER = (
    f"{'':12}{'time x ch':>14}{'mean':>9}{'max':>9}{'RMSE':>9}{'SNR dB':>8}{'peak':>9}"
    f"{'over':>8}{'share':>9}  max at time, ch"
)


def report_lines(validation: Validation, tolerance: float) -> list[str]:
    """Return a table that has a line for each stage, and the verdict."""
    lines = []
    if validation.stages:
        lines.append(HEADER)
        lines += [_line(name, comparison) for name, comparison in validation.stages.items()]
    if validation.missing:
        lines.append(f"not in the reference: {', '.join(validation.missing)}")
    if validation.delay is not None:
        late = "late" if validation.delay >= 0 else "early"
        lines.append(f"aligned: the reference is {abs(validation.delay)} rows {late}")
    return [*lines, verdict(validation, tolerance)]


def verdict(validation: Validation, tolerance: float) -> str:
    """Return the result of the validation as a sentence."""
    first = validation.first_outside
    names = list(validation.stages)
    compared = f"{len(names)} stages are" if len(names) != 1 else f"{names[0]} is"
    if first is not None:
        found = validation.stages[first]
        time, channel = found.worst
        sentence = (
            f"FAILED: {first} is the first to leave the tolerance of {tolerance:g}: "
            f"{found.over} of {found.count} elements, "
        )
        if found.not_finite:
            sentence += f"{found.not_finite} of the reference are not finite "
        elif found.ours_not_finite:
            sentence += f"{found.ours_not_finite} of ours are not finite "
        else:
            sentence += f"by up to {found.max_difference:.3g} "
        sentence += f"(time {time}, channel {channel})"
        return f"{sentence}; {validation.problem}" if validation.problem else sentence
    if validation.problem:
        return f"FAILED: {validation.problem}"
    largest = max(found.max_difference for found in validation.stages.values())
    return f"passed: {compared} within {tolerance:g}, the largest difference is {largest:.3g}"


def report_facts(validation: Validation, tolerance: float) -> dict[str, Any]:
    """Return the facts of a report for JSON. Infinities and NaN become null."""
    return {
        "passed": validation.passed,
        "tolerance": tolerance,
        "first_outside": validation.first_outside,
        "problem": validation.problem,
        "missing": list(validation.missing),
        "delay": validation.delay,
        "stages": {name: _facts(found) for name, found in validation.stages.items()},
    }


def _facts(found: Comparison) -> dict[str, Any]:
    numbers = {
        name: value if math.isfinite(value) else None
        for name in ("mean_difference", "max_difference", "rmse", "snr_db", "peak")
        for value in [getattr(found, name)]
    }
    return {
        "shape": [found.rows, found.channels],
        **numbers,
        "count": found.count,
        "over": found.over,
        "not_finite": found.not_finite,
        "ours_not_finite": found.ours_not_finite,
        "share": found.share,
        "worst": {"time": found.worst[0], "channel": found.worst[1]},
        "within": found.within,
    }


def _line(name: str, found: Comparison) -> str:
    shape = f"{found.rows} x {found.channels}"
    time, channel = found.worst
    return (
        f"{name:12}{shape:>14}{found.mean_difference:>9.1e}{found.max_difference:>9.1e}"
        f"{found.rmse:>9.1e}{found.snr_db:>8.1f}{found.peak:>9.3g}{found.over:>8}"
        f"{found.share:>9.3%}  {time}, {channel}"
    )
