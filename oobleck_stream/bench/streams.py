"""Measures how many streams one decoder can decode in real time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from oobleck_stream.bench.rounds import Case, run_rounds
from oobleck_stream.bench.start import random_latents
from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder
from oobleck_stream.network import multiplications

Facts = dict[str, Any]


def stream_facts(model: Model, threads: int, counts: Sequence[int], seconds: float) -> Facts:
    """Time pushes of one frame for every stream. Decoders with `counts` streams take turns.

    Parameters
    ----------
    model : Model
    threads : int
    counts : sequence of int
        Numbers of streams.
    seconds : float
        Approximate duration of the measurement.

    Returns
    -------
    dict
        Its entry ``rows`` is a list with a dict for each of `counts`. Times are in seconds.
    """
    cases = {count: _case(model, threads, count) for count in counts}
    rounds = run_rounds(list(cases.values()), seconds)
    budget = 1 / model.config.frame_rate
    operations = 2 * multiplications(model.decoder.layers)
    rows = [
        {
            "streams": count,
            "calls": len(case.times),
            "median_seconds": case.median,
            "p99_seconds": case.quantile(0.99),
            "gflops": count * operations / case.median / 1e9,
            "stream_real_time_factor": case.median / count / budget,
            "real_time": case.quantile(0.99) <= budget,
        }
        for count, case in cases.items()
    ]
    return {
        "network": model.name,
        "backend": model.backend,
        "frame_seconds": budget,
        "cores": os.cpu_count(),
        "threads": threads,
        "rounds": rounds,
        "rows": rows,
    }


def _case(model: Model, threads: int, count: int) -> Case:
    """Return a case that pushes one frame into each stream.

    Enough frames have been pushed before, so every timed push returns samples.
    """
    decoder = MultiStreamDecoder(model, count, threads)
    latents = random_latents(model, count)[:, None]
    for _ in range(model.context + 2):
        decoder.push(latents)
    return Case.of(lambda: decoder.push(latents))


def stream_lines(facts: Facts) -> list[str]:
    """Format the figures as lines of text."""
    place = f"{facts['threads']} threads on {facts['cores']} cores"
    if facts["backend"] != "cpu":
        place = f"backend {facts['backend']}"
    lines = [
        f"network    {facts['network']}; a frame lasts {1e3 * facts['frame_seconds']:.1f} ms",
        f"           {place}; medians of {facts['rounds']} rounds",
        f"{'streams':>10}{'median':>10}{'p99':>10}{'calls':>8}{'GFLOP/s':>10}{'RTF a stream':>14}"
        f"{'real time':>11}",
    ]
    lines += [
        f"{row['streams']:>10}{1e3 * row['median_seconds']:>10.2f}{1e3 * row['p99_seconds']:>10.2f}"
        f"{row['calls']:>8}{row['gflops']:>10.1f}{row['stream_real_time_factor']:>14.3f}"
        f"{'yes' if row['real_time'] else 'no':>11}"
        for row in facts["rows"]
    ]
    kept_up = [row["streams"] for row in facts["rows"] if row["real_time"]]
    kept = max(kept_up) if kept_up else "none, not even the smallest"
    lines += [
        "times in ms, of a push of one frame for every stream; RTF a stream: seconds per second of",
        "audio of one stream; real time: 99 of 100 pushes take no longer than a frame lasts",
        f"largest of these numbers of streams in real time: {kept}",
    ]
    return lines
