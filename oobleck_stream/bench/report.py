"""The benchmark's figures as plain text, no more than 100 columns wide."""

from __future__ import annotations

from typing import Any

Facts = dict[str, Any]

HEADER = (
    f"{'':14}{'median':>9}{'p99':>9}{'max':>9}{'spread':>8}{'calls':>7}{'GFLOP/s':>9}"
    f"{'of peak':>9}{'RTF':>7}{'late':>7}{'epilogues':>11}"
)
LEGEND = (
    "times in ms; spread: interquartile range over median; RTF: seconds per second of audio;",
    "late: calls that took longer than their audio lasts; epilogues: Snake, residual and tanh, as",
    "a call minus the same products alone; of peak: of the FMA peak measured in the same rounds",
)


def report_lines(facts: Facts) -> list[str]:
    """Return the whole report, line by line."""
    return [
        *_machine_lines(facts),
        *(_start_lines(facts["start"]) if facts["start"] else []),
        "",
        *_case_lines(facts),
        *_layer_lines(facts["layers"] or []),
        *_peer_lines(facts),
    ]


def _machine_lines(facts: Facts) -> list[str]:
    network = facts["network"]
    return [
        f"network    {network['name']}",
        f"           {network['half']}: {network['gflop_per_frame']:.3g} GFLOP per frame, "
        f"{network['real_time_gflops']:.3g} GFLOP/s for real time",
        f"           fast convolution saves {network['saved_multiplications']:.0%} of the "
        "multiplications of direct convolution",
        *limit_lines(facts),
    ]


def limit_lines(facts: Facts) -> list[str]:
    """Return the lines about the machine and its limits."""
    machine = facts["machine"]
    lines = [
        f"machine    {machine['name']}, {machine['cores']} cores; medians of {facts['rounds']} "
        "rounds (best in brackets)",
    ]
    for peak, read in zip(machine["peak"], machine["read"], strict=True):
        threads = peak["threads"]
        lines.append(
            f"           {threads} thread{'s' * (threads > 1)}: FMA peak "
            f"{peak['median_gflops']:.0f} GFLOP/s ({peak['max_gflops']:.0f}), reads "
            f"{read['median_gbytes_per_second']:.1f} GB/s "
            f"({read['max_gbytes_per_second']:.1f})"
        )
    return lines


def _start_lines(start: Facts) -> list[str]:
    compiled = "compiled" if start["kernels_compiled"] else "cached"
    line = (
        f"start      model {start['load_seconds']:.2f} s, "
        f"kernels ({compiled}) {start['kernels_seconds']:.2f} s, "
        f"{start['first_sample_frames']} frames to the first sample "
        f"{start['first_sample_seconds']:.2f} s"
    )
    lines = [line]
    if start["total_seconds"] is not None:
        lines.append(f"           first sample {start['total_seconds']:.2f} s after process start")
    early, late = start["memory_at_first_sample"], start["memory_after"]
    if early and late:
        weights = start["weights_bytes"]
        mapped = weights if start["weights_mapped"] else 0
        lines.append(
            f"memory     anonymous {_megabytes(early['anonymous'])}, mapped files "
            f"{_megabytes(early['mapped'])} (the weights {_megabytes(mapped)} of them)"
        )
        over = late["anonymous"] + mapped - weights
        lines.append(
            f"           after {start['frames_after']} more frames: anonymous + weights = weights "
            f"{_megabytes(weights)} + {_megabytes(over)} "
            f"(grown by {_megabytes(late['anonymous'] - early['anonymous'])})"
        )
    return lines


def _case_lines(facts: Facts) -> list[str]:
    lines = [HEADER]
    lines += [_case_line(f"push of {row['frames']}", row) for row in facts["pushes"]]
    if facts["paired"]:
        lines.append(_case_line("paired, 2 x 1", facts["paired"]))
    lines.append(_case_line(f"batch of {facts['batch']['frames']}", facts["batch"]))
    if facts["one_thread"]:
        lines.append(_case_line("  one thread", facts["one_thread"]))
    lines += LEGEND
    if facts["paired"]:
        lines.append("paired: two pushes of 1 frame by a decoder with pairing=2, together")
    if facts["threads_ratio"]:
        lines.append(
            f"{facts['threads']} threads are {facts['threads_ratio']:.2f} times as fast as one "
            "(full batch)"
        )
    return lines


def _case_line(name: str, row: Facts) -> str:
    share = "-" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
    epilogues = f"{row['epilogue_share']:>11.1%}" if "epilogue_share" in row else ""
    return (
        f"{name:14}{1e3 * row['median_seconds']:>9.2f}{1e3 * row['p99_seconds']:>9.2f}"
        f"{1e3 * row['max_seconds']:>9.2f}{row['spread']:>8.0%}{row['calls']:>7}"
        f"{row['gflops']:>9.1f}{share:>9}{row['real_time_factor']:>7.3f}"
        f"{row['late_share']:>7.1%}{epilogues}"
    )


def _layer_lines(layers: list[Facts]) -> list[str]:
    if not layers:
        return []
    columns = f"{'ms':>8}{'GFLOP/s':>9}{'of peak':>9}{'of read':>8}"
    lines = [
        "",
        f"{'layer':7}{'shape':16}{'saved':>6}{'push of 1':>34}{'batch':>34}",
        f"{'':29}{columns}{columns}",
    ]
    for layer in layers:
        name = layer["name"].removeprefix("decoder.").replace("layers.", "")
        line = f"{name:7}{layer['shape']:16}{layer['saved_multiplications']:>6.0%}"
        for row in (layer["push"], layer["batch"]):
            line += (
                f"{row['milliseconds']:>8.3f}{row['gflops']:>9.1f}{row['share_of_peak']:>9.1%}"
                f"{row['share_of_read']:>8.0%}"
            )
        lines.append(line)
    lines += [
        "layer: 1.2.3 is decoder.layers.1.layers.2.layers.3; saved: multiplications that fast",
        "convolution saves; of read: weights, read once per step, of the read bandwidth (more than",
        "100 % if they come from a cache)",
    ]
    return lines


def _peer_lines(facts: Facts) -> list[str]:
    if facts["peers_problem"]:
        return ["", f"peers      {facts['peers_problem']}"]
    lines = []
    for peer in facts["peers"] or []:
        lines += ["", f"{peer['title']}" + (f": {peer['problem']}" if peer["problem"] else "")]
        if not peer["problem"]:
            lines.append(
                f"{'':40}{'median ms':>10}{'calls':>7}{'RTF':>9}{'SNR dB':>8}{'time / ours':>13}"
            )
        lines += [
            f"{_peer_label(row):40}{1e3 * row['median_seconds']:>10.2f}{row['calls']:>7}"
            f"{row['real_time_factor']:>9.3f}{row['snr_db']:>8.1f}{row['ratio']:>13.2f}"
            for row in peer["rows"]
        ]
    if lines:
        lines.append("SNR: of the peer's output relative to ours, which is exact in every push")
    return lines


def _peer_label(row: Facts) -> str:
    frames, computed = row["frames"], row["frames_computed"]
    if row["mode"] == "batch":
        return f"  full batch of {frames}"
    if row["mode"] == "recompute":
        return f"  {frames} per call, exact: {computed} computed"
    return f"  {frames} per call, no context: not exact"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
