"""Memory goes back to the system when decoders are freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

MANY_DECODERS = """
import gc, resource
import numpy as np
import oobleck_stream as ob

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() / 2**20

config = ob.PRESETS["stable-audio-open-1.0"]
model = ob.random_model(config.replace(channels=4, strides=(2, 3), multiples=(1, 2)))
frames = np.zeros((40, model.latent_dim), np.float32)

def use(count):
    kept = []
    for number in range(count):
        decoder = ob.StreamingDecoder(model, threads=1)
        decoder.push(frames)
        kept.append((decoder, decoder.snapshot(), bytearray(1000)))
    peak = resident()
    # A few small objects stay alive between the large ones, as in a long-running program.
    return peak, [small for _, _, small in kept]

use(2)
before = resident()
peak, small = use(100)
gc.collect()
print(before, peak, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_decoders_return_their_memory():
    command = [sys.executable, "-c", MANY_DECODERS]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, peak, after = map(float, output.split())
    assert peak > before + 100
    assert after < before + 0.05 * (peak - before)
