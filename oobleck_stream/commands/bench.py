"""`oobleck_stream bench`: what this machine can do, and what the decoder makes of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.options import backend_option, threads_option
from oobleck_stream.commands.values import finite
from oobleck_stream.config import PRESETS

if TYPE_CHECKING:
    from oobleck_stream.model import Model

DEFAULT = "stable-audio-open-1.0"


def _counts(_: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Whole numbers from 1, with commas between."""
    if value is None:
        return None
    try:
        counts = sorted({int(part) for part in value.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1:
        raise click.BadParameter(f"{value!r} is not a list like 1,4,16", param=parameter)
    return counts


@click.command()
@click.option("--preset", metavar="NAME", help=f"Random weights for a preset. [default: {DEFAULT}]")
@click.option("--model", metavar="MODEL", help="A model, as for the other commands.")
@click.option("--width", type=click.IntRange(1), help="Channels of the preset's narrowest level.")
@threads_option
@backend_option
@click.option(
    "--pushes",
    metavar="N,N,...",
    callback=_counts,
    default="1,4,16",
    show_default=True,
    help="Frames of a push.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Frames of the full batch.",
)
@click.option("--layers", is_flag=True, help="Every layer's time.")
@click.option("--peers", is_flag=True, help="Other runtimes beside it (extra: peers).")
@click.option("--play", "plays", is_flag=True, help="Play live for --seconds instead.")
@click.option(
    "--streams",
    metavar="N,N,...",
    callback=_counts,
    help="So many streams side by side instead, a frame each.",
)
@click.option("--components", is_flag=True, help="The design document's components instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", metavar="FILE", help="Draw a picture, too (extra: plot).")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    callback=finite,
    help="How long to measure, about; there are three rounds at least.",
)
def bench(
    preset: str | None,
    model: str | None,
    width: int | None,
    threads: int | None,
    backend: str,
    pushes: list[int],
    batch: int,
    layers: bool,
    peers: bool,
    plays: bool,
    streams: list[int] | None,
    components: bool,
    as_json: bool,
    plot: str | None,
    seconds: float,
) -> None:
    """Measure the machine's limits and the decoder, in pushes and in full batches.

    Each measurement takes its turn in every round, so that whatever else the machine does hits all
    alike.
    """
    if model and (preset or width):
        raise click.UsageError("--model goes with neither --preset nor --width")
    if preset is not None and preset not in PRESETS:
        raise click.UsageError(f"--preset: {preset!r} is none of {', '.join(PRESETS)}")
    if streams and (layers or peers or plays or components or plot):
        raise click.UsageError(
            "--streams goes with none of --layers, --peers, --play, --components and --plot"
        )
    if backend != "cpu" and (layers or peers or components or plot):
        raise click.UsageError(
            f"--backend {backend} goes with none of --layers, --peers, --components and --plot"
        )
    if components and (model or preset or layers or peers or plays or plot):
        raise click.UsageError(
            "--components goes only with --width, --threads, --seconds and --json"
        )
    if plot:
        _require_matplotlib()

    from oobleck_stream.bench.run import run_benchmark
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.engine.backends import default_threads

    if components:
        _components(warm_kernels, threads or default_threads(), seconds, width, as_json)
        return
    from oobleck_stream.commands.choice import told_backend

    backend = told_backend(backend)
    make = partial(_model, model, preset or DEFAULT, width, backend)
    warm = partial(warm_kernels, backend=backend)
    if plays:
        _play(make, warm, threads or default_threads(), seconds, as_json)
        return
    if streams:
        _streams(make, warm, threads or default_threads(), streams, seconds, as_json)
        return
    facts = run_benchmark(
        make,
        warm,
        threads or default_threads(),
        pushes,
        batch,
        seconds,
        layers=layers,
        peers=peers,
    )
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        from oobleck_stream.bench.report import report_lines

        for line in report_lines(facts):
            click.echo(line)
    if plot:
        from oobleck_stream.bench.plot import write_plot

        write_plot(facts, plot)


def _play(
    make: Callable[[], Model],
    warm: Callable[[], None],
    threads: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Time the player and print what came of it."""
    from oobleck_stream.bench.playing import play_facts, play_lines

    warm()
    facts = play_facts(make(), threads, seconds)
    for line in [json.dumps(facts, indent=2)] if as_json else play_lines(facts):
        click.echo(line)


def _components(
    warm: Callable[[], None], threads: int, seconds: float, width: int | None, as_json: bool
) -> None:
    """Time the document's components and print their table."""
    from oobleck_stream.bench.component_report import component_lines
    from oobleck_stream.bench.component_times import run_components

    facts = run_components(warm, threads, seconds, width)
    for line in [json.dumps(facts, indent=2)] if as_json else component_lines(facts):
        click.echo(line)


def _streams(
    make: Callable[[], Model],
    warm: Callable[[], None],
    threads: int,
    counts: list[int],
    seconds: float,
    as_json: bool,
) -> None:
    """Time many streams side by side and print what came of it."""
    from oobleck_stream.bench.streams import stream_facts, stream_lines

    warm()
    facts = stream_facts(make(), threads, counts, seconds)
    for line in [json.dumps(facts, indent=2)] if as_json else stream_lines(facts):
        click.echo(line)


def _model(source: str | None, preset: str, width: int | None, backend: str) -> Model:
    """The model that is asked for, or random weights."""
    from oobleck_stream.loading import load
    from oobleck_stream.model import random_model

    if source is not None:
        return load(source, backend=backend)
    if width is None:
        return random_model(preset, backend=backend)
    model = random_model(PRESETS[preset].replace(channels=width), backend=backend)
    return dataclasses.replace(model, name=f"random {preset} of width {width}")


def _require_matplotlib() -> None:
    """Say it before minutes of measuring."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: pip install 'oobleck_stream[plot]'")
