"""The command line: every command is a module of this package with a function of its name."""

from __future__ import annotations

import importlib

import click

from oobleck_stream.version import __version__

NAMES = (
    "demo",
    "play",
    "decode",
    "encode",
    "roundtrip",
    "validate",
    "info",
    "convert",
    "bench",
    "warmup",
)


class _Commands(click.Group):
    """Imports a command's module when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(NAMES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in NAMES:
            return None
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{name}"), name)
        return command


@click.command(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="oobleck_stream")
@click.pass_context
def commands(context: click.Context) -> None:
    """Turn latents of Oobleck audio autoencoders into sound, exactly, while they arrive."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
