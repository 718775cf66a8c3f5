"""Every stage of ours against a reference's, in the order in which they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from oobleck_stream.arrays import FloatArray
from oobleck_stream.validation.comparison import (
    Comparison,
    DoubleArray,
    RealArray,
    ShapeError,
    compare,
    difference_over_time,
)

Visit = Callable[[str, RealArray], None]
"""Called with a stage's name and the reference's rows there."""

Reference = Callable[[Visit], None]
"""Visits the stages that it has, in their order; nothing is kept of a stage after its visit."""


@dataclass(frozen=True, eq=False)
class Validation:
    """What came of comparing a network to a reference.

    Parameters
    ----------
    stages : mapping of str to Comparison
        By name, in order; those that the reference has.
    missing : tuple of str
        Stages of ours that the reference does not have.
    problem : str or None
        Where the comparison ended because the shapes differ, and how.
    over_time : (columns, channels) float64, or None
        The largest differences over time, of the last stage compared.
    """

    stages: Mapping[str, Comparison]
    missing: tuple[str, ...] = ()
    problem: str | None = None
    over_time: DoubleArray | None = None

    @property
    def first_outside(self) -> str | None:
        """The first stage that leaves the tolerance, if any does."""
        outside = (name for name, comparison in self.stages.items() if not comparison.within)
        return next(outside, None)

    @property
    def passed(self) -> bool:
        """Whether all that was compared, and something was, is within the tolerance."""
        return bool(self.stages) and self.problem is None and self.first_outside is None


def check_stages(
    ours: Iterable[tuple[str, FloatArray]],
    reference: Reference,
    tolerance: float,
    columns: int | None = None,
) -> Validation:
    """Compare stage by stage; memory is that of one stage.

    Parameters
    ----------
    ours : iterable of (str, (rows, channels) array)
        As `layer_outputs` gives them; taken to its end.
    reference : callable
        See `Reference`.
    tolerance : float
        The largest absolute difference that passes.
    columns : int, optional
        Of `Validation.over_time`; without it that is None.
    """
    stages: dict[str, Comparison] = {}
    missing: list[str] = []
    remaining = iter(ours)
    over_time: DoubleArray | None = None
    at = ""

    def visit(name: str, theirs: RealArray) -> None:
        nonlocal over_time, at
        at, mine = name, _skip_to(name, remaining, missing)
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
    return Validation(stages, tuple(missing), problem, over_time)


def _skip_to(
    name: str, remaining: Iterator[tuple[str, FloatArray]], missing: list[str]
) -> FloatArray:
    """Our rows of a stage; the names before it are `missing`."""
    for stage, rows in remaining:
        if stage == name:
            return rows
        missing.append(stage)
    raise ValueError(f"there is no stage {name!r} here, or it came before")
