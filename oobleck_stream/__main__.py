"""The command `oobleck_stream`: what it prints when something goes wrong, and its exit codes.

0: done. 1: something failed. 2: bad usage or bad input. 128 and more: ended by a signal (130 by
Ctrl-C).
"""

from __future__ import annotations

import signal
import sys
import warnings
from types import FrameType
from typing import TextIO

import click

from oobleck_stream.commands import commands

BAD_INPUT = 2
SIGNALLED = 128
INTERRUPTED = SIGNALLED + signal.SIGINT


def main() -> None:
    """Run the command line and leave Python with its exit code."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminate)
    warnings.showwarning = _tell_warning
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    try:
        return int(commands.main(arguments, "oobleck_stream", standalone_mode=False) or 0)
    except click.ClickException as error:
        return _failed(error.format_message(), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        named = error.filename is not None and error.strerror
        return _failed(f"{error.filename}: {error.strerror}" if named else str(error), 1)
    except MemoryError:
        return _failed("out of memory", 1)
    except Exception as error:
        return _unless_a_bug(error)


def _unless_a_bug(error: Exception) -> int:
    """What is nobody's bug is told in a line; for anything else the traceback is wanted."""
    from oobleck_stream.errors import CheckpointError, CudaUnavailable, InputError, PlaybackError

    if isinstance(error, InputError | CheckpointError | CudaUnavailable):
        return _failed(str(error), BAD_INPUT)
    if isinstance(error, PlaybackError):
        return _failed(str(error), 1)
    raise error


def _failed(message: str, status: int) -> int:
    """Say why in one line."""
    line = " ".join(message.split())
    click.echo(f"oobleck_stream: {line}", err=True)
    return status


def _tell_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as a line, without the place in the code that it comes from."""
    click.echo(" ".join(str(message).split()), err=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Leave as after Ctrl-C, so that whatever is open is put in order."""
    sys.exit(SIGNALLED + number)


if __name__ == "__main__":
    main()
