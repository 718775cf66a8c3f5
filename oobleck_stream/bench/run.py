"""Runs the benchmark, from loading the model to the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from oobleck_stream.bench.layers import layer_facts
from oobleck_stream.bench.limits import Limits
from oobleck_stream.bench.ours import Ours
from oobleck_stream.bench.peers import open_peers, refusal
from oobleck_stream.bench.rounds import run_rounds
from oobleck_stream.bench.start import measure_start
from oobleck_stream.bench.task import Task
from oobleck_stream.model import Model
from oobleck_stream.network import saved_multiplications
from oobleck_stream.validation.stages import Half

Facts = dict[str, Any]

START_SHARE = 0.1
"""The share of the duration that is spent on decoding frames to see whether the memory grows."""


def run_benchmark(
    make_model: Callable[[], Model],
    warm_kernels: Callable[[], None],
    threads: int,
    pushes: Sequence[int],
    batch: int,
    seconds: float,
    layers: bool = False,
    peers: bool = False,
    half: Half = "decoder",
) -> Facts:
    """Measure the start, the machine's limits, and a network; if requested, also layers and peers.

    Parameters
    ----------
    make_model, warm_kernels : callable
        As for `oobleck_stream.bench.start.measure_start`.
    threads : int
    pushes : sequence of int
        The sizes of the pushes, in frames.
    batch : int
        Number of frames of the full batch.
    seconds : float
        Approximate duration of the rounds.
    layers, peers : bool
        Whether to measure each layer of the decoder, and whether to measure other runtimes (peers).
    half : {"decoder", "encoder"}
        What to measure. The start is only measured for the decoder.

    Returns
    -------
    dict
        The keys include ``network``, ``start``, ``machine``, ``pushes``, ``paired``, ``batch``,
        ``one_thread``, ``threads_ratio``, ``layers`` and ``peers``. Times are in seconds. Shares
        and factors are ratios.
    """
    if half == "decoder":
        model, start = measure_start(make_model, warm_kernels, threads, START_SHARE * seconds)
    else:
        model, start = make_model(), None
        warm_kernels()
    task = Task(model, half)
    limits = Limits(threads)
    ours = Ours(task, threads, pushes, batch)
    problem = refusal(model.config, half) if peers else None
    with ExitStack() as stack:
        others = None
        if peers and problem is None:
            others = stack.enter_context(open_peers(task, threads, pushes, batch))
        cases = limits.cases + ours.cases + (others.cases if others else [])
        rounds = run_rounds(cases, seconds)
        compared = others.facts(ours.push_medians, ours.batch_median) if others else None
    return {
        "network": network_facts(task),
        "threads": threads,
        "rounds": rounds,
        "start": start,
        "machine": limits.facts(),
        **ours.facts(limits),
        "layers": layer_facts(model, batch, threads, limits) if layers else None,
        "peers": compared,
        "peers_problem": problem,
    }


def network_facts(task: Task) -> Facts:
    """Return facts about the network and its work.

    These include the operations per frame and per second of audio, and the share of the
    multiplications that fast convolution saves.
    """
    model, operations = task.model, task.operations
    return {
        "name": model.name,
        "half": task.half,
        "samplerate": model.samplerate,
        "frame_rate": model.config.frame_rate,
        "context_frames": task.context,
        "gflop_per_frame": operations / 1e9,
        "real_time_gflops": operations * model.config.frame_rate / 1e9,
        "saved_multiplications": saved_multiplications(task.layers, task.rows_in),
    }
