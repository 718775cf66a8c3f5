"""`oobleck_stream warmup`: all that is done once on a machine, done now."""

from __future__ import annotations

import time

import click

from oobleck_stream.commands.options import backend_option, model_option


@click.command()
@model_option
@backend_option
def warmup(model: str | None, backend: str) -> None:
    """Compile the kernels, and pack a model's weights, so that the next start is quick."""
    from oobleck_stream.commands.choice import chosen_model, told_backend
    from oobleck_stream.commands.compiling import compiling_told, warm_kernels

    start = time.perf_counter()
    with compiling_told(backend):
        backend = told_backend(backend)
        warm_kernels(quiet=True, backend=backend)
    click.echo(f"kernels ready after {time.perf_counter() - start:.1f} s")
    if model is not None:
        start = time.perf_counter()
        network = chosen_model(model, backend=backend)
        click.echo(f"{network.name} ready after {time.perf_counter() - start:.1f} s")
