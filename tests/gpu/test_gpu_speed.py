"""Prints the times of a GPU (`pytest -m gpu -s`); no test asserts a time.

For comparison, PyTorch runs in float32 with TF32 off, eager and compiled.
"""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest
from networks import signal_to_noise

import oobleck_stream as ob
from oobleck_stream.reference import TorchOperations, output, prepare
from oobleck_stream.validation.tensors import packed_tensors

SECONDS = 4.0
"""Duration for which a case is repeated."""


@functools.cache
def full_size():
    return ob.random_model("stable-audio-open-1.0", seed=0)


def times(call, warm=3):
    """Seconds of each call, sorted."""
    for _ in range(warm):
        call()
    found, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(found) < 5:
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return np.sort(found)


def of_frames(frames):
    """Seconds of audio."""
    return frames * full_size().hop / full_size().samplerate


def say(what, found, seconds):
    median, slow = np.median(found), found[int(0.99 * (len(found) - 1))]
    print(
        f"\n{what}: median {1e3 * median:.3f} ms, p99 {1e3 * slow:.3f} ms, "
        f"{seconds / median:.0f} times real time",
        end="",
    )


@pytest.mark.parametrize("frames", [1, 4, 16, 64])
def test_pushes(frames):
    latents = np.random.default_rng(0).standard_normal((frames, 64)).astype(np.float32)
    decoder = ob.StreamingDecoder(full_size(), backend="cuda")
    say(f"push of {frames}", times(lambda: decoder.push(latents), warm=30), of_frames(frames))
    assert decoder.samples_out > 0


@pytest.mark.parametrize("streams", [1, 4, 16, 64, 256])
def test_streams_in_real_time(streams):
    frame = np.random.default_rng(0).standard_normal((streams, 1, 64)).astype(np.float32)
    decoder = ob.MultiStreamDecoder(full_size(), streams, backend="cuda")
    found = times(lambda: decoder.push(frame), warm=30)
    say(f"{streams} streams, a frame each", found, of_frames(1))
    assert decoder.samples_out[0] > 0


@pytest.mark.parametrize("frames", [64, 1024, 3660])
def test_whole_pieces_beside_torch(frames):
    latents = np.random.default_rng(0).standard_normal((frames, 64)).astype(np.float32)
    ours = full_size().decode(latents, backend="cuda")
    found = times(lambda: full_size().decode(latents, backend="cuda"), warm=2)
    say(f"{frames} frames at once", found, of_frames(frames))
    torch = pytest.importorskip("torch")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    operations, config = TorchOperations("cuda", torch.float32), full_size().config
    tensors = packed_tensors(full_size().decoder, config)
    network = prepare(tensors, operations, config.snake_epsilon)
    plain = functools.partial(output, network, operations=operations)
    for name, function in (("torch", plain), ("torch.compile", torch.compile(plain))):

        def theirs(function=function):
            with torch.inference_mode():
                return operations.to_rows(function(operations.from_rows(latents)))

        try:
            result = theirs()
        except Exception as error:
            print(f"\n{name}: {type(error).__name__}: {str(error).splitlines()[0]}", end="")
            continue
        say(f"{frames} frames, {name}", times(theirs, warm=2), of_frames(frames))
        assert signal_to_noise(result.astype(np.float64), ours) > 100
