"""Measures the time of every layer, in a steady push and in a full batch."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from oobleck_stream.bench.limits import Limits
from oobleck_stream.bench.start import random_latents
from oobleck_stream.engine.stack import Stack
from oobleck_stream.model import Model
from oobleck_stream.network import Layer, saved_multiplications, steady_blocks

Facts = dict[str, Any]

PUSH_SECONDS = 1.0
BATCHES = 3
MAX_BLOCK = 32
"""Maximum number of frames per push. With every preset, the engine runs a push of this size as one
program. This is necessary because `Stack.step_times` covers only the last program of a push.
"""


def layer_facts(model: Model, batch: int, threads: int, limits: Limits) -> list[Facts]:
    """Return the figures of every layer, for pushes of one frame and for a batch.

    Parameters
    ----------
    model : Model
    batch : int
        Number of frames of the batch, which is pushed in blocks of at most `MAX_BLOCK` frames.
    threads : int
    limits : Limits
        The measured limits of the machine.

    Returns
    -------
    list of dict
        One dict for each layer. Its entries ``push`` and ``batch`` contain the time in
        milliseconds, the rate in GFLOP/s and its share of the peak, and the rate in GB/s at which
        weights are read and its share of the read bandwidth. A push consists of steps, each for one
        layer. The rate in GB/s counts one read of the layer's weights per step.
    """
    push = LayerTimes(model, threads)
    push.run(model.context + 1, 1, record=False)
    start = time.perf_counter()
    while time.perf_counter() - start < PUSH_SECONDS:
        push.run(1, 1)
    whole = LayerTimes(model, threads)
    whole.run(batch, MAX_BLOCK, record=False)
    for _ in range(BATCHES):
        whole.run(batch, MAX_BLOCK)
    layers = model.decoder.layers
    return [
        {
            "name": layer.name,
            "shape": shape_of(layer),
            "saved_multiplications": saved_multiplications([layer], layer.stride_in),
            "push": push.facts(index, blocks, limits),
            "batch": whole.facts(index, blocks * batch, limits),
        }
        for index, (layer, blocks) in enumerate(zip(layers, steady_blocks(layers), strict=True))
    ]


class LayerTimes:
    """Decodes random frames and records the time of each layer.

    Parameters
    ----------
    model : Model
    threads : int
    """

    def __init__(self, model: Model, threads: int) -> None:
        self._model, self._threads = model, threads
        self._stack = Stack(model.decoder, threads)
        self._seconds: list[dict[int, float]] = []
        self._steps: Counter[int] = Counter()

    def run(self, frames: int, block: int, record: bool = True) -> None:
        """Push `frames` frames, at most `block` at a time. Keep each layer's time if `record`."""
        latents = random_latents(self._model, frames)
        seconds: defaultdict[int, float] = defaultdict(float)
        steps: Counter[int] = Counter()
        for first in range(0, frames, block):
            start = time.perf_counter()
            self._stack.push(latents[first : first + block])
            whole = time.perf_counter() - start
            for index, share in self._stack.step_times():
                seconds[index] += share * whole
                steps[index] += 1
        if record:
            self._seconds.append(seconds)
            self._steps = steps

    def facts(self, index: int, blocks: int, limits: Limits) -> Facts:
        """Return the figures of layer `index`, which computes `blocks` blocks per recorded run."""
        layer, dtype = self._model.decoder.layers[index], self._model.decoder.dtypes[index]
        size = 4 if layer.scheme or dtype == "F32" else 2
        seconds = float(np.median([record.get(index, 0.0) for record in self._seconds]))
        seconds = max(seconds, 1e-9)
        operations = 2 * layer.multiplications * blocks / seconds
        # A block multiplies by each weight once.
        read = size * layer.multiplications * self._steps[index] / seconds
        return {
            "milliseconds": 1e3 * seconds,
            "gflops": operations / 1e9,
            "share_of_peak": operations / limits.peak(self._threads),
            "weight_gbytes_per_second": read / 1e9,
            "share_of_read": read / limits.read(self._threads),
        }


def shape_of(layer: Layer) -> str:
    """Format a layer's input and output channels, kernel, and stride or dilation."""
    text = f"{layer.inputs}>{layer.outputs} k{layer.kernel}"
    if layer.transposed:
        text += f" s{layer.stride}"
    if layer.dilation > 1:
        text += f" d{layer.dilation}"
    return text
