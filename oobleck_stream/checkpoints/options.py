"""Typed access to the options of a JSON object. Problems are collected instead of raised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_NUMBER = 1e30
MAX_INTEGER = 2**31 - 1


class Options:
    """A JSON object with one method for each type of option.

    If an option is invalid, its method appends a problem and returns a valid placeholder, so that a
    single error can report all problems.

    Parameters
    ----------
    values : Mapping
        The JSON object.
    where : str
        The path of the object in the file, for messages. Empty if the object is the whole file.
    problems : list of str
        The list to which a sentence is appended for each problem.
    """

    def __init__(self, values: Mapping[str, Any], where: str, problems: list[str]) -> None:
        self._values = values
        self._where = where
        self.problems = problems

    def name(self, option: str) -> str:
        """The full path of an option, for messages."""
        return f"{self._where}.{option}" if self._where else option

    def __contains__(self, option: str) -> bool:
        return self._values.get(option) is not None

    def _report(self, option: str, expected: str) -> None:
        shown = json.dumps(self._values.get(option))[:80] if option in self else "missing"
        self.problems.append(f"{self.name(option)} is {shown}, {expected} was expected")

    def section(self, option: str) -> Options:
        """Return a nested object. If there is none, report a problem and return an empty one."""
        values = self._values.get(option)
        if not isinstance(values, dict):
            self._report(option, "an object")
            values = {}
        return Options(values, self.name(option), self.problems)

    def text(self, option: str, default: str) -> str:
        """Return a string, or `default` if the option is missing."""
        value = self._values.get(option, default)
        if not isinstance(value, str):
            self._report(option, "a text")
            return default
        return value

    def integer(self, option: str, default: int | None = None) -> int:
        """Return a whole number from 1 to 2**31 - 1, or `default` if the option is missing.

        2.0 counts as a whole number. If `default` is None, the option is required.
        """
        value = self._values.get(option, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        # isinstance would also accept a bool, which is an int in Python.
        if type(value) is not int or not 1 <= value <= MAX_INTEGER:
            self._report(option, "a whole number from 1")
            return 1
        return value

    def integers(self, option: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return a non-empty list of whole numbers from 1; `default` if the option is missing."""
        values = self._values.get(option, default)
        if not isinstance(values, (list, tuple)) or not values:
            self._report(option, "a list of whole numbers")
            return default
        if any(type(value) is not int or not 1 <= value <= MAX_INTEGER for value in values):
            self._report(option, "a list of whole numbers from 1")
            return default
        return tuple(values)

    def number(self, option: str, default: float, zero: bool = False) -> float:
        """Return a number below 1e30 in magnitude, or `default` if the option is missing.

        0 is accepted only if `zero` is true.
        """
        value = self._values.get(option, default)
        real = type(value) in (int, float)
        if not real or not (0 < abs(value) < MAX_NUMBER or (zero and value == 0)):
            self._report(option, "a number" if zero else "a number that is not 0")
            return default
        return float(value)

    def flag(self, option: str, default: bool) -> bool:
        """Return a Boolean, or `default` if the option is missing."""
        value = self._values.get(option, default)
        if not isinstance(value, bool):
            self._report(option, "true or false")
            return default
        return value

    def require(self, option: str, supported: object, default: object) -> bool:
        """Return whether an option has its only supported value; otherwise report a problem.

        Parameters
        ----------
        option : str
        supported : object
            The only supported value.
        default : object
            The value that the format gives to a missing option; None if the format gives none.
        """
        value = self._values.get(option, default)
        if value == supported and type(value) is type(supported):
            return True
        shown = f"= {json.dumps(value)[:80]}" if option in self else "(missing)"
        if option not in self and default is not None:
            shown = f"= {json.dumps(default)} (its default)"
        self.problems.append(
            f"{self.name(option)} {shown} is not supported, only {json.dumps(supported)}"
        )
        return False

    def reject_unknown(self, *known: str) -> None:
        """Report every option outside `known` as a problem, since it may change the sound."""
        for option in self._values:
            if option not in known:
                self.problems.append(f"{self.name(option)} is an option that is not known here")
