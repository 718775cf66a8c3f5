"""`oobleck_stream info`: what a network is, what it costs, and whether this machine can play it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from oobleck_stream.commands.options import layout_option, model_option, threads_option

if TYPE_CHECKING:
    from oobleck_stream.files.axis_order import AxisOrder
    from oobleck_stream.files.sources import Latents
    from oobleck_stream.model import Model

Facts = dict[str, Any]
PUSHES = (1, 4, 16)
TRIES = 3
PATIENCE = 3.0
"""Seconds after which nothing is repeated; larger pushes that would take longer are not tried."""


@click.command()
@click.argument("latents", required=False)
@model_option
@layout_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(
    latents: str | None,
    model: str | None,
    layout: AxisOrder | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Tell about a network, and about LATENTS if given; times a few pushes on this machine."""
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.files.sources import open_latents

    source = open_latents(latents) if latents else None
    network = chosen_model(model, source)
    facts: Facts = {}
    if source is not None:
        facts["latents"] = latents_facts(source, network, layout)
    facts["network"] = network_facts(network)
    warm_kernels()
    facts["machine"] = machine_facts(network, threads)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for part, values in facts.items():
        for line in {"latents": latents_lines, "network": network_lines, "machine": machine_lines}[
            part
        ](values):
            click.echo(line)


def latents_facts(source: Latents, model: Model, layout: AxisOrder | None) -> Facts:
    """Shape and length of latents for a model."""
    frames = source.count(model.latent_dim, layout)
    return {
        "name": source.name,
        "shape": source.shape,
        "frames": frames,
        "seconds": None if frames is None else model.decoded_length(frames) / model.samplerate,
        "metadata": dict(source.metadata),
    }


def latents_lines(facts: Facts) -> list[str]:
    """For people."""
    if facts["frames"] is None:
        return [f"file       {facts['name']}: raw frames"]
    return [
        f"file       {facts['name']}: shape {tuple(facts['shape'])}",
        f"           {facts['frames']} frames, {facts['seconds']:.2f} s of sound",
    ]


def network_facts(model: Model) -> Facts:
    """What follows from a model's geometry."""
    from oobleck_stream.network import multiplications

    config, layers = model.config, model.decoder.layers
    work = multiplications(layers)
    return {
        "name": model.name,
        "samplerate": model.samplerate,
        "audio_channels": model.channels,
        "latent_dim": model.latent_dim,
        "strides": config.strides,
        "widths": config.widths,
        "hop": model.hop,
        "frame_rate": config.frame_rate,
        "latency_samples": model.latency,
        "latency_seconds": model.latency / model.samplerate,
        "context_frames": model.context,
        "weights": sum(layer.inputs * layer.outputs * layer.kernel for layer in layers),
        "weights_bytes": model.decoder.data.nbytes,
        "macs_per_frame": work,
        "macs_per_second": work * config.frame_rate,
        "notes": model.notes,
    }


def network_lines(facts: Facts) -> list[str]:
    """For people."""
    channels = {1: "mono", 2: "stereo"}.get(
        facts["audio_channels"], f"{facts['audio_channels']} channels"
    )
    strides = " ".join(map(str, facts["strides"]))
    widths = " ".join(map(str, facts["widths"]))
    return [
        f"network    {facts['name']}: {facts['samplerate']} Hz {channels}",
        f"latents    {facts['latent_dim']} numbers a frame, {facts['frame_rate']:.2f} frames a "
        f"second, {facts['hop']} samples each",
        f"levels     strides {strides}; widths {widths}",
        f"look-ahead {facts['latency_samples']} samples = "
        f"{1000 * facts['latency_seconds']:.0f} ms; "
        f"context {facts['context_frames']} frames on each side",
        f"weights    {facts['weights'] / 1e6:.1f} M, "
        f"{facts['weights_bytes'] / 1e6:.0f} MB in memory",
        f"cost       {facts['macs_per_frame'] / 1e9:.3g} GMAC a frame, "
        f"{facts['macs_per_second'] / 1e9:.3g} GMAC/s of sound",
        *(f"note       {note}" for note in facts["notes"]),
    ]


def machine_facts(model: Model, threads: int | None) -> Facts:
    """Memory, and time per second of sound for pushes of some sizes, measured here and now."""
    from oobleck_stream.engine.backends import default_threads
    from oobleck_stream.memory import machine_memory

    factors: dict[int, float] = {}
    for frames in PUSHES:
        seconds = frames / model.config.frame_rate
        if factors and min(factors.values()) * seconds > PATIENCE:
            break
        factors[frames] = real_time_factor(model, frames, threads)
    return {
        "threads": threads or default_threads(),
        "real_time_factors": factors,
        "plays_live": min(factors.values()) < 1,
        "memory_bytes": peak_memory(),
        "memory_of_machine_bytes": machine_memory(),
    }


def machine_lines(facts: Facts) -> list[str]:
    """For people."""
    factors = facts["real_time_factors"]
    timings = ", ".join(f"{factor:.3f} at {frames}" for frames, factor in factors.items())
    fitting = [frames for frames, factor in factors.items() if factor < 1]
    verdict = f"plays live in pushes of {fitting[0]}" if fitting else "too slow to play live"
    lines = [
        f"speed      {verdict} with {facts['threads']} threads; seconds a second of sound takes, "
        f"by frames a push: {timings}"
    ]
    used, there = facts["memory_bytes"], facts["memory_of_machine_bytes"]
    if used and there:
        lines.append(f"memory     {used / 1e6:.0f} MB used at most, of {there / 1e9:.1f} GB here")
    return lines


def real_time_factor(model: Model, frames: int, threads: int | None) -> float:
    """Seconds that a second of sound takes in pushes of some frames: the best of a few."""
    import numpy as np

    from oobleck_stream.decoder import StreamingDecoder

    decoder = StreamingDecoder(model, threads)
    generator = np.random.default_rng(0)

    def seconds(count: int) -> float:
        block = generator.standard_normal((count, model.latent_dim))
        start = time.perf_counter()
        decoder.push(block)
        return time.perf_counter() - start

    # Until the look-ahead is filled, a push gives out less than it takes in.
    spent = 0.0
    while decoder.frames_in <= model.context and spent < PATIENCE:
        spent += seconds(1)
    times = [seconds(frames)]
    while len(times) < TRIES and sum(times) < PATIENCE:
        times.append(seconds(frames))
    return min(times) * model.config.frame_rate / frames


def peak_memory() -> int | None:
    """Bytes that this process has had at most, where the system tells."""
    import sys

    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
