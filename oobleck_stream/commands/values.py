"""Parsers of option values. Each is a click callback that returns the parsed value.

All of them raise `click.BadParameter` if the value is not valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

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
    """Parse whole numbers of at least 1, separated by commas; return them sorted, each once."""
    try:
        numbers = sorted({int(part) for part in value.split(",")})
    except ValueError:
        numbers = [0]
    if numbers[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list like 1,4,16", param=parameter)
    return numbers
