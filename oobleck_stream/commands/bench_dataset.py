"""`oobleck_stream bench dataset`: measure the encoding of data sets."""

from __future__ import annotations

import json

import click

from oobleck_stream.commands.options import json_option


@click.command()
@click.option(
    "--model",
    metavar="MODEL",
    default="tiny",
    show_default=True,
    help="Network, as for `dataset encode`.",
)
@click.option(
    "--files",
    metavar="N",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Number of files of mixed lengths.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1),
    help="Number of processes in the largest cluster. [default: the number of cores]",
)
@click.option(
    "--items",
    metavar="N",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Number of inputs in the data set for the repeated run.",
)
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    default=0.25,
    show_default=True,
    help="Length of the long file in hours.",
)
@click.option(
    "--folder",
    metavar="FOLDER",
    help="Where to create a temporary folder for the files. [default: as for tempfile]",
)
@json_option
def dataset(
    model: str,
    files: int,
    workers: int | None,
    items: int,
    hours: float,
    folder: str | None,
    as_json: bool,
) -> None:
    """Measure the encoding of data sets (needs the extra dask).

    The command encodes files in one process, with one thread and with --workers threads. It then
    encodes files in local clusters of 1, 2, 4... workers with one thread each. For strong scaling,
    every cluster encodes the same files. For weak scaling, the number of files grows with the
    number of workers.

    The command also measures the time that an empty task takes, the time of a repeated run in which
    everything is already done, and the memory of the workers that encode a long file.
    """
    from oobleck_stream.bench.dataset import dataset_facts, dataset_lines
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.dataset.engines import default_workers, require_dask

    require_dask()
    warm_kernels()
    facts = dataset_facts(model, files, workers or default_workers(), items, hours, folder)
    for line in [json.dumps(facts, indent=2)] if as_json else dataset_lines(facts):
        click.echo(line)
