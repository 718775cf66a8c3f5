"""Compares a network with a reference, one stage after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from oobleck_stream.arrays import FloatArray
from oobleck_stream.validation.alignment import delay_of, overlap
from oobleck_stream.validation.comparison import (
    Comparison,
    DoubleArray,
    RealArray,
    ShapeError,
    compare,
    difference_over_time,
)

Visit = Callable[[str, RealArray], None]
"""A function that is called with a stage's name and the reference's rows after that stage."""

Reference = Callable[[Visit], None]
"""A function that calls a `Visit` for each stage of a reference, in order. The `Visit` must not
keep the rows, so that they can be freed after each call."""


@dataclass(frozen=True, eq=False)
class Validation:
    """The result of comparing a network with a reference.

    Parameters
    ----------
    stages : mapping of str to Comparison
        The comparison of each stage that the reference has, keyed by the stage's name and in order.
    missing : tuple of str
        Names of the network's stages that the reference does not have.
    problem : str or None
        If the comparison ended early because the shapes differ, this is a message with the stage
        and both shapes.
    over_time : (columns, channels) float64, or None
        The largest differences over time, for the last stage that was compared.
    delay : int or None
        Number of rows by which the reference is late. It is negative if the reference is early, and
        None if the reference was not aligned.
    """

    stages: Mapping[str, Comparison]
    missing: tuple[str, ...] = ()
    problem: str | None = None
    over_time: DoubleArray | None = None
    delay: int | None = None

    @property
    def first_outside(self) -> str | None:
        """The first stage with an element outside the tolerance. None if there is no such stage."""
        outside = (name for name, comparison in self.stages.items() if not comparison.within)
        return next(outside, None)

    @property
    def passed(self) -> bool:
        """Whether at least one stage was compared and all stages are within the tolerance."""
        return bool(self.stages) and self.problem is None and self.first_outside is None


def check_stages(
    ours: Iterable[tuple[str, FloatArray]],
    reference: Reference,
    tolerance: float,
    columns: int | None = None,
    most: int | None = None,
) -> Validation:
    """Compare one stage after another, and return the result.

    Only one stage is in memory at a time.

    Parameters
    ----------
    ours : iterable of (str, (rows, channels) array)
        The stages that `layer_outputs` yields. The iterable is consumed to its end.
    reference : callable
        A `Reference`.
    tolerance : float
        The largest absolute difference that passes.
    columns : int, optional
        Maximum number of columns of `Validation.over_time`. By default, `Validation.over_time` is
        None.
    most : int, optional
        If given, the reference is aligned by at most `most` rows before it is compared. Rows that
        only one side has are then not compared.

    Raises
    ------
    ValueError
        If the reference has a stage that `ours` does not have, or has the stages in another order.
    """
    stages: dict[str, Comparison] = {}
    missing: list[str] = []
    remaining = iter(ours)
    over_time: DoubleArray | None = None
    at = ""
    delay: int | None = None

    def visit(name: str, theirs: RealArray) -> None:
        nonlocal over_time, at, delay
        at = name
        mine: RealArray = _skip_to(name, remaining, missing)
        if most is not None:
            delay = delay_of(theirs, mine, most)
            mine, theirs = overlap(mine, theirs, delay)
        stages[name] = compare(mine, theirs, tolerance)
        if columns is not None:
            over_time = difference_over_time(mine, theirs, columns)

    problem = None
    try:
        reference(visit)
    except ShapeError as error:
        problem = f"{at}: {error}"
    unreached = [name for name, _ in remaining]
    if problem is None:
        missing += unreached
    return Validation(stages, tuple(missing), problem, over_time, delay)


def _skip_to(
    name: str, remaining: Iterator[tuple[str, FloatArray]], missing: list[str]
) -> FloatArray:
    """Return our rows of a stage, and append the names of the skipped stages to `missing`."""
    for stage, rows in remaining:
        if stage == name:
            return rows
        missing.append(stage)
    raise ValueError(f"the network has no stage {name!r}, or it was compared already")
