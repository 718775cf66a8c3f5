"""Values of options that are numbers or a word."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

Callback = Callable[[click.Context, click.Parameter, Any], Any]


def seconds_or(*words: str) -> Callback:
    """For an option: a number of seconds, or one of some words."""

    def parsed(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None or value in words:
            return value
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            expected = " or ".join(["seconds from 0", *words])
            raise click.BadParameter(f"{expected} expected, not {value!r}")
        return seconds

    return parsed


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """For an option: a number that is neither infinite nor NaN, which click's ranges let pass."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"a finite number expected, not {value}")
    return value


def times(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """For an option: how often, a whole number from 1 or forever."""
    if value == "forever":
        return math.inf
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"a number from 1 or forever expected, not {value!r}")
    return float(value)
