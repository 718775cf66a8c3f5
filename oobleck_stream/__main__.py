"""Runs the command `oobleck_stream`, reports its errors, and sets its exit code.

The exit code is 0 after success, 1 after a failure, 2 after wrong usage or bad input, and 128 + N
after termination by signal N (130 after Ctrl-C).
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import warnings
from types import FrameType
from typing import TextIO

import click
from click.core import ParameterSource

from oobleck_stream.commands import commands
from oobleck_stream.commands.options import MODEL_VARIABLE
from oobleck_stream.errors import CheckpointError, CudaUnavailable, InputError, PlaybackError

FAILURE = 1
BAD_INPUT = 2
SIGNALLED = 128
INTERRUPTED = SIGNALLED + signal.SIGINT


def main() -> None:
    """Run the command line and exit with its code."""
    _occupy_closed_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # As standard error does by default.
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminate)
    warnings.showwarning = _print_warning
    sys.exit(run(sys.argv[1:]))


def _occupy_closed_descriptors() -> None:
    """Open placeholders for closed standard streams, so that no other file gets their descriptors.

    Reading from or writing to such a stream still fails, as if it were closed.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # `number` is the lowest free descriptor.


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        return int(commands.main(arguments, "oobleck_stream", standalone_mode=False) or 0)
    except click.BadParameter as error:
        return _report(_naming_the_variable(error).format_message(), BAD_INPUT)
    except click.ClickException as error:
        return _report(error.format_message(), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        if error.errno == errno.EBADF and sys.stdin is None:
            return _report("standard input is closed", BAD_INPUT)
        named = error.filename is not None and error.strerror
        return _report(f"{error.filename}: {error.strerror}" if named else str(error), FAILURE)
    except MemoryError:
        return _report("out of memory", FAILURE)
    except CheckpointError as error:
        return _report(f"{_variable_of(error, arguments)}{error}", BAD_INPUT)
    except Exception as error:
        return _report_expected(error)


def _naming_the_variable(error: click.BadParameter) -> click.BadParameter:
    """Return the error, which names the environment variable if the value came from one."""
    if error.ctx is not None and error.param is not None and error.param.name is not None:
        source = error.ctx.get_parameter_source(error.param.name)
        if source is ParameterSource.ENVIRONMENT:
            error.param_hint = f"${error.param.envvar}"
    return error


def _variable_of(error: CheckpointError, arguments: list[str]) -> str:
    """Return a message prefix if $OOBLECK_STREAM_MODEL named the model; else an empty string."""
    named = os.environ.get(MODEL_VARIABLE)
    if named and error.source.startswith(named) and not any(named in word for word in arguments):
        return f"${MODEL_VARIABLE}: "
    return ""


def _report_expected(error: Exception) -> int:
    """Report an error that the library raises on purpose; re-raise any other error as a bug."""
    if isinstance(error, InputError | CudaUnavailable):
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
    """Print a warning in one line, without its source location (see `warnings.showwarning`)."""
    click.echo(_one_line(str(message)), err=True)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _terminate(number: int, frame: FrameType | None) -> None:
    """Raise an exception that ends the process like Ctrl-C, so that open files are cleaned up."""
    sys.exit(SIGNALLED + number)


if __name__ == "__main__":
    main()
