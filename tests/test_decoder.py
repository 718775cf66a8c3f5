"""The streaming decoder: the contract at every preset's geometry, and its manners."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest
from contract import (  # noqa: F401
    Subject,
    check_seek,
    cuts,
    test_cuts,
    test_interleaved,
    test_nothing_from_the_future,
    test_reset,
    test_restore,
    test_two_threads,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import GEOMETRIES, model_of, random_latents, small

import oobleck_stream as ob


@pytest.fixture(scope="module")
def models():
    return {name: model_of(small(name)) for name in GEOMETRIES}


@pytest.fixture(params=GEOMETRIES)
def subject(request, models):
    model = models[request.param]
    return Subject(
        make=lambda threads: ob.StreamingDecoder(model, threads=threads),
        whole=lambda latents: model.decode(latents, threads=1),
        due=lambda frames: max(0, frames * model.hop - model.latency),
        rows=random_latents(model.config, 40),
    )


@pytest.fixture
def model(models):
    return models["yue2"]


@settings(max_examples=6)
@given(data=st.data())
def test_seek(subject, data):
    length = data.draw(st.integers(1, 36))
    frame = data.draw(st.integers(0, length - 1))
    first = max(0, frame - subject.make(2).model.context)
    check_seek(subject, length, frame, data.draw(cuts(length - first)))


@pytest.mark.parametrize("strides", [(2,), (2, 2)])
def test_seek_to_the_end_without_context(strides):
    """The samples after the last frame's own are only biases here, but they are due."""
    config = ob.OobleckConfig(
        latent_dim=3,
        channels=2,
        multiples=(1, 2)[: len(strides)],
        strides=strides,
        kernel=1,
        kernel_per_stride=1,
        transpose_padding="(k-1)//2",
        output_padding="s-1",
    )
    model = ob.random_model(config)
    latents = random_latents(config, 5)
    expected = model.decode(latents)
    assert len(expected) > 5 * model.hop
    for frame in range(6):
        decoder = ob.StreamingDecoder(model)
        first = decoder.seek(frame)
        sound = np.concatenate([decoder.push(latents[first:]), decoder.flush()])
        np.testing.assert_array_equal(sound, expected[frame * model.hop :])


def test_context_is_exact(subject):
    """Frames `context` away reach a frame's samples on one side at least; further ones on none."""
    model = subject.make(1).model
    frame = 18
    own = slice(frame * model.hop, (frame + 1) * model.hop)
    expected = subject.whole(subject.rows)[own]

    def reached_from(other):
        changed = subject.rows.copy()
        changed[other] += 3
        return not np.array_equal(subject.whole(changed)[own], expected)

    assert reached_from(frame - model.context) or reached_from(frame + model.context)
    assert not reached_from(slice(0, frame - model.context))
    assert not reached_from(slice(frame + model.context + 1, None))


def test_counts(model):
    decoder = ob.StreamingDecoder(model)
    latents = random_latents(model.config, 20)
    assert (decoder.hop, decoder.samplerate, decoder.channels) == (1920, 48000, 2)
    assert decoder.latency == 22831
    for number, frame in enumerate(latents, start=1):
        chunk = decoder.push(frame)
        assert chunk.shape[1] == 2
        assert chunk.flags.c_contiguous
        assert decoder.frames_in == number
        assert decoder.samples_out == max(0, number * 1920 - 22831)
    decoder.flush()
    assert decoder.samples_out == 20 * 1920 - 64 == model.decoded_length(20)


def test_no_frames(model):
    assert model.decode(np.empty((0, 64))).shape == (0, 2)
    decoder = ob.StreamingDecoder(model)
    assert decoder.push(np.empty((0, 64))).shape == (0, 2)
    assert decoder.flush().shape == (0, 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(63), r"\(frames, 64\).*\(63,\)"),
        (np.zeros((2, 63)), r"\(frames, 64\).*\(2, 63\)"),
        (np.zeros((1, 2, 64)), r"\(1, 2, 64\)"),
        (np.zeros((2, 64), complex), "real numbers, not complex128"),
        (np.full((2, 64), "x"), "real numbers, not <U1"),
        (np.full((2, 64), None), "real numbers, not object"),
        (np.full((2, 64), np.nan), "frame 5"),
        (np.r_[np.zeros((1, 64)), np.full((1, 64), np.inf)], "frame 6"),
        (np.full((1, 64), 1e39), "frame 5"),
    ],
)
def test_a_rejected_push_changes_nothing(model, bad, message):
    latents = random_latents(model.config, 16)
    decoder = ob.StreamingDecoder(model)
    chunks = [decoder.push(latents[:5])]
    with pytest.raises(ValueError, match=message):
        decoder.push(bad)
    assert decoder.frames_in == 5
    chunks += [decoder.push(latents[5:]), decoder.flush()]
    np.testing.assert_array_equal(np.concatenate(chunks), model.decode(latents))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int16", "uint8", "bool", ">f4"])
def test_any_real_dtype_and_order(model, dtype):
    latents = np.clip(random_latents(model.config, 13) * 3, 0, 9).astype(dtype)
    expected = model.decode(latents.astype(np.float32))
    np.testing.assert_array_equal(model.decode(np.asfortranarray(latents)), expected)
    strided = np.repeat(latents, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(
        np.concatenate(list(ob.StreamingDecoder(model).stream(strided))), expected
    )
    np.testing.assert_array_equal(model.decode(latents.tolist()), expected)


def test_after_flush(model):
    decoder = ob.StreamingDecoder(model)
    decoder.push(np.zeros(64))
    decoder.flush()
    for action in (decoder.flush, lambda: decoder.push(np.zeros(64))):
        with pytest.raises(RuntimeError, match=r"after flush: reset\(\)"):
            action()
    state = decoder.snapshot()
    decoder.reset()
    decoder.push(np.zeros(64))
    decoder.restore(state)
    with pytest.raises(RuntimeError, match="after flush"):
        decoder.flush()


def test_an_interrupted_push_closes_the_decoder(model, monkeypatch):
    latents = random_latents(model.config, 14)
    decoder = ob.StreamingDecoder(model)
    decoder.push(latents[:4])

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("oobleck_stream.engine.cpu.engine.run_program", interrupt)
        with pytest.raises(KeyboardInterrupt):
            decoder.push(latents[4])
    for action in (decoder.flush, decoder.snapshot, lambda: decoder.push(latents[4])):
        with pytest.raises(RuntimeError, match="interrupted"):
            action()
    decoder.reset()
    sound = np.concatenate([decoder.push(latents), decoder.flush()])
    np.testing.assert_array_equal(sound, model.decode(latents))


def test_states_belong_to_a_model(models):
    state = ob.StreamingDecoder(models["yue2"]).snapshot()
    for stranger in (models["ezaudio"], model_of(small("yue2"))):
        with pytest.raises(ValueError, match="not one of a decoder of this model"):
            ob.StreamingDecoder(stranger).restore(state)


@pytest.mark.parametrize("frame", [-1, 1.5, True, "2", None])
def test_bad_seek(model, frame):
    with pytest.raises(ValueError, match="whole number from 0"):
        ob.StreamingDecoder(model).seek(frame)


@pytest.mark.parametrize(
    "threads", [0, -1, "many", "2", 257, 2.7, 2.0, float("inf"), float("nan"), True, [2]]
)
def test_bad_threads(model, threads):
    with pytest.raises(ValueError, match=r"^threads must be a whole number from 1 to 256"):
        ob.StreamingDecoder(model, threads=threads)


def test_threads_may_be_numpys(model):
    assert ob.StreamingDecoder(model, threads=np.int8(2)).push(np.zeros(64)).shape == (0, 2)


@pytest.mark.parametrize("threads", ["abc", "0", "2.7", "-1", "inf"])
def test_bad_threads_in_the_environment(model, monkeypatch, threads):
    monkeypatch.setenv("OOBLECK_STREAM_THREADS", threads)
    with pytest.raises(ValueError, match=r"^OOBLECK_STREAM_THREADS must be a whole number from 1"):
        ob.StreamingDecoder(model)


def test_decode_into(model):
    latents = random_latents(model.config, 15)
    out = np.zeros((model.decoded_length(15), 2), np.float32)
    assert model.decode(latents, out=out) is out
    np.testing.assert_array_equal(out, model.decode(latents))
    for bad in (out[1:], out.astype(float), np.asfortranarray(out)):
        with pytest.raises(ValueError, match="out must be"):
            model.decode(latents, out=bad)
    out[:] = 7
    latents[14] = np.nan
    with pytest.raises(ValueError, match="frame 14"):
        model.decode(latents, out=out)
    assert (out == 7).all()


def test_one_decoder_in_two_threads_is_refused(model):
    entered, go_on = threading.Event(), threading.Event()

    class SlowFrames:
        """Frames that are converted to an array only when the test says so."""

        def __array__(self, dtype=None, copy=None):
            entered.set()
            go_on.wait()
            return np.zeros((12, 64))

    decoder = ob.StreamingDecoder(model)
    thread = threading.Thread(target=decoder.push, args=(SlowFrames(),))
    thread.start()
    entered.wait()
    try:
        with pytest.raises(RuntimeError, match="another thread is using this stream"):
            decoder.push(np.zeros(64))
    finally:
        go_on.set()
        thread.join()
    assert decoder.frames_in == 12


def test_many_threads_and_a_fork():
    """A child forked after first use has threads of its own."""
    code = """
import os, numpy as np, oobleck_stream as ob
model = ob.random_model(ob.PRESETS["ezaudio"].replace(channels=4))
latents = np.random.default_rng(0).standard_normal((30, 128))
expected = model.decode(latents, threads=4)
child = os.fork()
same = np.array_equal(model.decode(latents, threads=3), expected)
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_other_threads_run_meanwhile(models):
    """The interpreter is free while the kernels work."""
    model, ticks, stop = models["stable-audio-open-1.0"], [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(None)
            stop.wait(0.0005)

    clock = threading.Thread(target=tick)
    clock.start()
    model.decode(random_latents(model.config, 1500), threads=1)
    stop.set()
    clock.join()
    assert len(ticks) > 3


def test_random_model():
    config = small("ezaudio")
    latents = random_latents(config, 12)
    first, second = (ob.random_model(config, seed=3).decode(latents) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, ob.random_model(config, seed=4).decode(latents))
    assert 1e-4 < first.std() < 10
    with pytest.raises(ValueError, match=r"unknown preset 'nonsense'.*stable-audio-open-1"):
        ob.random_model("nonsense")


@pytest.mark.parametrize("kernels", [3, 4, 5])
@pytest.mark.parametrize("padding", ["ceil(s/2)", "(k-1)//2"])
def test_long_transposed_kernels(kernels, padding):
    """More rows are dropped at the start than a block has."""
    config = ob.OobleckConfig(
        latent_dim=4,
        channels=4,
        multiples=(1, 2),
        strides=(2, 8),
        kernel_per_stride=kernels,
        transpose_padding=padding,
    )
    model = ob.random_model(config)
    latents = np.random.default_rng(0).standard_normal((40, 4))
    decoder = ob.StreamingDecoder(model)
    result = np.concatenate(list(decoder.stream(latents)))
    np.testing.assert_array_equal(result, model.decode(latents))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="sets x86's register")
@pytest.mark.skipif(os.name != "posix", reason="maps a page to run")
def test_a_host_that_flushes_subnormals():
    """Audio hosts have their threads flush subnormals to zero: the bits don't depend on it."""
    config = ob.OobleckConfig(
        latent_dim=16,
        channels=128,
        multiples=(2, 4),
        strides=(4, 8),
        bias=False,
        latent_scale=1e-38,
    )
    model = ob.random_model(config)
    latents = np.random.default_rng(0).standard_normal((50, 16))
    expected = model.decode(latents, threads=1)
    assert (np.abs(expected[expected != 0]) < np.finfo(np.float32).tiny).any()
    read_write_run = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=read_write_run)
    page.write(bytes([0x0F, 0xAE, 0x17, 0xC3]))  # ldmxcsr [rdi]; ret
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    load = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(start)
    usual, flushing = ctypes.c_uint32(0x1F80), ctypes.c_uint32(0x1F80 | 0x8040)
    for threads in (1, 2):
        load(ctypes.byref(flushing))
        try:
            found = model.decode(latents, threads=threads)
        finally:
            load(ctypes.byref(usual))
        np.testing.assert_array_equal(found, expected)
