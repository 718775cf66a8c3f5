"""The command `oobleck_stream`: error messages, and exit codes.

The exit code is 0 after success, 1 after a failure, 2 after wrong usage or bad input, and 128 + N
after termination by signal N (130 after Ctrl-C).
"""

from __future__ import annotations

import signal
import sys
import warnings
from types import FrameType
from typing import TextIO

import click

from oobleck_stream.commands import commands
from oobleck_stream.errors import CheckpointError, CudaUnavailable, InputError, PlaybackError

FAILURE = 1
BAD_INPUT = 2
SIGNALLED = 128
INTERRUPTED = SIGNALLED + signal.SIGINT


def main() -> None:
    """Run the command line and exit with its code."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminate)
    warnings.showwarning = _print_warning
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        return int(commands.main(arguments, "oobleck_stream", standalone_mode=False) or 0)
    except click.ClickException as error:
        return _report(error.format_message(), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        named = error.filename is not None and error.strerror
        return _report(f"{error.filename}: {error.strerror}" if named else str(error), FAILURE)
    except MemoryError:
        return _report("out of memory", FAILURE)
    except Exception as error:
        return _report_expected(error)


def _report_expected(error: Exception) -> int:
    """Report an error that the library raises on purpose; raise any other error again, as a bug."""
    if isinstance(error, InputError | CheckpointError | CudaUnavailable):
        return _report(str(error), BAD_INPUT)
    if isinstance(error, PlaybackError):
        return _report(str(error), FAILURE)
    raise error


def _report(message: str, status: int) -> int:
    """Print an error in one line, and return the exit code."""
    click.echo(f"oobleck_stream: {_one_line(message)}", err=True)
    return status


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning in one line, without its position in the source (see `showwarning`)."""
    click.echo(_one_line(str(message)), err=True)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _terminate(number: int, frame: FrameType | None) -> None:
    """Raise an exception that ends the process, as Ctrl-C does: open files are cleaned up."""
    sys.exit(SIGNALLED + number)


if __name__ == "__main__":
    main()
