"""The memory of this machine, and whether the limits on what a file may make it do apply."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_capping = threading.Lock()

VARIABLE = "OOBLECK_STREAM_LIMITS"

INSIST = f"{VARIABLE}=off lifts this limit"
"""The end of every message that refuses something for its size."""

_CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container finds its memory limit, in control groups of version 2 and 1."""


def limits_lifted() -> bool:
    """Whether $OOBLECK_STREAM_LIMITS is ``off``."""
    return os.environ.get(VARIABLE, "").strip().lower() in ("off", "0", "no", "false")


def machine_memory() -> int | None:
    """Bytes of memory that this process may use.

    Returns
    -------
    int or None
        The smallest of the physical memory, the container's limit and the process's resource
        limits (``ulimit -v`` and ``ulimit -d``). None where the system reports none of them.
    """
    return min(_limits(), default=None)


def memory_shortage(size: int) -> str:
    """Why something that takes `size` bytes is refused; an empty string if it is not.

    It is refused if this machine has less memory than that, unless the limits are lifted.
    """
    there = machine_memory()
    if there is None or size <= there or limits_lifted():
        return ""
    return f"takes {_gigabytes(size)} of memory; {_gigabytes(there)} are there ({INSIST})"


@contextlib.contextmanager
def memory_capped(extra: int) -> Iterator[None]:
    """Let this process take only so many bytes more in the block; beyond that, allocation fails.

    For libraries that take memory for whatever a file claims. The cap holds for all threads. Only
    Linux has it; elsewhere, and where the limits are lifted, the block runs without.
    """
    if sys.platform != "linux" or limits_lifted():
        yield
        return
    import resource

    with _capping:
        data_pages = int(Path("/proc/self/statm").read_text().split()[5])
        most = data_pages * os.sysconf("SC_PAGE_SIZE") + extra
        before = resource.getrlimit(resource.RLIMIT_DATA)
        caps = [most, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_DATA, (min(caps), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _gigabytes(size: int) -> str:
    return f"{min(size, 10**30) / 1e9:.3g} GB"


def _limits() -> Iterator[int]:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _CGROUPS:
        with contextlib.suppress(ValueError, OSError):
            yield int(file.read_text())  # "max" where there is no limit.
    if sys.platform != "win32":
        import resource

        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                yield soft
