"""`oobleck_stream look-ahead`: measure the error and the cost of early samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.options import (
    json_option,
    layout_option,
    look_ahead_option,
    model_for_latents_option,
    plot_option,
    require_matplotlib,
    threads_option,
)
from oobleck_stream.commands.values import finite

if TYPE_CHECKING:
    from oobleck_stream.arrays import FloatArray
    from oobleck_stream.files.axis_order import AxisOrder
    from oobleck_stream.files.sources import Latents
    from oobleck_stream.model import Model

MAX_FRAMES = 1000
"""Default of --frames, the maximum number of measured frames."""


@click.command("look-ahead")
@click.argument("latents", required=False, shell_complete=files)
@model_for_latents_option
@layout_option
@look_ahead_option("5, 10, 15, 25, 50 and 75%")
@click.option(
    "--frames",
    metavar="N",
    type=click.IntRange(1),
    default=MAX_FRAMES,
    show_default=True,
    help="Measure at most the first N frames.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    callback=finite,
    help="Approximate duration of the time measurements.",
)
@threads_option
@json_option
@plot_option
def look_ahead(
    latents: str | None,
    model: str | None,
    layout: AxisOrder | None,
    look_ahead: Callable[[Model], int] | None,
    frames: int,
    seconds: float,
    threads: int | None,
    as_json: bool,
    plot: str | None,
) -> None:
    """Measure the loss and the cost of a shorter look-ahead.

    With less look-ahead than the network has, samples are returned before all frames that they
    depend on are known. The command measures several look-aheads, or only --look-ahead. For each,
    it prints how far the early sound of LATENTS is from the exact sound, and the cost of a push of
    one frame. Without LATENTS, it uses the bundled piece `keys` if the network is tiny. For other
    networks, it uses random latents, and the measured error says little about music.
    """
    if plot:
        require_matplotlib()
    from oobleck_stream.bench.look_ahead import SHARES, look_ahead_facts, look_ahead_lines
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.engine.backends import default_threads
    from oobleck_stream.files.sources import open_latents

    source = open_latents(latents) if latents else None
    network = chosen_model(model, source)
    samples = [round(share * network.latency) for share in SHARES]
    if look_ahead is not None:
        samples = [look_ahead(network)]
    measured = _latents(source, network, layout)[:frames]
    warm_kernels()
    facts = look_ahead_facts(network, measured, samples, threads or default_threads(), seconds)
    for line in [json.dumps(facts, indent=2)] if as_json else look_ahead_lines(facts):
        click.echo(line)
    if plot:
        from oobleck_stream.bench.look_ahead_plot import write_look_ahead_plot

        write_look_ahead_plot(facts, plot)


def _latents(source: Latents | None, model: Model, layout: AxisOrder | None) -> FloatArray:
    """Return the latents to measure, (frames, latent_dim)."""
    import numpy as np

    from oobleck_stream.bench.start import random_latents
    from oobleck_stream.files.latents_reader import LatentFile
    from oobleck_stream.pieces import piece

    if isinstance(source, LatentFile):
        return source.frames(model.latent_dim, layout)
    if source is not None:
        return np.concatenate(list(source.blocks(model.latent_dim, layout)))
    keys = piece("keys")
    if model.name == "tiny" and keys.shape[1] == model.latent_dim:
        # Skip the beginning of the piece, which is quiet.
        return keys[2000:]
    return random_latents(model, MAX_FRAMES // 5)
