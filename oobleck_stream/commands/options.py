"""Options that several commands share."""

from __future__ import annotations

import click

_MODELS = (
    "A folder, a .safetensors file, a hub id (org/name), tiny, or random:PRESET, such as "
    "random:stable-audio-open-1.0."
)

model_option = click.option(
    "--model",
    envvar="OOBLECK_STREAM_MODEL",
    metavar="MODEL",
    help=f"{_MODELS} "
    "[default: $OOBLECK_STREAM_MODEL, else what the latents name, else tiny if it fits]",
)
network_option = click.option(
    "--model",
    envvar="OOBLECK_STREAM_MODEL",
    metavar="MODEL",
    help=f"{_MODELS} [default: $OOBLECK_STREAM_MODEL, else tiny]",
)
layout_option = click.option(
    "--layout",
    type=click.Choice(["tc", "ct"]),
    help="Axes of the latents, time first (tc) or channels first (ct), where both would fit.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    envvar="OOBLECK_STREAM_THREADS",
    help="Threads to work with. [default: $OOBLECK_STREAM_THREADS, else all cores]",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "cpu", "cuda"]),
    envvar="OOBLECK_STREAM_BACKEND",
    default="cpu",
    help="Decode on the CPU or on a GPU (extra: cuda12 or cuda13); auto: on a GPU if there is one. "
    "[default: $OOBLECK_STREAM_BACKEND, else cpu]",
)
