"""What is wrong with a checkpoint, all of it at once."""

from __future__ import annotations

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
