"""Makes a process look like one on Windows or macOS, as far as Python code can tell.

``python tests/foreign_system.py win32`` runs the commands of `oobleck_stream` that it reads from
standard input, one a line, and prints their exit codes. The libraries that the package depends on
are imported before, and are still those of Linux.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib
import io
import mmap
import os
import shlex
import shutil
import signal
import sys
import time
import types
from pathlib import Path

LIBRARIES = (
    *("click", "llvmlite.binding", "numba", "numpy", "safetensors.numpy"),
    *("soundfile", "soxr", "tqdm", "uvicorn"),
)

ABSENT: dict[str, dict[types.ModuleType, tuple[str, ...]]] = {
    "win32": {
        os: (
            *("fork", "geteuid", "getpgrp", "getuid", "killpg", "mkfifo", "register_at_fork"),
            *("sched_getaffinity", "setsid", "statvfs", "sysconf", "tcgetpgrp"),
            *("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"),
        ),
        mmap: ("MADV_HUGEPAGE", "MAP_ANONYMOUS", "MAP_PRIVATE", "MAP_SHARED"),
        signal: ("SIGALRM", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGSTOP", "alarm"),
        time: ("CLOCK_BOOTTIME", "clock_gettime"),
    },
    "linux": {},
    "darwin": {
        os: ("sched_getaffinity",),
        mmap: ("MADV_HUGEPAGE",),
        time: ("CLOCK_BOOTTIME",),
    },
}
"""What the modules of the standard library lack there."""

ABSENT_MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "tty")
"""What Windows lacks of the standard library."""


def become(system: str) -> None:
    """Take away what this process would not have on ``"win32"`` or ``"darwin"``."""
    for name in LIBRARIES:
        importlib.import_module(name)
    # It asks for the system whenever it opens a file.
    sys.modules["soundfile"]._sys = types.SimpleNamespace(**vars(sys))
    for module, names in ABSENT[system].items():
        for name in names:
            delattr(module, name)
    for name in ABSENT_MODULES if system == "win32" else ():
        sys.modules[name] = None
    sys.platform = system
    if system == "win32":
        asyncio.SelectorEventLoop.add_signal_handler = refuse_signal_handler
        translate_newlines()
        protect_open_files()


def refuse_signal_handler(*_):
    raise NotImplementedError


def translate_newlines():
    r"""Let text files be written with ``\r\n``, unless `open` is told otherwise."""
    plain_open = open

    def open_text(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more):
        if newline is None and "b" not in mode and "r" not in mode:
            newline = "\r\n"
        return plain_open(file, mode, buffering, encoding, errors, newline, **more)

    builtins.open = io.open = open_text


def protect_open_files():
    """Let no open or mapped file be removed, renamed or replaced, and no folder be opened."""
    for name, paths in {"rename": 2, "replace": 2, "remove": 1, "rmdir": 1, "unlink": 1}.items():
        setattr(os, name, refusing(getattr(os, name), paths))
    plain_open = os.open

    def open_file(path, flags, mode=0o777):
        if os.path.isdir(path) and flags & os.O_TMPFILE != os.O_TMPFILE:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return plain_open(path, flags, mode)

    os.open = open_file
    shutil._use_fd_functions = False


def refusing(change, paths):
    """Make a function of `os` refuse if one of its first `paths` arguments is in use."""

    def refuse(*arguments):
        for path in arguments[:paths]:
            folder, name = os.path.split(os.fsdecode(path))
            real = os.path.join(os.path.realpath(folder), name)
            if any(f"{used}/".startswith(f"{real}/") for used in paths_in_use()):
                raise PermissionError(13, "The file is used by a process", os.fsdecode(path))
        return change(*arguments)

    return refuse


def paths_in_use() -> set[str]:
    """The paths of the files that this process has opened or mapped."""
    found = {line.split(None, 5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    for link in Path("/proc/self/fd").iterdir():
        if not link.is_dir():
            found.add(os.path.realpath(link))
    return found


if __name__ == "__main__":
    become(sys.argv[1])
    from oobleck_stream.__main__ import run

    for line in sys.stdin.read().splitlines():
        print(run(shlex.split(line)), line, flush=True)
