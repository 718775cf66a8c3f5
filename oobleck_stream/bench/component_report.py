"""The document's components as a table, at most a hundred columns wide."""

from __future__ import annotations

from typing import Any

from oobleck_stream.bench.report import limit_lines

Facts = dict[str, Any]

TOLERANCE = 1e-5
"""Of the reference's peak: what a component may be off by."""

NAMES_A_LINE = 4

HEADER = (
    f"{'component':20}{'size':24}{'build':>7}{'forward':>10}{'GFLOP/s':>8}{'of peak':>8}{'GB/s':>6}"
    f"{'off by':>8}{'document':>9}"
)
LEGEND = (
    "times in ms; build: weight norm folded, parameters packed, stack made; forward: all of the",
    "input in one piece, both ends included; size: channels, kernel, stride, rows in>rows out;",
    "Snake: of every row into the stream's memory, and an identity product of a few rows to show",
    "it; output: final Snake and last convolution; GB/s: rows in, rows out and parameters, once",
    "each; off by: largest difference from the document's formulas in float64, over their peak (in",
    "the decoder: of all layers up to there); of peak: of the best one measured in these rounds;",
    "document: its own figure, where it gives one",
)


def component_lines(facts: Facts) -> list[str]:
    """The figures of `oobleck_stream.bench.component_times.run_components`, a line each."""
    width, threads = facts["width"], facts["threads"]
    return [
        f"network    the document's, {width} channels wide, random weights; threads: {threads}",
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
    low, high = compiled["document_seconds"]
    more = sum(row["kernels_compiled"] for row in facts["components"])
    return [
        f"compile    {compiled['seconds']:.1f} s from an empty cache, once for all rows "
        f"(they compiled {more or 'nothing'} more);",
        f"           the document: {low:.0f} to {high:.0f} s",
    ]


def _sound_lines(facts: Facts) -> list[str]:
    sound, decoder = facts["sound"], facts["components"][-1]
    deviations = " and ".join(f"{value:.3f}" for value in sound["standard_deviations"])
    same = "the same" if sound["parts_give_the_same"] else "NOT the same"
    return [
        f"sound      {sound['samples']:,} x {sound['channels']} samples in "
        f"{decoder['median_seconds']:.2f} s, peak {sound['peak']:.3f}, "
        f"standard deviation {deviations}",
        f"           (the document: {_minutes(decoder)}, constant {sound['document_sound']}); "
        f"part by part the bits are {same}",
    ]


def _accuracy_lines(facts: Facts) -> list[str]:
    rows, layers = facts["components"], facts["layers"]
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
    """The document's time."""
    seconds = row["document_seconds"]
    return "-" if seconds is None else f"{seconds / 60:.0f} min"
