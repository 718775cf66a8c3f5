"""The design document's components built, checked against the reference, and timed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bench.components import (
    LATENTS,
    WHOLE,
    Component,
    decoder_components,
    single_components,
    snake_alone,
)
from oobleck_stream.bench.document import (
    DOCUMENT,
    DocumentParameters,
    DoubleArray,
    Tensors,
    draw_tensors,
    reference,
)
from oobleck_stream.bench.limits import Limits
from oobleck_stream.bench.rounds import Case, run_rounds
from oobleck_stream.bench.start import kernels_compiled
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.stack import Stack
from oobleck_stream.network import decoder_layers, output_length
from oobleck_stream.parameters import pack_network

Facts = dict[str, Any]

DOCUMENT_COMPILE_SECONDS = (83.0, 96.0)
DOCUMENT_DECODER_SECONDS = 17 * 60.0
DOCUMENT_SOUND = 0.278
"""Every sample that the document's decoder gave."""


class Built:
    """A component with parameters, ready to be timed.

    Parameters
    ----------
    component : Component
    tensors : dict of str to float32 array
    rows : (n, inputs) float32
    threads : int

    Attributes
    ----------
    case : Case
        A whole forward pass: both ends, the input as one piece, the place of the output at hand.
    output : (m, outputs) float32
        Of the last call.
    """

    def __init__(
        self, component: Component, tensors: Tensors, rows: FloatArray, threads: int
    ) -> None:
        self.component = component
        start = time.perf_counter()
        self._stack = Stack(pack_network(component.layers, DocumentParameters(tensors)), threads)
        self.build_seconds = time.perf_counter() - start
        self._rows = rows
        shape = output_length(component.layers, len(rows)), component.layers[-1].outputs
        self.output = np.zeros(shape, np.float32)
        before = kernels_compiled()
        self._forward()
        self.compiled = kernels_compiled() - before
        self.case = Case.of(self._forward)
        self.deviation = math.nan

    def _forward(self) -> None:
        self._stack.reset()
        self._stack.push(self._rows, True, self.output)

    def facts(self, peak: float) -> Facts:
        """Figures at a peak in GFLOP/s."""
        component, seconds = self.component, self.case.median
        operations = component.operations
        rate = None if operations is None else operations / seconds / 1e9
        whole = component.name == WHOLE
        return {
            "name": component.name,
            "size": component.size,
            "rows": component.rows,
            "rows_out": len(self.output),
            "build_seconds": self.build_seconds,
            "kernels_compiled": self.compiled,
            "calls": len(self.case.times),
            "median_seconds": seconds,
            "gflops": rate,
            "share_of_peak": None if rate is None else rate / peak,
            "gbytes_per_second": component.bytes / seconds / 1e9,
            "deviation": self.deviation,
            "document_seconds": DOCUMENT_DECODER_SECONDS if whole else None,
        }


def deviation(result: FloatArray, expected: DoubleArray) -> float:
    """The largest difference, as a share of the reference's peak."""
    if result.shape != expected.shape:
        raise ValueError(f"rows of {result.shape} are not those of {expected.shape}")
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def run_components(
    warm_kernels: Callable[[], None],
    threads: int,
    seconds: float,
    width: int | None = None,
) -> Facts:
    """Build, check and time everything.

    Parameters
    ----------
    warm_kernels : callable
        Compiles all kernels or loads them from their cache.
    threads : int
    seconds : float
        Of the rounds, about.
    width : int, optional
        Channels of the narrowest level, where not the document's.

    Returns
    -------
    dict
        ``machine``, ``threads``, ``rounds``, ``compile``, ``components``, ``layers``, ``sound``;
        times in seconds, deviations as shares of the reference's peak.
    """
    config = DOCUMENT if width is None else DOCUMENT.replace(channels=width)
    compiled = compile_facts()
    warm_kernels()
    singles = [_build_single(component, threads) for component in single_components(config)]
    parts, layers, sound = check_decoder(config, threads)
    built, limits = singles + parts, Limits(threads)
    rounds = run_rounds(limits.cases + [part.case for part in built], seconds)
    machine = limits.facts()
    best = next(p["max_gflops"] for p in machine["peak"] if p["threads"] == threads)
    return {
        "machine": machine,
        "threads": threads,
        "width": config.channels,
        "rounds": rounds,
        "compile": compiled,
        "components": [part.facts(best) for part in built],
        "layers": layers,
        "sound": sound,
    }


def compile_facts() -> Facts:
    """Seconds of a process, from start to end, that compiles the kernels into an empty cache."""
    from oobleck_stream.engine.kernel_entries import SUFFIX

    with TemporaryDirectory() as cache:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "oobleck_stream", "warmup"],
            env=os.environ | {"NUMBA_CACHE_DIR": cache},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        seconds = time.perf_counter() - start
        kernels = len(list(Path(cache).rglob(f"*{SUFFIX}")))
    return {"seconds": seconds, "kernels": kernels, "document_seconds": DOCUMENT_COMPILE_SECONDS}


def _build_single(component: Component, threads: int) -> Built:
    rows = _normal(component.rows, component.layers[0].inputs)
    tensors = draw_tensors(component.layers)
    built = Built(component, tensors, rows, threads)
    *_, expected = reference(component.layers, tensors, rows)
    built.deviation = deviation(built.output, expected)
    return built


def check_decoder(config: OobleckConfig, threads: int) -> tuple[list[Built], list[Facts], Facts]:
    """Build the decoder part by part and as a whole, and check it layer by layer.

    Returns
    -------
    built : list of Built
        The parts, then the whole. A part takes the rows that the one before it gave, so its
        deviation is that of all layers up to there.
    layers : list of dict
        ``name`` and ``deviation`` after the input convolution, each block, the final Snake, and
        the output.
    sound : dict
        Of the whole: its length, its peak, how much it varies, and whether the parts give the
        same bits.
    """
    layers = decoder_layers(config)
    snake = snake_alone(config.channels, key=str(layers[-1].snake))
    tensors = draw_tensors([*layers, snake])
    latents = rows = _normal(LATENTS, config.latent_dim)
    stages = reference(layers, tensors, latents)
    expected = latents.astype(np.float64)
    *parts, whole = decoder_components(config)
    built, facts = [], []
    for component in parts:
        if component is parts[-1]:
            bend = Built(Component("final Snake", [snake], len(rows)), tensors, rows, threads)
            *_, bent = reference([snake], tensors, expected)
            facts.append({"name": "final Snake", "deviation": deviation(bend.output, bent)})
        part = Built(component, tensors, rows, threads)
        for _ in component.layers:
            expected = next(stages)
        part.deviation = deviation(part.output, expected)
        facts.append({"name": component.name, "deviation": part.deviation})
        built.append(part)
        rows = part.output
    full = Built(whole, tensors, latents, threads)
    full.deviation = deviation(full.output, expected)
    sound = {
        "samples": len(full.output),
        "channels": full.output.shape[1],
        "peak": float(np.abs(full.output).max()),
        "standard_deviations": full.output.std(axis=0, dtype=np.float64).tolist(),
        "document_sound": DOCUMENT_SOUND,
        "parts_give_the_same": bool(np.array_equal(full.output, rows)),
    }
    return [*built, full], facts, sound


def _normal(rows: int, inputs: int) -> FloatArray:
    return np.random.default_rng(1).standard_normal((rows, inputs), np.float32)
