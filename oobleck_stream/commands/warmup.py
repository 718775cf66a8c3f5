"""`oobleck_stream warmup`: all that is done once on a machine, done now."""

from __future__ import annotations

import time

import click

from oobleck_stream.commands.options import model_option


@click.command()
@model_option
def warmup(model: str | None) -> None:
    """Compile the kernels, and pack a model's weights, so that the next start is quick."""
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels

    start = time.perf_counter()
    warm_kernels()
    click.echo(f"kernels ready after {time.perf_counter() - start:.1f} s")
    if model is not None:
        start = time.perf_counter()
        network = chosen_model(model)
        click.echo(f"{network.name} ready after {time.perf_counter() - start:.1f} s")
