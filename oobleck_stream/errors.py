"""Errors that the library raises: a bad checkpoint, output that is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 6
LONGEST = 240


def _line(text: str) -> str:
    """Names come from files: kept to one line of printable characters, and not endless."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= LONGEST else printable[:LONGEST] + "..."


class CheckpointError(ValueError):
    """A checkpoint that can't be used.

    Parameters
    ----------
    source : object
        The file, folder or name that was asked for.
    *problems : str
        Each names a tensor or an option, and says what was expected.

    Attributes
    ----------
    source : str
    problems : tuple of str
        All of them; the message shows the first few and a count.
    """

    def __init__(self, source: object, *problems: str) -> None:
        self.source = str(source)
        self.problems = tuple(_line(problem) for problem in problems)
        message = "; ".join(self.problems[:SHOWN])
        if len(self.problems) > SHOWN:
            message += f"; and {len(self.problems) - SHOWN} problems more"
        super().__init__(f"{_line(self.source)}: {message}" if message else self.source)


class NonFiniteError(FloatingPointError):
    """The input was finite, but float32 overflowed inside the network.

    It is not a ``ValueError``: the input was taken in. A stream whose output is not finite refuses
    further calls until it is reset, restored or (a decoder) sent elsewhere by `seek`.

    Parameters
    ----------
    message : str
    frames : mapping of int to int, optional
    output : Any

    Attributes
    ----------
    frames : dict of int to int
        For each stream whose output is not finite, the first frame concerned. The only stream of a
        decoder or encoder has number 0.
    output : as the call that failed would have returned
        What is finite: the rows before the first that is not. In a decoder with `streams`, all
        samples of the other streams are there.
    """

    def __init__(
        self, message: str, frames: Mapping[int, int] | None = None, output: Any = None
    ) -> None:
        self.frames = dict(frames or {})
        self.output = output
        super().__init__(message)


class CudaUnavailable(RuntimeError):  # noqa: N818
    """CUDA can't be used here; the message says in one line what is missing."""
