"""The memory of this process and its limits, and the variable that lifts limits on networks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

VARIABLE = "OOBLECK_STREAM_LIMITS"
"""The environment variable that lifts the limits if it is ``off``."""

INSIST = f"{VARIABLE}=off lifts this limit"
"""The end of every error message about a limit."""

_CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""The files that contain a container's memory limit, for version 2 and version 1 of Linux control
groups (https://docs.kernel.org/admin-guide/cgroup-v2.html)."""


def limits_lifted() -> bool:
    """Whether $OOBLECK_STREAM_LIMITS is ``off``, ``0``, ``no`` or ``false``, ignoring case."""
    return os.environ.get(VARIABLE, "").strip().lower() in ("off", "0", "no", "false")


def machine_memory() -> int | None:
    """The maximum memory that this process can use, in bytes.

    Returns
    -------
    int or None
        The smallest of the physical memory, the container's limit and the process's resource limits
        (``ulimit -v`` and ``ulimit -d``). None if the system reports none of these.
    """
    return min(_limits(), default=None)


def memory_shortage(size: int) -> str:
    """Return why `size` bytes of memory can't be used; an empty string if they can be used.

    They can't be used if `machine_memory` is less than `size` and the limits are not lifted.
    """
    there = machine_memory()
    if there is None or size <= there or limits_lifted():
        return ""
    return f"takes {_gigabytes(size)} of memory; {_gigabytes(there)} are there ({INSIST})"


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes, or None if the system does not report it."""
    if sys.platform == "win32":
        return None
    with contextlib.suppress(OSError):
        # On Linux, `ru_maxrss` is at least the memory that the parent process had at the fork.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, and others report KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def capped_trial(extra: int, trial: Callable[[], str]) -> str:
    """Call a function in a forked process in which allocating too much memory fails.

    This protects against libraries that allocate whatever size a file claims. Resource limits apply
    to a whole process, so a separate process is needed.

    Parameters
    ----------
    extra : int
        Number of bytes that `trial` may allocate.
    trial : callable
        A function that takes no arguments and returns a text.

    Returns
    -------
    str
        The text that `trial` returned. On systems other than Linux, or if the limits are lifted,
        `trial` is not called, and the text is empty.

    Raises
    ------
    MemoryError
        If `trial` raised an exception, or the forked process was killed.
    """
    if sys.platform != "linux" or limits_lifted():
        return ""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _cap_memory(extra)
            os.write(sender, trial().encode())
            os._exit(0)
        os._exit(1)
    os.close(sender)
    try:
        with open(receiver, encoding="utf-8") as pipe:
            text = pipe.read()
    finally:
        _, status = os.waitpid(child, 0)
    if status:
        raise MemoryError(f"a process that may allocate {_gigabytes(extra)} failed")
    return text


def _cap_memory(extra: int) -> None:
    """Limit this process's data memory to `extra` bytes more than it has now."""
    if sys.platform != "linux":
        raise NotImplementedError
    import resource

    # Field 6 of statm is the size of data and stack, in pages. Since Linux 4.7, RLIMIT_DATA also
    # covers private writable mappings, and thus large allocations (getrlimit(2)).
    data_pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = data_pages * os.sysconf("SC_PAGE_SIZE") + extra
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # Never raise a limit that is already set.
    limits = [limit for limit in (most, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))


def _gigabytes(size: int) -> str:
    return f"{min(size, 10**30) / 1e9:.3g} GB"


def _limits() -> Iterator[int]:
    """The memory limits that the system reports, in bytes."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(ValueError, OSError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _CGROUPS:
        with contextlib.suppress(ValueError, OSError):
            yield int(file.read_text())  # Not a number ("max") if there is no limit.
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft
