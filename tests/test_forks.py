"""A forked child can use what it inherited, whatever its parent's threads did at that moment."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from networks import model_of, random_audio, random_latents, small

import oobleck_stream as ob

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

CONFIG = small("stable-audio-open-1.0", channels=2, strides=(2, 3), multiples=(1, 2))
MODEL = model_of(CONFIG)
FRAMES = random_latents(CONFIG, 40)
WHOLE = MODEL.decode(FRAMES)


def child_succeeds(work):
    """Fork; whether `work` returns True in the child within 30 seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            os._exit(0 if work() else 1)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def decodes_from_start(decoder):
    decoder.reset()
    chunks = [decoder.push(frame) for frame in FRAMES]
    return np.array_equal(np.concatenate([*chunks, decoder.flush()]), WHOLE)


def fork_while_pushing(seconds):
    """Fork again and again while a thread pushes; children go on with the decoder it uses."""
    decoder, stop = ob.StreamingDecoder(MODEL, threads=3), threading.Event()

    def work():
        while not stop.is_set():
            decoder.reset()
            for frame in FRAMES:
                decoder.push(frame)

    thread = threading.Thread(target=work)
    thread.start()
    forks, end = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            assert child_succeeds(lambda: decodes_from_start(decoder)), f"fork {forks}"
            forks += 1
    finally:
        stop.set()
        thread.join()
    return forks


def test_fork_while_a_thread_pushes():
    assert fork_while_pushing(2) > 0


@pytest.mark.nightly
def test_fork_while_a_thread_pushes_for_long():
    print(fork_while_pushing(120), "forks")


def test_fork_with_a_follower_inside():
    """A follower that was counted in at the moment of the fork does not exist in the child."""
    decoder = ob.StreamingDecoder(MODEL, threads=2)
    decoder.push(FRAMES[:5])
    control = decoder._streams.stack._engine._control
    before = control.copy()
    control[:8] = 1
    succeeded = child_succeeds(lambda: decodes_from_start(decoder))
    control[:] = before
    assert succeeded


def test_fork_between_pushes_goes_on():
    decoder = ob.StreamingDecoder(MODEL, threads=2)
    start = decoder.push(FRAMES[:15])

    def rest():
        return np.concatenate([start, decoder.push(FRAMES[15:]), decoder.flush()])

    assert child_succeeds(lambda: np.array_equal(rest(), WHOLE))
    np.testing.assert_array_equal(rest(), WHOLE)


def test_fork_while_an_encoder_is_loaded():
    parent, loading, go_on = os.getpid(), threading.Event(), threading.Event()

    def load():
        loading.set()
        if os.getpid() == parent:
            go_on.wait()
        return MODEL.load_encoder()

    model = dataclasses.replace(MODEL, load_encoder=load)
    audio = random_audio(CONFIG, 50)
    thread = threading.Thread(target=model.encode, args=(audio,))
    thread.start()
    loading.wait()
    try:
        assert child_succeeds(lambda: np.array_equal(model.encode(audio), MODEL.encode(audio)))
    finally:
        go_on.set()
        thread.join()
