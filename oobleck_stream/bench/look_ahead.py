"""Measures the error and the cost of look-aheads for a network and latents, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bench.rounds import Case, run_rounds
from oobleck_stream.bench.start import random_latents
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.early.look_ahead import LookAhead
from oobleck_stream.model import Model
from oobleck_stream.network import multiplications
from oobleck_stream.validation.distances import log_mel_distance, si_sdr, stft_distance

Facts = dict[str, Any]

SHARES = (0.05, 0.1, 0.15, 0.25, 0.5, 0.75)
"""The shares of the network's look-ahead that are measured by default."""


def error_facts(model: Model, latents: FloatArray, look_ahead: int, threads: int | None) -> Facts:
    """Measure how far the early sound of `latents` is from the exact sound.

    Parameters
    ----------
    model : Model
    latents : (frames, latent_dim) array of real numbers
    look_ahead : int
        The look-ahead in samples.
    threads : int or None

    Returns
    -------
    dict
        The distances ``si_sdr`` and ``log_mel`` in dB, and ``stft``. ``join`` compares the jumps
        between the last sample of a push and the first sample of the next push. It is the 99th
        percentile of these jumps, divided by the same percentile in the exact sound. A value that
        can't be computed from `latents` is None.
    """
    decoder, early, exact = StreamingDecoder(model, threads, look_ahead=look_ahead), [], []
    for frame in latents:
        early.append(decoder.push(frame))
        exact.append(decoder.exact)
    joins = np.cumsum([len(chunk) for chunk in early])
    early.append(decoder.flush())
    exact.append(decoder.exact)
    sound, reference = np.concatenate(early), np.concatenate(exact)
    joins = joins[(joins > 0) & (joins < len(sound))]
    facts: Facts = {"si_sdr": None, "log_mel": None, "stft": None, "join": None}
    if len(reference) and reference.any():
        facts["si_sdr"] = si_sdr(reference, sound)
        facts["log_mel"] = log_mel_distance(reference, sound, model.samplerate)
        facts["stft"] = stft_distance(reference, sound)
    if len(joins) and (usual := _step(reference, joins)):
        facts["join"] = _step(sound, joins) / usual
    return facts


def _step(sound: FloatArray, joins: FloatArray) -> float:
    """Return the 99th percentile of the jumps from the preceding samples to those at `joins`."""
    return float(np.percentile(np.abs(sound[joins] - sound[joins - 1]).max(axis=1), 99))


def work_facts(model: Model, look_ahead: int) -> Facts:
    """Compute the work that a look-ahead causes.

    Returns
    -------
    dict
        ``samples`` is the number of withheld samples, and ``fade`` is the length of the crossfade
        in samples. ``work`` is the number of multiply-adds of a push of one frame, divided by the
        number of multiply-adds of an exact push.
    """
    layers = model.decoder.layers
    ahead = LookAhead.of(model, look_ahead)
    if ahead is None:
        return {"samples": model.latency, "fade": 0, "work": 1.0}
    extra = ahead.blocks(model, 3 * model.context + 3).multiplications(layers)
    return {
        "samples": ahead.samples,
        "fade": ahead.fade,
        "work": 1 + extra / multiplications(layers),
    }


def time_facts(
    model: Model, look_aheads: Sequence[int], threads: int, seconds: float
) -> dict[str, Any]:
    """Time exact pushes of one frame, and pushes of one frame with each look-ahead, in turns.

    Returns
    -------
    dict
        ``exact`` is the real-time factor of an exact push. ``early`` and ``early_alone`` are lists
        with the real-time factor for each look-ahead. Only for ``early``, the exact samples are
        computed too.
    """

    def case(**options: Any) -> Case:
        decoder = StreamingDecoder(model, threads, **options)
        latents = random_latents(model, 1)
        for _ in range(2 * model.context + 5):
            decoder.push(latents)
        return Case.of(lambda: decoder.push(latents))

    cases = [case()]
    for samples in look_aheads:
        cases += [case(look_ahead=samples), case(look_ahead=samples, exact=False)]
    run_rounds(cases, seconds)
    factors = [one.median * model.config.frame_rate for one in cases]
    return {"exact": factors[0], "early": factors[1::2], "early_alone": factors[2::2]}


def cost_facts(model: Model, look_aheads: Sequence[int], threads: int, seconds: float) -> Facts:
    """Return the work and the times of pushes with each look-ahead, and the time of exact pushes.

    The elements of `look_aheads` are in samples.
    """
    times = time_facts(model, look_aheads, threads, seconds)
    rows = []
    for number, samples in enumerate(look_aheads):
        row = work_facts(model, samples)
        row["seconds"] = row["samples"] / model.samplerate
        row["share"] = row["samples"] / model.latency if model.latency else 1.0
        for name in ("early", "early_alone"):
            row[f"rtf_{name}"] = times[name][number]
            row[f"ratio_{name}"] = times[name][number] / times["exact"]
        rows.append(row)
    return {
        "network": model.name,
        "frame_seconds": 1 / model.config.frame_rate,
        "latency_samples": model.latency,
        "latency_seconds": model.latency / model.samplerate,
        "threads": threads,
        "rtf_exact": times["exact"],
        "rows": rows,
    }


def cost_lines(facts: Facts) -> list[str]:
    """Format the result of `cost_facts` as lines of text."""
    lines = [
        _network_line(facts),
        f"exact      RTF {facts['rtf_exact']:.3f} in pushes of one frame, "
        f"{facts['threads']} threads",
        "",
        f"{'look-ahead':>16}{'fade':>7}{'work':>7}{'RTF':>8}{'ratio':>7}{'alone':>8}{'ratio':>7}",
        f"{'ms':>9}{'%':>7}{'ms':>7}",
    ]
    for row in facts["rows"]:
        fade = 1e3 * row["fade"] * row["seconds"] / row["samples"] if row["samples"] else 0.0
        lines.append(
            f"{1e3 * row['seconds']:>9.1f}{100 * row['share']:>7.1f}{fade:>7.1f}"
            f"{row['work']:>7.2f}{row['rtf_early']:>8.3f}{row['ratio_early']:>7.2f}"
            f"{row['rtf_early_alone']:>8.3f}{row['ratio_early_alone']:>7.2f}"
        )
    return [
        *lines,
        "",
        "work: multiply-adds of a push of one frame, as multiples of an exact push's; RTF: of that",
        "push with the exact stream underneath, and alone; ratio: to the exact push",
    ]


def look_ahead_facts(
    model: Model,
    latents: FloatArray,
    look_aheads: Sequence[int],
    threads: int,
    seconds: float,
) -> Facts:
    """Return the cost and the error of each look-ahead.

    The elements of `look_aheads` are in samples. The time measurements take about `seconds`.
    """
    facts = cost_facts(model, look_aheads, threads, seconds)
    for row, samples in zip(facts["rows"], look_aheads, strict=True):
        row |= error_facts(model, latents, samples, threads)
    audio = model.decoded_length(len(latents)) / model.samplerate
    return facts | {"frames": len(latents), "audio_seconds": audio}


def look_ahead_lines(facts: Facts) -> list[str]:
    """Format the result of `look_ahead_facts` as lines of text."""
    lines = [
        _network_line(facts),
        f"latents    {facts['frames']} frames, {facts['audio_seconds']:.1f} s of audio",
        "",
        f"{'look-ahead':>16}{'SI-SDR':>9}{'log-mel':>9}{'STFT':>8}{'joins':>7}{'work':>7}"
        f"{'RTF':>8}{'alone':>8}",
        f"{'ms':>9}{'%':>7}{'dB':>9}{'dB':>9}",
    ]
    for row in facts["rows"]:
        lines.append(
            f"{1e3 * row['seconds']:>9.1f}{100 * row['share']:>7.1f}{_number(row['si_sdr'], 9, 1)}"
            f"{_number(row['log_mel'], 9, 2)}{_number(row['stft'], 8, 4)}"
            f"{_number(row['join'], 7, 2)}{row['work']:>7.2f}{row['rtf_early']:>8.3f}"
            f"{row['rtf_early_alone']:>8.3f}"
        )
    lines += [
        f"{1e3 * facts['latency_seconds']:>9.1f}{100:>7.1f}{'exact':>9}{0:>9.2f}{0:>8.4f}{1:>7.2f}"
        f"{1:>7.2f}{facts['rtf_exact']:>8.3f}",
        "",
        "SI-SDR, log-mel distance and multi-resolution STFT distance: from the exact sound; joins:",
        "steps between pushes, as multiples of the exact sound's; work: multiply-adds of a push of",
        f"one frame, as multiples of an exact push's; RTF: of that push with {facts['threads']} "
        "threads, with the",
        "exact stream underneath, and alone. Frames that are known in advance need no look-ahead.",
    ]
    return lines


def _network_line(facts: Facts) -> str:
    return (
        f"network    {facts['network']}: look-ahead {facts['latency_samples']} samples = "
        f"{1e3 * facts['latency_seconds']:.0f} ms; a frame lasts "
        f"{1e3 * facts['frame_seconds']:.1f} ms"
    )


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"
