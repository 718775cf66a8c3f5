"""Options of a JSON object, read with their types; what is wrong with them is collected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_HUGE = 1e30
_MOST = 2**31 - 1


class Options:
    """A JSON object whose options are asked for one by one.

    Parameters
    ----------
    values : Mapping
        The object.
    where : str
        Its path in the file, for messages.
    problems : list of str
        Receives what is wrong.
    """

    def __init__(self, values: Mapping[str, Any], where: str, problems: list[str]) -> None:
        self._values = values
        self._where = where
        self.problems = problems

    def name(self, option: str) -> str:
        """An option with its path."""
        return f"{self._where}.{option}" if self._where else option

    def __contains__(self, option: str) -> bool:
        return self._values.get(option) is not None

    def _wrong(self, option: str, expected: str) -> None:
        shown = json.dumps(self._values.get(option))[:80] if option in self else "missing"
        self.problems.append(f"{self.name(option)} is {shown}, {expected} was expected")

    def section(self, option: str) -> Options:
        """An object inside this one; an empty one, and a problem, where it is none."""
        values = self._values.get(option)
        if not isinstance(values, dict):
            self._wrong(option, "an object")
            values = {}
        return Options(values, self.name(option), self.problems)

    def text(self, option: str, default: str) -> str:
        """A string."""
        value = self._values.get(option, default)
        if not isinstance(value, str):
            self._wrong(option, "a text")
            return default
        return value

    def integer(self, option: str, default: int | None = None) -> int:
        """A whole number from 1; without a default it must be there."""
        value = self._values.get(option, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not 1 <= value <= _MOST:
            self._wrong(option, "a whole number from 1")
            return 1
        return value

    def integers(self, option: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of whole numbers from 1."""
        values = self._values.get(option, default)
        if not isinstance(values, (list, tuple)) or not values:
            self._wrong(option, "a list of whole numbers")
            return default
        if any(type(value) is not int or not 1 <= value <= _MOST for value in values):
            self._wrong(option, "a list of whole numbers from 1")
            return default
        return tuple(values)

    def number(self, option: str, default: float, zero: bool = False) -> float:
        """A number that is not 0, unless `zero` allows it."""
        value = self._values.get(option, default)
        if type(value) not in (int, float) or not (0 < abs(value) < _HUGE or (zero and value == 0)):
            self._wrong(option, "a number" if zero else "a number that is not 0")
            return default
        return float(value)

    def flag(self, option: str, default: bool) -> bool:
        """True or false."""
        value = self._values.get(option, default)
        if not isinstance(value, bool):
            self._wrong(option, "true or false")
            return default
        return value

    def only(self, option: str, supported: object, default: object) -> bool:
        """Whether an option has the one value that is supported here; if not, refuse it."""
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

    def refuse_others(self, *known: str) -> None:
        """Refuse every option that is not known: it may change the sound."""
        for option in self._values:
            if option not in known:
                self.problems.append(f"{self.name(option)} is an option that is not known here")
