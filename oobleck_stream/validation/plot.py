"""Plots of a validation: the difference over time, and the metrics of each stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from oobleck_stream.formats.atomic import atomic_file, refusing_unwritable
from oobleck_stream.validation.check import Validation

COLUMNS = 1000
"""Number of time intervals in a plot, about one per pixel. Each shows its largest difference."""

MAX_LINES = 8
"""Maximum number of channels that are drawn as lines. More channels are drawn as an image."""

SUFFIXES = (".png", ".svg", ".pdf")

DECADES = 7
"""The range of an image's colour scale in decades. The tolerance is at its upper end."""

MIN_DIFFERENCE = 1e-12
"""On a logarithmic axis, zero and any smaller difference are drawn as this difference."""


def write_plot(
    validation: Validation, path: Path, tolerance: float, duration: float, title: str
) -> None:
    """Plot the last stage's difference over time and, if there are several, all stages' metrics.

    Parameters
    ----------
    validation : Validation
        The validation to plot. Its `over_time` must be set if any stage was compared.
    path : Path
        The name's suffix, one of `SUFFIXES`, determines the format.
    tolerance : float
    duration : float
        Duration of the piece in seconds.
    title : str

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    InputError
        If the file can't be written.
    """
    from matplotlib.figure import Figure

    several = len(validation.stages) > 1
    figure = Figure(figsize=(11, 4.5 * (1 + several)), layout="constrained")
    axes = figure.subplots(1 + several, 1, squeeze=False)[:, 0]
    _draw_time(figure, axes[0], validation, tolerance, duration)
    if several:
        _draw_stages(axes[1], validation, tolerance)
    figure.suptitle(title)
    with refusing_unwritable(path), atomic_file(path) as file:
        figure.savefig(file, dpi=100, format=path.suffix[1:].lower())


def _draw_time(
    figure: Any, axes: Any, validation: Validation, tolerance: float, duration: float
) -> None:
    from matplotlib import colormaps

    last = next(reversed(list(validation.stages)), "")
    axes.set_title(f"{last}: largest difference in each interval of time")
    axes.set_xlabel("s")
    if validation.over_time is None:
        return
    values = np.maximum(validation.over_time, MIN_DIFFERENCE)
    channels = values.shape[1]
    if channels <= MAX_LINES:
        times = (np.arange(len(values)) + 0.5) * duration / len(values)
        for channel in range(channels):
            axes.plot(times, values[:, channel], linewidth=0.8, label=f"channel {channel}")
        axes.axhline(tolerance, color="black", linewidth=1, linestyle="--", label="tolerance")
        axes.set_yscale("log")
        axes.set_ylabel("absolute difference")
        axes.legend(fontsize="small")
        return
    colors = colormaps["viridis"].with_extremes(over="red", bad="red")
    top = np.log10(max(tolerance, MIN_DIFFERENCE))
    image = axes.imshow(
        np.log10(values.T),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0, duration, -0.5, channels - 0.5),
        cmap=colors,
        vmin=top - DECADES,
        vmax=top,
    )
    axes.set_ylabel("channel")
    label = "log10 of the absolute difference; red: over the tolerance"
    figure.colorbar(image, ax=axes, label=label, extend="max")


def _draw_stages(axes: Any, validation: Validation, tolerance: float) -> None:
    names = list(validation.stages)
    found = list(validation.stages.values())
    for label, values in (
        ("largest difference", [one.max_difference for one in found]),
        ("RMSE", [one.rmse for one in found]),
    ):
        axes.plot(names, np.maximum(values, MIN_DIFFERENCE), marker="o", label=label)
    axes.axhline(tolerance, color="black", linewidth=1, linestyle="--", label="tolerance")
    axes.set_yscale("log")
    axes.set_ylabel("absolute difference")
    ratio = axes.twinx()
    ratio.plot(names, [one.snr_db for one in found], color="gray", marker="s", label="SNR (right)")
    ratio.set_ylabel("signal-to-noise, dB")
    lines, labels = axes.get_legend_handles_labels()
    more_lines, more_labels = ratio.get_legend_handles_labels()
    axes.legend(lines + more_lines, labels + more_labels, fontsize="small")
