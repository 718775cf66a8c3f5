"""Parsers of option values. Each is a click callback that returns the parsed value.

All of them raise `click.BadParameter` if the value is not valid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from oobleck_stream.model import Model

Callback = Callable[[click.Context, click.Parameter, Any], Any]


def seconds_or(*words: str) -> Callback:
    """Return a parser that accepts a finite number of seconds of at least 0, or one of `words`."""

    def parsed(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None or value in words:
            return value
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            expected = " or ".join(["seconds from 0", *words])
            raise click.BadParameter(f"{expected} were expected, not {value!r}")
        return seconds

    return parsed


LOOK_AHEAD = re.compile(r"([0-9]*\.?[0-9]+) *(%|ms|s)?")


def look_ahead(_: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Parse seconds (0.08), milliseconds (80ms) or a share of the network's look-ahead (25%).

    Returns
    -------
    callable or None
        A function that takes a `Model` and returns the look-ahead in samples. It raises
        `click.BadParameter` if the result would exceed the network's own look-ahead.
    """
    if value is None:
        return None
    match = LOOK_AHEAD.fullmatch(value.strip())
    if match is None:
        raise click.BadParameter(f"a look-ahead like 80ms, 0.08 or 25% expected, not {value!r}")
    amount, unit = float(match[1]), match[2]

    def samples(model: Model) -> int:
        if unit == "%":
            count = round(amount / 100 * model.latency)
        else:
            count = round(amount * model.samplerate / (1000 if unit == "ms" else 1))
        if count > model.latency:
            raise click.BadParameter(
                f"{value} is more than the network's look-ahead, "
                f"{1000 * model.latency / model.samplerate:.0f} ms",
                param=parameter,
            )
        return count

    return samples


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Require a finite number, because click's ranges accept infinities and NaN."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"a finite number was expected, not {value}")
    return value


def repetitions(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Parse a number of repetitions: a whole number of at least 1, or "forever" for infinity."""
    if value == "forever":
        return math.inf
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"a whole number from 1 or 'forever' was expected, not {value!r}")
    return float(value)


def counts(_: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """Parse whole numbers of at least 1, separated by commas. Sort them and drop duplicates."""
    try:
        numbers = sorted({int(part) for part in value.split(",")})
    except ValueError:
        numbers = [0]
    if numbers[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list like 1,4,16", param=parameter)
    return numbers
