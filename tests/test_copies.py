"""Copies and pickles have the exact state; what holds a device or a connection has none."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from networks import random_audio, random_latents, small

import oobleck_stream as ob
from oobleck_stream.server.serving import BackgroundServer

CONFIG = small("stable-audio-open-1.0")
MODEL = ob.random_model(CONFIG)
LATENTS = random_latents(CONFIG, 40)
AUDIO = random_audio(CONFIG, 3 * CONFIG.hop)


def pickled(stream):
    return pickle.loads(pickle.dumps(stream))


COPIES = pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])

DECODERS = {
    "usual": {},
    "early": {"look_ahead": 0.05},
    "held": {"look_ahead": 200, "fade": 32, "missing": "held", "threads": 2},
    "paired": {"pairing": 2},
    "without exact samples": {"look_ahead": 200, "exact": False},
}


@COPIES
@pytest.mark.parametrize("options", DECODERS.values(), ids=DECODERS)
def test_a_decoder(duplicate, options):
    def decoder():
        made = ob.StreamingDecoder(MODEL, **options)
        made.push(LATENTS[:15])
        return made

    expected = decoder()
    original = decoder()
    other = duplicate(original)
    assert type(other) is ob.StreamingDecoder
    assert (other.frames_in, other.samples_out) == (15, original.samples_out)
    assert (other.latency, other.backend) == (original.latency, original.backend)
    if options.get("exact", True):
        np.testing.assert_array_equal(other.exact, original.exact)
    original.push(-LATENTS[:9])
    original.reset()
    for rows in (LATENTS[15:17], LATENTS[17:]):
        np.testing.assert_array_equal(other.push(rows), expected.push(rows))
    np.testing.assert_array_equal(other.flush(), expected.flush())
    with pytest.raises(RuntimeError, match="after flush"):
        duplicate(other).push(LATENTS)


@COPIES
def test_a_decoder_after_a_seek(duplicate):
    original = ob.StreamingDecoder(MODEL)
    first = original.seek(20)
    original.push(LATENTS[first:12])
    other = duplicate(original)
    sound = np.concatenate([other.push(LATENTS[12:]), other.flush()])
    np.testing.assert_array_equal(sound, MODEL.decode(LATENTS)[20 * MODEL.hop :])


@COPIES
def test_several_streams(duplicate):
    original = ob.MultiStreamDecoder(MODEL, 3)
    frames = np.stack([LATENTS, LATENTS[::-1], -LATENTS])
    original.push(frames[:, :20])
    original.push(frames[:, 20:25], active=[True, False, True])
    other = duplicate(original)
    assert other.frames_in == [25, 20, 25]
    original.reset()
    chunks = other.push(frames[:, 20:], active=[False, True, False])
    sound = np.concatenate([chunks[1], other.flush([False, True, False])[1]])
    expected = MODEL.decode(frames[1])
    np.testing.assert_array_equal(sound, expected[len(expected) - len(sound) :])
    assert other.frames_in == [25, 40, 25]


@COPIES
@pytest.mark.parametrize("options", [{}, {"sample": True}, {"sample": True, "seed": 3}])
def test_an_encoder(duplicate, options):
    original = ob.StreamingEncoder(MODEL, **options, pad=False)
    original.push(AUDIO[:4000])
    other = duplicate(original)
    assert (other.samples_in, other.pad) == (4000, False)
    found = np.concatenate([other.push(AUDIO[4000:]), other.flush()])
    expected = np.concatenate([original.push(AUDIO[4000:]), original.flush()])
    np.testing.assert_array_equal(found, expected)
    assert len(found) > 0


@COPIES
def test_a_state_fits_the_copied_model(duplicate):
    decoder = ob.StreamingDecoder(MODEL)
    decoder.push(LATENTS[:20])
    model, state = duplicate((MODEL, decoder.snapshot()))
    other = ob.StreamingDecoder(model)
    other.restore(state)
    np.testing.assert_array_equal(other.push(LATENTS[20:]), decoder.push(LATENTS[20:]))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_share_the_weights(duplicate):
    assert duplicate(MODEL).decoder is MODEL.decoder
    assert duplicate(ob.StreamingDecoder(MODEL)).model is MODEL


def test_a_model_in_another_process(tmp_path):
    """Also from a memory map, with aligned parameters that nobody can change."""
    model = ob.load("tiny")
    decoder = ob.StreamingDecoder(model)
    before = decoder.push(ob.piece("keys")[:60])
    (tmp_path / "decoder").write_bytes(pickle.dumps(decoder))
    code = """
import pickle, sys
import numpy as np, oobleck_stream as ob
decoder = pickle.load(open("decoder", "rb"))
data = decoder.model.decoder.data
assert type(data) is np.ndarray and data.ctypes.data % 64 == 0 and not data.flags.writeable
np.save("rest.npy", np.concatenate([decoder.push(ob.piece("keys")[60:90]), decoder.flush()]))
np.save("encoded.npy", decoder.model.encode(np.full((640, 2), 0.25)))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    sound = np.concatenate([before, np.load(tmp_path / "rest.npy")])
    np.testing.assert_array_equal(sound, model.decode(ob.piece("keys")[:90]))
    encoded = model.encode(np.full((640, 2), 0.25))
    np.testing.assert_array_equal(np.load(tmp_path / "encoded.npy"), encoded)


def test_a_random_model():
    model = ob.random_model(CONFIG, seed=4)
    other = pickled(model)
    np.testing.assert_array_equal(other.decode(LATENTS), model.decode(LATENTS))
    np.testing.assert_array_equal(other.encode(AUDIO), model.encode(AUDIO))


@COPIES
def test_an_interrupted_stream_is_refused(duplicate, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    streams = ob.StreamingDecoder(MODEL), ob.StreamingEncoder(MODEL)
    with monkeypatch.context() as patch:
        patch.setattr("oobleck_stream.engine.cpu.engine.run_program", interrupt)
        for stream, rows in zip(streams, (LATENTS, AUDIO), strict=True):
            with pytest.raises(KeyboardInterrupt):
                stream.push(rows)
    for stream in streams:
        with pytest.raises(RuntimeError, match="interrupted"):
            duplicate(stream)


@COPIES
def test_a_connection_is_refused(duplicate):
    pytest.importorskip("websockets")
    pytest.importorskip("starlette")
    with (
        BackgroundServer(MODEL, slots=1) as server,
        ob.RemoteDecoder(server.url) as decoder,
        pytest.raises(TypeError, match="RemoteDecoder holds a connection and can't be copied"),
    ):
        duplicate(decoder)


@COPIES
def test_a_player_is_refused(duplicate):
    with pytest.raises(TypeError, match="Player holds an audio device and can't be copied"):
        duplicate(object.__new__(ob.Player))
