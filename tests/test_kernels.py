"""The compiled kernels: bit-identical for all instruction sets and tiles, and cached on disk."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from float32_operations import ALPHA, INVERSE_BETA, OPERATIONS, fma, numbers, on_cpu
from llvmlite.binding import get_host_cpu_features

from oobleck_stream.engine.arithmetic import activations

DECODE = """
import os, sys, numpy as np
sys.path.insert(0, sys.argv[1])
from oobleck_stream.engine.cpu import simd
if shape := os.environ.get("OOBLECK_STREAM_TEST_TILE"):
    simd.TILE_ROWS, simd.TILE_VECTORS = map(int, shape.split())
from networks import model_of, random_latents, small
from oobleck_stream.engine.cpu import interpreter
sound = [model_of(small("stable-audio-open-1.0", 9)).decode(random_latents(small("yue2"), 13)),
         model_of(small("ezaudio", 5, final_tanh=True)).decode(random_latents(small("ezaudio"), 9))]
np.save(sys.argv[2], np.concatenate([part.ravel() for part in sound]))
assembly = "".join(interpreter.run.inspect_asm().values()) if len(sys.argv) > 3 else ""
stats = interpreter.run.stats
print(sum(stats.cache_misses.values()), sum(stats.cache_hits.values()),
      assembly.count("zmm"), assembly.count("vfmadd"))
"""


ON_X86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="needs an x86-64 processor"
)


def needs(feature):
    """Skip a test if this processor lacks the instructions that it executes."""
    missing = not get_host_cpu_features().get(feature, False)
    return pytest.mark.skipif(missing, reason=f"this processor has no {feature}")


def run_decode(path, cache, *arguments, **environment):
    """Decode in a new process; return cache misses, cache hits, and uses of zmm and of FMA."""
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


@ON_X86
@pytest.mark.parametrize(
    "processor",
    [
        pytest.param("haswell", marks=needs("avx2")),
        pytest.param("x86-64-v4", marks=needs("avx512f")),
    ],
)
def test_other_instructions_same_bits(tmp_path, expected, processor):
    """AVX2 and AVX-512 kernels are bit-identical to the kernels for this processor.

    On a processor without AVX-512, the stored fingerprints of `test_demo.py` compare AVX2 with
    AVX-512: AVX-512 kernels have made them.
    """
    environment = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    counts = run_decode(tmp_path / "x.npy", tmp_path / "cache", "assembly", **environment)
    if processor == "haswell":
        assert counts[2] == 0
    assert counts[3] > 50
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


@ON_X86
def test_without_fma_same_bits(tmp_path, expected):
    """A processor without fused multiply-add calls libm for it, which is slow but exact."""
    environment = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    counts = run_decode(tmp_path / "x.npy", tmp_path / "cache", "assembly", **environment)
    assert counts[2:] == [0, 0]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


@pytest.mark.parametrize("shape", ["1 1", "5 2", "12 1", "3 2"])
def test_any_tile_same_bits(tmp_path, expected, shape):
    """The size of the tiles, and so the division of the work, does not change the result."""
    run_decode(tmp_path / "x.npy", tmp_path / "cache", OOBLECK_STREAM_TEST_TILE=shape)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


@pytest.mark.parametrize("name", ["snake", "tanh"])
def test_snake_and_tanh_have_the_bits_of_numpy(name):
    """The CPU's kernel computes what NumPy's float32 operations compute, one by one."""
    snake, tanh = activations(OPERATIONS)
    values = numbers(64000)
    with np.errstate(all="ignore"):
        expected = tanh(values) if name == "tanh" else snake(values, ALPHA, INVERSE_BETA)
    got = on_cpu(name, values)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
    real = ~np.isnan(values)
    np.testing.assert_array_equal(got.view(np.int32)[real], expected.view(np.int32)[real])


def test_the_fused_multiply_add_of_these_tests_rounds_once():
    """Against exact fractions, also where rounding twice would be wrong."""
    random = np.random.default_rng(1)
    a, b = random.standard_normal((2, 2000)).astype(np.float32)
    # Half of the sums cancel.
    c = np.where(random.random(2000) < 0.5, -a * b, random.standard_normal(2000))
    # 2**-70 off a tie: float64 can't tell, and would round to the even neighbour.
    a[:2], b[:2], c[:2] = 1 + 2.0**-23, 2.0**-24 * (1 - 2.0**-23), (1 + 2.0**-23, -1 - 2.0**-23)
    a[2:4], b[2:4], c[2:4] = -a[:2], b[:2], c[1::-1]
    c = c.astype(np.float32)
    got = fma(a, b, c)
    for x, y, z, value in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        error = abs(Fraction(float(value)) - exact)
        for neighbour in (-np.inf, np.inf):
            other = np.nextafter(value, np.float32(neighbour))
            assert error <= abs(Fraction(float(other)) - exact)
