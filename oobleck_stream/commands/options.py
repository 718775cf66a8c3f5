"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from oobleck_stream.commands.completion import files, models
from oobleck_stream.commands.values import look_ahead, seconds_or
from oobleck_stream.config import PRESETS

MODEL_VARIABLE = "OOBLECK_STREAM_MODEL"
"""The environment variable with the default of ``--model``."""

_MODELS = (
    "Model: a folder, a .safetensors file, a Hugging Face id (ORGANISATION/NAME), tiny (bundled), "
    "or random:PRESET for random weights."
)

# For commands that read latents. A file of latents may name the model that encoded them.
model_for_latents_option = click.option(
    "--model",
    envvar=MODEL_VARIABLE,
    metavar="MODEL",
    shell_complete=models,
    help=f"{_MODELS} "
    "[default: $OOBLECK_STREAM_MODEL, else the model named in the latents, else tiny if it fits]",
)
model_option = click.option(
    "--model",
    envvar=MODEL_VARIABLE,
    metavar="MODEL",
    shell_complete=models,
    help=f"{_MODELS} [default: $OOBLECK_STREAM_MODEL, else tiny]",
)
config_option = click.option(
    "--config",
    type=click.Choice(list(PRESETS)),
    metavar="PRESET",
    help="Geometry of the network, instead of the model's own config.",
)
start_option = click.option(
    "--start",
    metavar="SECONDS",
    default="0",
    show_default=True,
    callback=seconds_or(),
    help="Start position within each piece.",
)
length_option = click.option(
    "--length",
    metavar="SECONDS",
    callback=seconds_or(),
    help="Maximum duration of each piece. [default: the whole piece]",
)
layout_option = click.option(
    "--layout",
    type=click.Choice(["tc", "ct"]),
    help="Order of the axes of the latents, needed if the shape fits both orders: tc is (frames, "
    "latent size), ct is (latent size, frames).",
)
threads_option = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 256),
    envvar="OOBLECK_STREAM_THREADS",
    help="Number of threads. [default: $OOBLECK_STREAM_THREADS, else all cores]",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "cpu", "cuda"]),
    envvar="OOBLECK_STREAM_BACKEND",
    default="cpu",
    help="Where to decode: cpu, cuda (a GPU; needs the extra cuda12 or cuda13), or auto (a GPU if "
    "possible, else the CPU). [default: $OOBLECK_STREAM_BACKEND, else cpu]",
)
convolution_option = click.option(
    "--convolution",
    type=click.Choice(["fast", "direct"]),
    help="Method for the convolutions of wide networks: fast needs fewer multiplications, direct "
    "has a shorter look-ahead. The results differ in their rounding. [default: as the network's "
    "config says, else fast]",
)


def look_ahead_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --look-ahead. Its help text describes the default as `default`."""
    return click.option(
        "--look-ahead",
        metavar="TIME|%",
        callback=look_ahead,
        help="How long to wait for later frames: seconds, milliseconds (80ms), or a share of the "
        "network's look-ahead (25%). With less than all of it, the sound comes sooner and is not "
        f"exact (see `oobleck_stream look-ahead`). [default: {default}]",
    )


bits_option = click.option(
    "--bits",
    type=click.Choice(["16", "24", "float"]),
    help="Sample format of the audio file. The format float (only .wav) is exact and never clips. "
    "[default: 16]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
plot_option = click.option(
    "--plot",
    metavar="FILE",
    shell_complete=files,
    help="Also draw the result into an image file. Needs pip install 'oobleck_stream[plot]'.",
)


def require_matplotlib() -> None:
    """Refuse --plot if matplotlib is missing, before work that may take minutes.

    Raises
    ------
    click.UsageError
        If matplotlib is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: pip install 'oobleck_stream[plot]'")
