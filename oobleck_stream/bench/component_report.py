"""The components' figures as a table, no more than 100 columns wide."""

from __future__ import annotations

from typing import Any

from oobleck_stream.bench.report import limit_lines

Facts = dict[str, Any]

TOLERANCE = 1e-5
"""Maximum difference between a component and the reference, relative to the reference's peak."""

NAMES_A_LINE = 4

HEADER = (
    f"{'component':20}{'size':24}{'build':>7}{'forward':>10}{'GFLOP/s':>8}{'of peak':>8}{'GB/s':>6}"
    f"{'off by':>8}{'earlier':>9}"
)
LEGEND = (
    "times in ms; build: fold weight norm, pack the parameters, create the stack; forward: the",
    "whole input in one piece; size: channels, kernel, stride, rows in>rows out; Snake: of every",
    "row, written into the stream's memory, and an identity product of a few rows;",
    "output: final Snake and last convolution; GB/s: rows in, rows out and parameters, once each;",
    "off by: largest difference from a float64 reference, relative to its peak (in the decoder:",
    "of all layers so far); of peak: of the best peak measured in these rounds;",
    "earlier: time of an earlier implementation, where it is known",
)


def component_lines(facts: Facts) -> list[str]:
    """Return the figures of `oobleck_stream.bench.component_times.run_components` as lines."""
    width, threads = facts["width"], facts["threads"]
    return [
        f"network    65,536 samples a latent frame, {width} channels wide, random weights; "
        f"threads: {threads}",
        *limit_lines(facts),
        *_compile_lines(facts),
        *_sound_lines(facts),
        *_accuracy_lines(facts),
        "",
        HEADER,
        *map(_component_line, facts["components"]),
        *LEGEND,
    ]


def _compile_lines(facts: Facts) -> list[str]:
    compiled = facts["compile"]
    low, high = compiled["earlier_seconds"]
    more = sum(row["kernels_compiled"] for row in facts["components"])
    return [
        f"compile    {compiled['seconds']:.1f} s with an empty cache, once for all rows "
        f"(they compiled {more or 'nothing'} more);",
        f"           an earlier implementation: {low:.0f} to {high:.0f} s",
    ]


def _sound_lines(facts: Facts) -> list[str]:
    sound, decoder = facts["sound"], facts["components"][-1]
    deviations = " and ".join(f"{value:.3f}" for value in sound["standard_deviations"])
    identical = "bit-identical" if sound["parts_are_identical"] else "NOT bit-identical"
    return [
        f"sound      {sound['samples']:,} x {sound['channels']} samples in "
        f"{decoder['median_seconds']:.2f} s, peak {sound['peak']:.3f}, "
        f"standard deviation {deviations}",
        f"           (an earlier implementation: {_minutes(decoder)}, constant "
        f"{sound['earlier_sample']}); decoded part by part: {identical}",
    ]


def _accuracy_lines(facts: Facts) -> list[str]:
    rows, layers = facts["components"], facts["layers"]
    # Written so that NaN counts as outside the tolerance.
    far = [row["name"] for row in [*rows, *layers] if not row["deviation"] <= TOLERANCE]
    names = [f"{layer['name']} {layer['deviation']:.0e}" for layer in layers]
    lines = [f"accuracy   within {TOLERANCE:.0e} of the peak of a float64 reference everywhere"]
    if far:
        lines = [f"accuracy   NOT within {TOLERANCE:.0e} of the peak: {', '.join(far)}"]
    for first in range(0, len(names), NAMES_A_LINE):
        start = "off by" if first == 0 else ""
        lines.append(f"{start:10} {', '.join(names[first : first + NAMES_A_LINE])}")
    return lines


def _component_line(row: Facts) -> str:
    rate, share = row["gflops"], row["share_of_peak"]
    return (
        f"{row['name']:20}{row['size']:24}{1e3 * row['build_seconds']:>7.1f}"
        f"{1e3 * row['median_seconds']:>10.3f}"
        + (f"{'-':>8}{'-':>8}" if rate is None else f"{rate:>8.1f}{share:>8.1%}")
        + f"{row['gbytes_per_second']:>6.1f}{row['deviation']:>8.0e}{_minutes(row):>9}"
    )


def _minutes(row: Facts) -> str:
    """Format the time of an earlier implementation of this geometry, or "-" if it is unknown."""
    seconds = row["earlier_seconds"]
    return "-" if seconds is None else f"{seconds / 60:.0f} min"
