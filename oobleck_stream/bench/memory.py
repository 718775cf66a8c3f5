"""Resident memory of this process, where the system tells it apart."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from oobleck_stream.arrays import FloatArray

ROLLUP = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True)
class Memory:
    """Resident bytes: of no file, and of mapped files (programs and libraries among them)."""

    anonymous: int
    mapped: int


def resident_memory() -> Memory | None:
    """What is resident now; None where the system does not tell (all but Linux)."""
    try:
        lines = ROLLUP.read_text().splitlines()[1:]
    except OSError:
        return None
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return Memory(sizes["Anonymous"], sizes["Rss"] - sizes["Anonymous"])


def is_mapped(array: FloatArray) -> bool:
    """Whether an array's memory is that of a mapped file."""
    base: object = array
    while base is not None:
        if isinstance(base, mmap.mmap):
            return True
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return False
