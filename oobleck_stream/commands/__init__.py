"""The command line. Each command is a function in a module of the same name."""

from __future__ import annotations

import importlib

import click

from oobleck_stream.version import __version__

NAMES = (
    "demo",
    "play",
    "serve",
    "decode",
    "encode",
    "dataset",
    "roundtrip",
    "validate",
    "info",
    "look-ahead",
    "convert",
    "bench",
    "warmup",
)

EPILOG = """
\b
Environment:
  OOBLECK_STREAM_MODEL    default of --model
  OOBLECK_STREAM_THREADS  default of --threads
  OOBLECK_STREAM_BACKEND  default of --backend
  OOBLECK_STREAM_CACHE    cache folder; "off" disables the cache
  OOBLECK_STREAM_LIMITS   "off" lifts the limits on a model's memory and work

\b
Completion in bash (zsh and fish: zsh_source, fish_source):
  eval "$(_OOBLECK_STREAM_COMPLETE=bash_source oobleck_stream)"

\b
Exit status:
  0 success, 1 failure, 2 wrong usage or bad input, 128+N terminated by signal N
"""


class _LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(NAMES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in NAMES:
            return None
        function = name.replace("-", "_")
        module = importlib.import_module(f"{__name__}.{function}")
        command: click.Command = getattr(module, function)
        return command


@click.command(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="oobleck_stream")
@click.pass_context
def commands(context: click.Context) -> None:
    """Decode the latents of Oobleck audio autoencoders as an exact stream.

    The audio is bit-identical to the audio from decoding the whole piece at once. Run
    `oobleck_stream COMMAND --help` for the options of a command.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
