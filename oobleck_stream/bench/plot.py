"""Plots the benchmark's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oobleck_stream.formats.atomic import atomic_file

Facts = dict[str, Any]


def write_plot(facts: Facts, path: str) -> None:
    """Plot the real-time factors of all runtimes, and this package's share of the FMA peak.

    Parameters
    ----------
    facts : dict
        The result of `oobleck_stream.bench.run.run_benchmark`.
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

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    speed, peak = figure.subplots(1, 2)
    rows = [*facts["pushes"], facts["batch"]]
    labels = [f"push of {row['frames']}" for row in facts["pushes"]]
    labels.append(f"batch of {facts['batch']['frames']}")
    places = range(len(rows))

    factors = {"oobleck_stream": [row["real_time_factor"] for row in rows]}
    for peer in facts["peers"] or []:
        exact = [row["real_time_factor"] for row in peer["rows"] if row["mode"] == "recompute"]
        batch = [row["real_time_factor"] for row in peer["rows"] if row["mode"] == "batch"]
        if batch:
            factors[f"{peer['title']}, exact"] = exact + batch
    width = 0.8 / len(factors)
    for number, (name, values) in enumerate(factors.items()):
        offset = (number - (len(factors) - 1) / 2) * width
        speed.bar([place + offset for place in places], values, width, label=name)
    speed.axhline(1.0, color="black", linewidth=1, linestyle="--")
    speed.set_yscale("log")
    speed.set_ylabel("seconds per second of audio (dashed: real time)")
    speed.set_xticks(places, labels)
    speed.legend(fontsize="small")

    peak.bar(places, [100 * row["share_of_peak"] for row in rows], 0.5)
    peak.set_ylim(0, 100)
    peak.set_ylabel(f"% of the FMA peak of {facts['threads']} threads")
    peak.set_xticks(places, labels)
    figure.suptitle(f"{facts['network']['name']}; {facts['machine']['name']}")
    target = Path(path if Path(path).suffix else f"{path}.png")
    with atomic_file(target) as file:
        figure.savefig(file, dpi=150, format=target.suffix[1:].lower())
