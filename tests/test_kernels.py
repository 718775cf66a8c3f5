"""The compiled code: the same bits for other instructions, and found again on disk."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from command_line import run_process
from float32_operations import ALPHA, INVERSE_BETA, OPERATIONS, fma, numbers, on_cpu
from llvmlite.binding import get_host_cpu_features

import oobleck_stream as ob
from oobleck_stream.engine.arithmetic import activations
from oobleck_stream.loading import TINY

DECODE = """
import os, sys, numpy as np
sys.path.insert(0, sys.argv[1])
from oobleck_stream.engine.cpu import simd
if shape := os.environ.get("OOBLECK_STREAM_TEST_TILE"):
    simd.TILE_ROWS, simd.TILE_VECTORS = map(int, shape.split())
from networks import model_of, random_latents, small
from oobleck_stream.engine.cpu import interpreter
sound = [model_of(small("stable-audio-open-1.0", 9)).decode(random_latents(small("yue2"), 13)),
         model_of(small("ezaudio", 5, final_tanh=True)).decode(random_latents(small("ezaudio"), 9)),
         model_of(small("ezaudio", 16), dtype="F16").decode(random_latents(small("ezaudio"), 5)),
         model_of(small("ezaudio", 16), dtype="BF16").decode(random_latents(small("ezaudio"), 5))]
np.save(sys.argv[2], np.concatenate([part.ravel() for part in sound]))
assembly = "".join(interpreter.run.inspect_asm().values()) if len(sys.argv) > 3 else ""
stats = interpreter.run.stats
print(sum(stats.cache_misses.values()), sum(stats.cache_hits.values()),
      assembly.count("zmm"), assembly.count("vfmadd"))
"""


DIGESTS = {
    False: "47001983018397569fad1671f022d68bb4257e9bfe6e0c5423dca75ea64bfbe3",
    True: "db8110f02a1f28bade60ccd47099b52ec3358cba27fce7444d93a542d220b231",
}
"""SHA-256 of the samples of 150 frames of a bundled piece, without and with a final tanh.

They change when the order of arithmetic changes, which breaks the promise to everyone who compares
sound with an earlier version: `oobleck_stream/README.md`, "What must never change".
"""


@dataclass(frozen=True)
class Variant:
    """Environment variables that change the compiled code, and what is known of it."""

    variables: dict[str, str]
    fused: bool | None = None
    zmm: bool | None = None


def processor(name, **known):
    return Variant({"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}, **known)


VARIANTS = {
    "haswell": processor("haswell", fused=True, zmm=False),
    "nehalem": processor("nehalem", fused=False, zmm=False),
    "x86-64-v4": processor("x86-64-v4", fused=True),
} | {
    f"tile {shape}": Variant({"OOBLECK_STREAM_TEST_TILE": shape})
    for shape in ("1 1", "5 2", "12 1", "3 2")
}
ON_X86 = {"haswell": "avx2", "nehalem": None, "x86-64-v4": "avx512f"}
"""The instructions that these variants execute: the tests run only where there are such."""


def variants():
    """The variants as parameters; by default without AVX-512, and with two shapes of tiles."""
    features = get_host_cpu_features()
    for name in VARIANTS:
        marks = []
        if name in ("tile 12 1", "tile 3 2", "x86-64-v4"):
            marks.append(pytest.mark.nightly)
        if name in ON_X86:
            x86 = platform.machine().lower() in ("x86_64", "amd64")
            there = x86 and (ON_X86[name] is None or features.get(ON_X86[name], False))
            marks.append(pytest.mark.skipif(not there, reason=f"needs {ON_X86[name] or 'x86-64'}"))
        yield pytest.param(name, marks=marks)


def run_decode(path, cache, *arguments, **environment):
    """Decode in a new process; cache misses, cache hits, uses of zmm and of FMA."""
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
def decoded(request, tmp_path_factory):
    """What a variant's process decodes, and its counts; two processes run at a time."""
    folder = tmp_path_factory.mktemp("variants")

    def decode(name):
        path = folder / f"{name}.npy"
        counts = run_decode(path, folder / name, "assembly", **VARIANTS[name].variables)
        return np.load(path), counts

    asked = [
        item.callspec.params["variant"]
        for item in request.session.items
        if "decoded" in getattr(item, "fixturenames", ())
        and not any(mark.args[0] for mark in item.iter_markers("skipif"))
        and not item.get_closest_marker("skip")
    ]
    with ThreadPoolExecutor(2) as pool:
        running = {name: pool.submit(decode, name) for name in asked}
        yield lambda name: running[name].result()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache folder, and what a command printed that compiled kernels into it."""
    folder = tmp_path_factory.mktemp("kernels")
    np.save(folder / "a.npy", ob.piece("keys")[:3])
    arguments = ("decode", folder / "a.npy", "-o", folder / "a.wav", "--model", "tiny")
    variables = {"NUMBA_CACHE_DIR": str(folder / "cache")}
    first, second = (run_process(*arguments, env=variables).stderr for _ in range(2))
    return folder / "cache", first, second


@pytest.fixture(scope="module")
def expected(compiled, tmp_path_factory):
    """The samples of this machine's own kernels, found on disk."""
    path = tmp_path_factory.mktemp("expected") / "here.npy"
    assert run_decode(path, compiled[0])[:2] == [0, 1]
    return np.load(path)


@pytest.mark.parametrize("tanh", DIGESTS)
def test_the_bits_of_every_version(tanh):
    """Fails if a fused multiply-add is split, a sum is reordered or a constant changes."""
    config = ob.load("tiny").config.replace(final_tanh=tanh)
    audio = ob.load(TINY, config=config).decode(ob.piece("keys")[:150])
    assert hashlib.sha256(audio.astype("<f4").tobytes()).hexdigest() == DIGESTS[tanh]


def test_a_command_reports_compiling_once(compiled):
    _, first, second = compiled
    assert first.count("compiling kernels (once)\n") == 1
    assert "compiling kernels" not in second


@pytest.mark.parametrize("variant", list(variants()))
def test_every_variant_has_the_same_bits(decoded, expected, variant):
    """AVX-512, AVX2, and FMA in libm, and every shape of the tiles that divide the work."""
    sound, (_, _, zmm, fused) = decoded(variant)
    np.testing.assert_array_equal(sound, expected)
    known = VARIANTS[variant]
    assert known.zmm in (None, zmm > 0)
    assert known.fused in (None, fused > (50 if known.fused else 0))


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
