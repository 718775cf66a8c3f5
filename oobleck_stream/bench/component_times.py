"""Builds the components, compares them with the plain reference, and times them."""

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
from tqdm import tqdm

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bench.component_tensors import (
    DrawnParameters,
    NamedTensors,
    draw_tensors,
    layer_tensors,
)
from oobleck_stream.bench.components import (
    GEOMETRY,
    LATENTS,
    WHOLE,
    Component,
    decoder_components,
    single_components,
    snake_alone,
)
from oobleck_stream.bench.limits import Limits
from oobleck_stream.bench.rounds import Case, run_rounds
from oobleck_stream.bench.start import kernels_compiled
from oobleck_stream.config import OobleckConfig
from oobleck_stream.engine.stack import Stack
from oobleck_stream.network import decoder_layers, output_length
from oobleck_stream.parameters import pack_network
from oobleck_stream.reference import FloatingArray, NumPyOperations, output, prepare
from oobleck_stream.validation.stages import reference_outputs

Facts = dict[str, Any]

# Figures of an earlier implementation of this geometry, shown for comparison.
EARLIER_COMPILE_SECONDS = (83.0, 96.0)
EARLIER_DECODER_SECONDS = 17 * 60.0
EARLIER_SAMPLE = 0.278
"""The decoder of the earlier implementation wrongly returned this value for every sample."""


class BuiltComponent:
    """A component that has parameters and is ready to be timed.

    Parameters
    ----------
    component : Component
    tensors : dict of str to float32 array
    rows : (n, inputs) float32
    threads : int

    Attributes
    ----------
    case : Case
        A forward pass over the whole input as one piece. The output array is allocated beforehand.
    output : (m, outputs) float32
        Result of the last call.
    deviation : float
        Largest difference from the reference, relative to the reference's peak. NaN until it is
        set.
    """

    def __init__(
        self, component: Component, tensors: NamedTensors, rows: FloatArray, threads: int
    ) -> None:
        self.component = component
        start = time.perf_counter()
        self._stack = Stack(pack_network(component.layers, DrawnParameters(tensors)), threads)
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
        """Return the component's figures. `peak` is the machine's peak rate in GFLOP/s."""
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
            "earlier_seconds": EARLIER_DECODER_SECONDS if whole else None,
        }


def deviation(result: FloatArray, expected: FloatingArray) -> float:
    """Return the largest absolute difference, divided by the reference's peak.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if result.shape != expected.shape:
        raise ValueError(f"rows of shape {expected.shape} were expected, not {result.shape}")
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def run_components(
    warm_kernels: Callable[[], None],
    threads: int,
    seconds: float,
    width: int | None = None,
) -> Facts:
    """Build, check and time all components.

    Parameters
    ----------
    warm_kernels : callable
        Compiles all kernels or loads them from their cache.
    threads : int
    seconds : float
        Approximate duration of the rounds.
    width : int, optional
        Channels of the narrowest level. By default 128, as in the geometry.

    Returns
    -------
    dict
        The keys are ``machine``, ``threads``, ``rounds``, ``compile``, ``components``, ``layers``
        and ``sound``. Times are in seconds. Deviations are relative to the reference's peak.
    """
    config = GEOMETRY if width is None else GEOMETRY.replace(channels=width)
    count = len(single_components(config)) + len(decoder_components(config))
    with tqdm(total=1 + count, unit="", disable=None, leave=False) as bar:
        bar.set_description("compiling into an empty cache")
        compiled = compile_facts()
        warm_kernels()
        bar.update()
        bar.set_description("components checked")
        singles = []
        for component in single_components(config):
            singles.append(_build_single(component, threads))
            bar.update()
        parts, layers, sound = check_decoder(config, threads, bar.update)
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
    """Time a new process that starts with an empty cache and compiles all kernels."""
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
    return {"seconds": seconds, "kernels": kernels, "earlier_seconds": EARLIER_COMPILE_SECONDS}


def _build_single(component: Component, threads: int) -> BuiltComponent:
    rows = _normal(component.rows, component.layers[0].inputs)
    tensors = draw_tensors(component.layers)
    built = BuiltComponent(component, tensors, rows, threads)
    operations = NumPyOperations()
    network = prepare(layer_tensors(component.layers, tensors), operations)
    built.deviation = deviation(built.output, output(network, rows.astype(np.float64), operations))
    return built


def check_decoder(
    config: OobleckConfig, threads: int, after_each: Callable[[], object] = lambda: None
) -> tuple[list[BuiltComponent], list[Facts], Facts]:
    """Build the decoder part by part and as a whole, and compare each stage with the reference.

    Parameters
    ----------
    config : OobleckConfig
    threads : int
    after_each : callable
        Called after each part, and after the whole.

    Returns
    -------
    built : list of BuiltComponent
        The parts, then the whole decoder. Each part processes the output of the previous part, so
        its deviation is the accumulated deviation of all layers up to its end.
    layers : list of dict
        ``name`` and ``deviation`` after the input convolution, each block, the final Snake, and the
        output.
    sound : dict
        Length, peak and standard deviation of the whole decoder's output, and whether the last
        part's output is bit-identical to it.
    """
    layers = decoder_layers(config)
    snake = snake_alone(config.channels, key=str(layers[-1].snake))
    tensors = draw_tensors([*layers, snake])
    latents = rows = _normal(LATENTS, config.latent_dim)
    operations = NumPyOperations()
    network = prepare(layer_tensors(layers, tensors), operations)
    stages = reference_outputs(network, latents, operations)
    *parts, whole = decoder_components(config)
    # The reference yields these stages in this order.
    checked = [*parts[:-1], Component("final Snake", [snake], parts[-1].rows), parts[-1]]
    built, facts = [], []
    for component, (_, expected) in zip(checked, stages, strict=True):
        part = BuiltComponent(component, tensors, rows, threads)
        part.deviation = deviation(part.output, expected)
        facts.append({"name": component.name, "deviation": part.deviation})
        if component.layers[0] is not snake:
            built.append(part)
            rows = part.output
            after_each()
    full = BuiltComponent(whole, tensors, latents, threads)
    full.deviation = deviation(full.output, expected)
    after_each()
    sound = {
        "samples": len(full.output),
        "channels": full.output.shape[1],
        "peak": float(np.abs(full.output).max()),
        "standard_deviations": full.output.std(axis=0, dtype=np.float64).tolist(),
        "earlier_sample": EARLIER_SAMPLE,
        "parts_are_identical": bool(np.array_equal(full.output, rows)),
    }
    return [*built, full], facts, sound


def _normal(rows: int, inputs: int) -> FloatArray:
    return np.random.default_rng(1).standard_normal((rows, inputs), np.float32)
