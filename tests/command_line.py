"""Running `oobleck_stream` commands: in this process, or in a new one as a user does."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from oobleck_stream.__main__ import run

COMMAND = [sys.executable, "-m", "oobleck_stream"]
PATIENCE = 300
"""Seconds that a command in a new process may take."""


@dataclass
class Done:
    """The exit code of a command, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments, data: bytes = b"") -> Done:
    """Run a command in this process, with `data` as standard input."""
    out, err = io.StringIO(), io.StringIO()
    with (
        standard_input(data),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = run([str(argument) for argument in arguments])
    return Done(status, out.getvalue(), err.getvalue())


def run_process(*arguments, data: bytes = b"", env: dict[str, str] | None = None) -> Done:
    """Run a command in a new process, with `data` as standard input."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=data,
        env=None if env is None else os.environ | env,
        capture_output=True,
        timeout=PATIENCE,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextlib.contextmanager
def standard_input(data: bytes):
    """Let file descriptor 0 read `data`, which is where commands read standard input."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        before = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(before, 0)
            os.close(before)


def assert_refused(done: Done, *words: str, notes: int = 0) -> None:
    """Exit code 2, one line on standard error after `notes` others, nothing on standard output."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == notes + 1, done.stderr
    assert lines[-1].startswith("oobleck_stream: ")
    for word in words:
        assert word in lines[-1]
