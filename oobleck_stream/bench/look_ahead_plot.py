"""Plots the error and the cost of look-aheads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oobleck_stream.formats.atomic import atomic_file


def write_look_ahead_plot(facts: dict[str, Any], path: str) -> None:
    """Plot the result of `oobleck_stream.bench.look_ahead.look_ahead_facts`.

    Parameters
    ----------
    facts : dict
    path : str
        The name's suffix determines the format. ``.png`` is appended to a name without a suffix.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError
        If the file can't be written.
    """
    from matplotlib.figure import Figure

    rows = facts["rows"]
    places = [1e3 * row["seconds"] for row in rows]
    figure = Figure(figsize=(11, 4), layout="constrained")
    error, mel, cost = figure.subplots(1, 3)
    error.plot(places, [row["si_sdr"] for row in rows], "o-")
    error.set_ylabel("SI-SDR to the exact sound, dB")
    mel.plot(places, [row["log_mel"] for row in rows], "o-")
    mel.set_yscale("log")
    mel.set_ylabel("log-mel distance to the exact sound, dB")
    cost.plot(places, [row["rtf_early"] for row in rows], "o-", label="with the exact stream")
    cost.plot(places, [row["rtf_early_alone"] for row in rows], "o-", label="alone")
    cost.axhline(facts["rtf_exact"], color="black", linewidth=1, linestyle="--", label="exact push")
    cost.set_ylim(0)
    cost.set_ylabel("RTF of a push of one frame")
    cost.legend(fontsize="small")
    for part in (error, mel, cost):
        part.set_xlabel(f"look-ahead in ms (exact: {1e3 * facts['latency_seconds']:.0f})")
        part.grid(alpha=0.3)
    figure.suptitle(f"{facts['network']}, {facts['frames']} frames")
    target = Path(path if Path(path).suffix else f"{path}.png")
    with atomic_file(target) as file:
        figure.savefig(file, dpi=150, format=target.suffix[1:].lower())
