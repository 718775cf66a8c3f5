"""`oobleck_stream warmup`: prepare the kernels in advance, so that the next start is fast."""

from __future__ import annotations

import time

import click

from oobleck_stream.commands.options import backend_option


@click.command()
@click.option(
    "--model",
    envvar="OOBLECK_STREAM_MODEL",
    metavar="MODEL",
    help="Also load this model and cache its packed weights. [default: $OOBLECK_STREAM_MODEL]",
)
@backend_option
def warmup(model: str | None, backend: str) -> None:
    """Compile and cache the kernels, so that the next start is fast."""
    from oobleck_stream.commands.choice import chosen_model, resolve_backend
    from oobleck_stream.commands.compiling import report_compiling, warm_kernels

    start = time.perf_counter()
    with report_compiling(backend):
        backend = resolve_backend(backend)
        warm_kernels(quiet=True, backend=backend)
    click.echo(f"kernels ready after {time.perf_counter() - start:.1f} s")
    if model is not None:
        start = time.perf_counter()
        network = chosen_model(model, backend=backend)
        click.echo(f"{network.name} ready after {time.perf_counter() - start:.1f} s")
