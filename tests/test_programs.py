"""The programs of pushes, joined and apart, in the CPU's engine and in the plain interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import steps_reference
from networks import model_of, random_latents, signal_to_noise, small

from oobleck_stream import network
from oobleck_stream.engine.arena import ArenaLayout
from oobleck_stream.engine.cpu.engine import CpuEngine
from oobleck_stream.engine.planner import Planner

PUSHES = (1, 3, 2, 5)


def on_both(packed, latents, step_floats, join):
    """The samples of the CPU and of the interpreter, for some pushes and the end of the input."""
    layout = ArenaLayout.of(packed.layers, step_floats, join)
    planner = Planner(packed, layout)
    engine = CpuEngine(packed.data, 1, layout.floats, 1)
    parameters, arena = packed.data.astype(float), np.zeros(layout.floats)
    counts = np.zeros((3, len(packed.layers)), np.int64)
    key, ours, plain = planner.key(counts), [], []
    for end, rows in zip(np.cumsum(PUSHES), PUSHES, strict=True):
        assert rows <= layout.entry
        part, last = latents[end - rows : end], end == len(latents)
        program, key = planner.program(key, counts, rows, bool(last))
        counts = counts + program.counts
        out = np.empty((1, program.rows_out, packed.layers[-1].outputs), np.float32)
        engine.run(program, np.zeros(1, np.int64), part[None], out)
        target = np.empty(out.size)
        source = part.astype(float).ravel()
        steps_reference.run(program.steps, program.moves, parameters, arena, source, target)
        ours.append(out.ravel())
        plain.append(target)
    return np.concatenate(ours), np.concatenate(plain)


@pytest.mark.parametrize("tile", [1, 2, 4])
@pytest.mark.parametrize("step_floats", [700, 2000])
def test_programs(tile, step_floats, monkeypatch):
    monkeypatch.setattr(network, "MIN_FAST_CHANNELS", 16)
    monkeypatch.setattr(network, "MIN_TILED_ROWS", {tile: 4} if tile > 1 else {})
    config = small("stable-audio-open-1.0", channels=16, strides=(4,), multiples=(1,), latent_dim=3)
    packed, latents = model_of(config).decoder, random_latents(config, sum(PUSHES))
    assert max(layer.tile for layer in packed.layers) == tile
    joined, plain = on_both(packed, latents, step_floats, join=True)
    apart, plain_apart = on_both(packed, latents, step_floats, join=False)
    np.testing.assert_array_equal(joined, apart)
    assert signal_to_noise(plain, joined) > 110
    np.testing.assert_allclose(plain, plain_apart, rtol=1e-9)
