"""Options that several commands share."""

from __future__ import annotations

import click

model_option = click.option(
    "--model",
    metavar="MODEL",
    help="A folder, a .safetensors file, a hub id (org/name), tiny, or random:PRESET. "
    "[default: $OOBLECK_STREAM_MODEL, else what the latents name, else tiny if it fits]",
)
layout_option = click.option(
    "--layout",
    type=click.Choice(["tc", "ct"]),
    help="Axes of the latents, time first (tc) or channels first (ct), where both would fit.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="Threads to decode with. [default: $OOBLECK_STREAM_THREADS, else all cores]",
)
