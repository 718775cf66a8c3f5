"""The compiled code: the same bits for other instructions, and found again on disk."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

DECODE = """
import os, sys, numpy as np
sys.path.insert(0, sys.argv[1])
from oobleck_stream.kernels.cpu import vectors
if shape := os.environ.get("OOBLECK_STREAM_TEST_TILE"):
    vectors.TILE_ROWS, vectors.TILE_VECTORS = map(int, shape.split())
from networks import model_of, random_latents, small
from oobleck_stream.kernels.cpu import program
sound = [model_of(small("stable-audio-open-1.0", 9)).decode(random_latents(small("yue2"), 13)),
         model_of(small("ezaudio", 5, final_tanh=True)).decode(random_latents(small("ezaudio"), 9))]
np.save(sys.argv[2], np.concatenate([part.ravel() for part in sound]))
assembly = "".join(program.run.inspect_asm().values()) if len(sys.argv) > 3 else ""
print(sum(program.run.stats.cache_misses.values()), sum(program.run.stats.cache_hits.values()),
      assembly.count("zmm"), assembly.count("vfmadd"))
"""


def run_decode(path, cache, *arguments, **environment):
    """Decode in a process of its own; cache misses, cache hits, uses of zmm and of FMA."""
    here = os.path.dirname(__file__)
    result = subprocess.run(
        [sys.executable, "-c", DECODE, here, str(path), *arguments],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in result.stdout.split()]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    run_decode(folder / "here.npy", folder / "cache")
    return np.load(folder / "here.npy")


def test_found_again_on_disk(tmp_path):
    cache = tmp_path / "cache"
    assert run_decode(tmp_path / "a.npy", cache)[:2] == [1, 0]
    assert run_decode(tmp_path / "b.npy", cache)[:2] == [0, 1]


@pytest.mark.skipif("x86" not in os.uname().machine, reason="instruction sets of x86")
@pytest.mark.parametrize("processor", ["haswell", "x86-64-v4"])
def test_other_instructions_same_bits(tmp_path, expected, processor):
    """AVX2, and 512-bit vectors by 256-bit tiles, against this machine's own."""
    environment = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    counts = run_decode(tmp_path / "x.npy", tmp_path / "cache", "assembly", **environment)
    if processor == "haswell":
        assert counts[2] == 0
    assert counts[3] > 50
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


@pytest.mark.skipif("x86" not in os.uname().machine, reason="instruction sets of x86")
def test_without_fma_same_bits(tmp_path, expected):
    """A processor without fused multiply-add computes it in libm, slowly."""
    environment = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    counts = run_decode(tmp_path / "x.npy", tmp_path / "cache", "assembly", **environment)
    assert counts[2:] == [0, 0]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


@pytest.mark.parametrize("shape", ["1 1", "5 2", "12 1", "3 2"])
def test_any_tile_same_bits(tmp_path, expected, shape):
    """The shape of the tiles, and with it the split of the work, does not show."""
    run_decode(tmp_path / "x.npy", tmp_path / "cache", OOBLECK_STREAM_TEST_TILE=shape)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
