"""`oobleck_stream info`: a network's geometry, its cost, and its speed on this machine."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.options import (
    convolution_option,
    json_option,
    layout_option,
    look_ahead_option,
    model_for_latents_option,
    threads_option,
)

if TYPE_CHECKING:
    from oobleck_stream.config import Convolution
    from oobleck_stream.files.axis_order import AxisOrder
    from oobleck_stream.files.sources import Latents
    from oobleck_stream.model import Model
    from oobleck_stream.network import Layer

Facts = dict[str, Any]
PUSHES = (1, 4, 16)
"""The sizes of the timed pushes, in frames."""

REPETITIONS = 3
MAX_SECONDS = 3.0
"""The maximum seconds spent on repeating a push. A push that is expected to take longer than this
is skipped.
"""


@click.command()
@click.argument("latents", required=False, shell_complete=files)
@model_for_latents_option
@layout_option
@look_ahead_option("all of it")
@threads_option
@convolution_option
@click.option("--presets", is_flag=True, help="List the presets and exit.")
@json_option
def info(
    latents: str | None,
    model: str | None,
    layout: AxisOrder | None,
    look_ahead: Callable[[Model], int] | None,
    threads: int | None,
    convolution: Convolution | None,
    presets: bool,
    as_json: bool,
) -> None:
    """Show the file, geometry, cost and speed of a network.

    The speed is measured with a few pushes on this machine. If a file LATENTS is given, its length
    is shown too. With --look-ahead, the cost of that look-ahead is shown too.
    """
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.files.sources import open_latents

    if presets:
        show_presets(as_json)
        return
    source = open_latents(latents) if latents else None
    network = chosen_model(model, source, convolution=convolution)
    facts: Facts = {}
    if source is not None:
        facts["latents"] = latents_facts(source, network, layout)
    facts["network"] = network_facts(network)
    warm_kernels()
    facts["machine"] = machine_facts(network, threads)
    if look_ahead is not None:
        facts["early"] = early_facts(network, look_ahead(network), threads)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    lines = {
        "latents": latents_lines,
        "network": network_lines,
        "machine": machine_lines,
        "early": early_lines,
    }
    for part, values in facts.items():
        for line in lines[part](values):
            click.echo(line)


def show_presets(as_json: bool) -> None:
    """Print a line, or a JSON object, for each preset."""
    from oobleck_stream.config import PRESETS

    if as_json:
        facts = {name: dataclasses.asdict(config) for name, config in PRESETS.items()}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(repr(PRESETS))


def latents_facts(source: Latents, model: Model, layout: AxisOrder | None) -> Facts:
    """Return the shape of latents, and the length of the audio that `model` decodes them to."""
    frames = source.count(model.latent_dim, layout)
    return {
        "name": source.name,
        "shape": source.shape,
        "frames": frames,
        "seconds": None if frames is None else model.decoded_length(frames) / model.samplerate,
        "metadata": dict(source.metadata),
    }


def latents_lines(facts: Facts) -> list[str]:
    """Format the facts about the latents as lines of text."""
    if facts["frames"] is None:
        return [f"file       {facts['name']}: raw frames"]
    return [
        f"file       {facts['name']}: shape {tuple(facts['shape'])}",
        f"           {facts['frames']} frames, {facts['seconds']:.2f} s of audio",
    ]


def network_facts(model: Model) -> Facts:
    """Return the facts that follow from a model's geometry."""
    from oobleck_stream.network import multiplications

    config, layers = model.config, model.decoder.layers
    work = multiplications(layers)
    return {
        "name": model.name,
        "file": None if model.file is None else str(model.file),
        "samplerate": model.samplerate,
        "audio_channels": model.channels,
        "latent_dim": model.latent_dim,
        "strides": config.strides,
        "widths": config.widths,
        "convolution": config.convolution,
        "tiles": [max(layer.tile for layer in level) for level in reversed(_levels(layers))],
        "hop": model.hop,
        "frame_rate": config.frame_rate,
        "latency_samples": model.latency,
        "latency_seconds": model.latency / model.samplerate,
        "context_frames": model.context,
        "weights": _weights(layers),
        "weights_bytes": model.decoder.data.nbytes,
        "encoder": encoder_facts(model),
        "macs_per_frame": work,
        "macs_per_second": work * config.frame_rate,
        "notes": model.notes,
    }


def encoder_facts(model: Model) -> Facts:
    """Return whether a model has an encoder, with its size or the reason why there is none."""
    from oobleck_stream.errors import CheckpointError
    from oobleck_stream.loading import require_encoder
    from oobleck_stream.network import encoder_layers

    try:
        require_encoder(model)
    except CheckpointError as error:
        return {"present": False, "problem": "; ".join(error.problems)}
    return {"present": True, "weights": _weights(encoder_layers(model.config))}


def _weights(layers: Iterable[Layer]) -> int:
    return sum(layer.inputs * layer.outputs * layer.kernel for layer in layers)


def _levels(layers: Sequence[Layer]) -> list[Sequence[Layer]]:
    """Return the layers of each level of a decoder, from the latents to the audio.

    The first and the last layer of the decoder belong to no level.
    """
    starts = [index for index, layer in enumerate(layers) if layer.transposed]
    ends = [*starts[1:], len(layers) - 1]
    return [layers[start:end] for start, end in zip(starts, ends, strict=True)]


def network_lines(facts: Facts) -> list[str]:
    """Format the facts about the network as lines of text."""
    channels = {1: "mono", 2: "stereo"}.get(
        facts["audio_channels"], f"{facts['audio_channels']} channels"
    )
    strides = " ".join(map(str, facts["strides"]))
    widths = " ".join(map(str, facts["widths"]))
    tiles = " ".join(map(str, facts["tiles"]))
    encoder = facts["encoder"]
    return [
        f"network    {facts['name']}: {facts['samplerate']} Hz {channels}",
        *([f"           from {facts['file']}"] if facts["file"] else []),
        f"latents    {facts['latent_dim']} numbers per frame, {facts['frame_rate']:.2f} frames "
        f"per second, {facts['hop']} samples each",
        f"levels     strides {strides}; widths {widths}",
        f"           {facts['convolution']} convolution, in tiles of {tiles} rows",
        f"look-ahead {facts['latency_samples']} samples = "
        f"{1000 * facts['latency_seconds']:.0f} ms; "
        f"context {facts['context_frames']} frames on each side",
        f"weights    {facts['weights'] / 1e6:.1f} M, "
        f"{facts['weights_bytes'] / 1e6:.0f} MB in memory",
        "encoder    "
        + (f"{encoder['weights'] / 1e6:.1f} M" if encoder["present"] else encoder["problem"]),
        f"cost       {facts['macs_per_frame'] / 1e9:.3g} GMAC per frame, "
        f"{facts['macs_per_second'] / 1e9:.3g} GMAC per second of audio",
        *(f"note       {note}" for note in facts["notes"]),
    ]


def machine_facts(model: Model, threads: int | None) -> Facts:
    """Measure the real-time factors of pushes of `PUSHES` frames, and the process's peak memory."""
    from oobleck_stream.engine.backends import default_threads
    from oobleck_stream.memory import machine_memory, peak_memory

    factors: dict[int, float] = {}
    for frames in PUSHES:
        seconds = frames / model.config.frame_rate
        if factors and min(factors.values()) * seconds > MAX_SECONDS:
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
    """Format the facts about this machine as lines of text."""
    factors = facts["real_time_factors"]
    timings = ", ".join(f"{factor:.3f} at {frames}" for frames, factor in factors.items())
    fitting = [frames for frames, factor in factors.items() if factor < 1]
    verdict = f"plays live in pushes of {fitting[0]}" if fitting else "too slow to play live"
    lines = [
        f"speed      {verdict} with {facts['threads']} threads; real-time factor by frames per "
        f"push: {timings}"
    ]
    used, there = facts["memory_bytes"], facts["memory_of_machine_bytes"]
    if used and there:
        lines.append(f"memory     {used / 1e6:.0f} MB peak, of {there / 1e9:.1f} GB available")
    return lines


def early_facts(model: Model, look_ahead: int, threads: int | None) -> Facts:
    """Return the cost of early samples, for a look-ahead of `look_ahead` samples."""
    from oobleck_stream.bench.look_ahead import cost_facts
    from oobleck_stream.engine.backends import default_threads

    facts = cost_facts(model, [look_ahead], threads or default_threads(), MAX_SECONDS)
    return {"rtf_exact": facts["rtf_exact"], **facts["rows"][0]}


def early_lines(facts: Facts) -> list[str]:
    """Format the facts about early samples as lines of text."""
    return [
        f"early      look-ahead {facts['samples']} samples = {1e3 * facts['seconds']:.0f} ms, fade "
        f"{facts['fade']} samples: {facts['work']:.2f} times the work of an exact push of 1",
        f"           real-time factor {facts['rtf_early']:.3f}, without the exact stream "
        f"{facts['rtf_early_alone']:.3f}, exact push {facts['rtf_exact']:.3f}",
    ]


def real_time_factor(model: Model, frames: int, threads: int | None) -> float:
    """Time a few pushes of `frames` frames, and return the lowest real-time factor."""
    import numpy as np

    from oobleck_stream.decoder import StreamingDecoder

    decoder = StreamingDecoder(model, threads)
    generator = np.random.default_rng(0)

    def seconds(count: int) -> float:
        block = generator.standard_normal((count, model.latent_dim))
        start = time.perf_counter()
        decoder.push(block)
        return time.perf_counter() - start

    # Until the look-ahead is filled, a push returns less audio than it consumes.
    spent = 0.0
    while decoder.frames_in <= model.context and spent < MAX_SECONDS:
        spent += seconds(1)
    times = [seconds(frames)]
    while len(times) < REPETITIONS and sum(times) < MAX_SECONDS:
        times.append(seconds(frames))
    return min(times) * model.config.frame_rate / frames
