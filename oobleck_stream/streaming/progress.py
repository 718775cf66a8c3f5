"""How far a stack of layers is, and a copy of all it remembers."""

from __future__ import annotations

from dataclasses import dataclass

from oobleck_stream.packed import FloatArray


@dataclass
class Progress:
    """Counts for every layer; with the rows kept, all that decides what comes next.

    Parameters
    ----------
    received : list of int
        Input rows so far.
    blocks : list of int
        Blocks computed.
    produced : list of int
        Output rows written.
    complete : list of bool
        Whether the input has ended.
    """

    received: list[int]
    blocks: list[int]
    produced: list[int]
    complete: list[bool]

    @classmethod
    def start(cls, layers: int) -> Progress:
        """Before the first row."""
        return cls([0] * layers, [0] * layers, [0] * layers, [False] * layers)

    def copy(self) -> Progress:
        """A copy that shares nothing."""
        return Progress(
            list(self.received), list(self.blocks), list(self.produced), list(self.complete)
        )

    def since(self, earlier: Progress) -> Progress:
        """The counts since an earlier time; `complete` as it is now."""
        return Progress(
            [now - then for now, then in zip(self.received, earlier.received, strict=True)],
            [now - then for now, then in zip(self.blocks, earlier.blocks, strict=True)],
            [now - then for now, then in zip(self.produced, earlier.produced, strict=True)],
            list(self.complete),
        )

    def add(self, more: Progress) -> None:
        """Count on by what `since` gave."""
        self.received = [a + b for a, b in zip(self.received, more.received, strict=True)]
        self.blocks = [a + b for a, b in zip(self.blocks, more.blocks, strict=True)]
        self.produced = [a + b for a, b in zip(self.produced, more.produced, strict=True)]


@dataclass(frozen=True)
class StackState:
    """A deep copy of a stack's state: its progress and the rows it keeps for every layer."""

    progress: Progress
    windows: tuple[FloatArray, ...]
    skips: tuple[FloatArray | None, ...]
