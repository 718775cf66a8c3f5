"""Several streams in one decoder: each is what a decoder of its own would be, bit for bit."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import GEOMETRIES, small

import oobleck_stream as ob
from oobleck_stream.engine.cpu import engine as processor

CONFIG = small("stable-audio-open-1.0", channels=4, strides=(2, 3, 4), multiples=(1, 2, 4))
MODEL = ob.random_model(CONFIG, seed=3)
FRAMES = np.random.default_rng(0).standard_normal((5, 60, MODEL.latent_dim)).astype(np.float32)


class Lone:
    """Several decoders that do what one with streams does."""

    def __init__(self, model, streams, **options):
        self.decoders = [ob.StreamingDecoder(model, 1, **options) for _ in range(streams)]
        self.nothing = np.empty((0, model.channels), np.float32)

    def push(self, frames, active):
        return [
            decoder.push(rows) if mine else self.nothing
            for decoder, rows, mine in zip(self.decoders, frames, active, strict=True)
        ]

    def flush(self, active):
        return [
            decoder.flush() if mine else self.nothing
            for decoder, mine in zip(self.decoders, active, strict=True)
        ]


def assert_same(ours, expected):
    assert len(ours) == len(expected)
    for number, (mine, theirs) in enumerate(zip(ours, expected, strict=True)):
        np.testing.assert_array_equal(mine, theirs, err_msg=f"stream {number}")


ACTIONS = st.sampled_from(["push", "push", "push", "push", "flush", "reset", "seek", "move"])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_streams_are_independent(data):
    """Pushes to some, ends, resets, seeks and copies from one stream to another, in any order."""
    count = data.draw(st.integers(1, 5))
    threads, pairing = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 2]))
    together = ob.MultiStreamDecoder(MODEL, count, threads, pairing=pairing)
    alone = Lone(MODEL, count, pairing=pairing)
    ended = np.zeros(count, bool)
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(ACTIONS)
        stream = data.draw(st.integers(0, count - 1))
        if action in ("push", "flush"):
            mask = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
            mask = np.array(mask) & ~ended
            if action == "flush":
                assert_same(together.flush(mask), alone.flush(mask))
                ended |= mask
            else:
                first, length = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 20))
                frames = FRAMES[:count, first : first + length].copy()
                frames[~mask] = np.nan
                assert_same(together.push(frames, mask), alone.push(frames, mask))
        elif action == "reset":
            together.reset(stream)
            alone.decoders[stream].reset()
            ended[stream] = False
        elif action == "seek":
            frame = data.draw(st.integers(0, 30))
            assert together.seek(frame, stream) == alone.decoders[stream].seek(frame)
            ended[stream] = False
        else:
            other = data.draw(st.integers(0, count - 1))
            together.restore(together.snapshot(other), stream)
            alone.decoders[stream].restore(alone.decoders[other].snapshot())
            ended[stream] = ended[other]
        assert together.frames_in == [decoder.frames_in for decoder in alone.decoders]
        assert together.samples_out == [decoder.samples_out for decoder in alone.decoders]


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("streams", [2, 7])
def test_every_geometry(name, streams):
    model = ob.random_model(small(name, channels=8), seed=1)
    latents = np.random.default_rng(2).standard_normal((streams, 25, model.latent_dim))
    together = ob.MultiStreamDecoder(model, streams)
    chunks = [together.push(latents[:, first : first + 3]) for first in range(0, 25, 3)]
    chunks.append(together.flush())
    for number in range(streams):
        result = np.concatenate([chunk[number] for chunk in chunks])
        np.testing.assert_array_equal(result, model.decode(latents[number]))


def test_more_streams_than_run_together():
    """Groups of a program, and streams that come in later than others."""
    streams, frames = 40, np.resize(FRAMES, (40, 30, MODEL.latent_dim))
    frames *= np.linspace(0.5, 1.5, streams, dtype=np.float32)[:, None, None]
    together = ob.MultiStreamDecoder(MODEL, streams)
    results = [[] for _ in range(streams)]
    position = np.zeros(streams, int)
    for turn in range(60):
        active = (np.arange(streams) % 3 <= turn) & (position < 30)
        rows = frames[np.arange(streams), np.minimum(position, 29)]
        for number, chunk in enumerate(together.push(rows, active)):
            results[number].append(chunk)
        position += active
    for number, chunk in enumerate(together.flush()):
        result = np.concatenate([*results[number], chunk])
        np.testing.assert_array_equal(result, MODEL.decode(frames[number]))


def test_moves_wait_for_what_is_joined():
    """Long look-aheads in narrow layers: what waits to be moved is where a joined step writes."""
    config = ob.OobleckConfig(
        latent_dim=4, channels=128, multiples=(1,), strides=(4,), dilations=(1, 30, 30), kernel=15
    )
    model = ob.random_model(config)
    latents = np.random.default_rng(0).standard_normal((16, 83, 4)).astype(np.float32)
    for threads in (1, 2):
        together = ob.MultiStreamDecoder(model, 16, threads)
        parts = zip(together.push(latents), together.flush(), strict=True)
        for number, chunks in enumerate(parts):
            whole = model.decode(latents[number], threads=1)
            np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_stream_of_blocks():
    together = ob.MultiStreamDecoder(MODEL, 2)
    chunks = list(together.stream(FRAMES[:2].transpose(1, 0, 2)))
    assert all(any(map(len, chunk)) for chunk in chunks)
    for number in range(2):
        whole = np.concatenate([chunk[number] for chunk in chunks])
        np.testing.assert_array_equal(whole, MODEL.decode(FRAMES[number]))


def test_states_pass_between_lone_and_shared():
    lone, shared = ob.StreamingDecoder(MODEL), ob.MultiStreamDecoder(MODEL, 20)
    lone.push(FRAMES[0, :20])
    shared.restore(lone.snapshot(), 11)
    mask = np.arange(20) == 11
    expected = np.concatenate([lone.push(FRAMES[0, 20:]), lone.flush()])
    rows = np.resize(FRAMES[0, 20:], (20, 40, MODEL.latent_dim))
    found = np.concatenate([shared.push(rows, mask)[11], shared.flush(mask)[11]])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("streams", [0, -1, 1.5, True, "two"])
def test_number_of_streams(streams):
    with pytest.raises(ValueError, match="streams must be a whole number from 1"):
        ob.MultiStreamDecoder(MODEL, streams)


def test_rejected_pushes_change_nothing():
    together = ob.MultiStreamDecoder(MODEL, 2)
    together.push(FRAMES[:2, :10])
    bad = FRAMES[:2, 10:14].copy()
    bad[1, 2, 0] = np.inf
    with pytest.raises(ValueError, match=r"latents of stream 1 .*frame 12 is not"):
        together.push(bad)
    for wrong in (FRAMES[:3, :4], FRAMES[0, :4], FRAMES[:2, :4, :-1]):
        with pytest.raises(ValueError, match=r"latents of shape \(2, frames, "):
            together.push(wrong)
    with pytest.raises(ValueError, match="real numbers"):
        together.push(FRAMES[:2, :4].astype(complex))
    for mask in ([1, 0], [True], [[True, False]], "yes"):
        with pytest.raises(ValueError, match="active must be a bool for each of the 2 streams"):
            together.push(FRAMES[:2, 10:14], mask)
    state = together.snapshot(1)
    calls = (
        together.snapshot,
        lambda number: together.seek(3, number),
        lambda number: together.restore(state, number),
    )
    for call, number in itertools.product((together.reset, *calls), (2, -1, 1.0, True, "1")):
        with pytest.raises(ValueError, match=f"stream must be below 2, not {number!r}"):
            call(number)
    with pytest.raises(ValueError, match="stream must be below 2, not None"):
        together.seek(3, None)
    chunks = together.push(FRAMES[:2, 10:])
    assert together.frames_in == [60, 60]
    decoder = ob.StreamingDecoder(MODEL)
    decoder.push(FRAMES[1, :10])
    np.testing.assert_array_equal(chunks[1], decoder.push(FRAMES[1, 10:]))


def test_a_flushed_stream_is_named():
    together = ob.MultiStreamDecoder(MODEL, 3)
    together.push(FRAMES[:3, :5])
    together.flush([False, True, False])
    with pytest.raises(RuntimeError, match="push of stream 1 after flush"):
        together.push(FRAMES[:3, 5:])
    with pytest.raises(RuntimeError, match="flush of stream 1 after flush"):
        together.flush()
    assert together.frames_in == [5, 5, 5]
    together.reset(1)
    assert [len(chunk) > 0 for chunk in together.push(FRAMES[:3, :40])] == [True] * 3


def test_a_refused_thread_changes_no_stream(monkeypatch):
    """Another thread is sent away, and the streams that it meant go on."""
    together = ob.MultiStreamDecoder(MODEL, 2, 1)
    inside, go_on = threading.Event(), threading.Event()
    run = processor.run_program

    def slowly(*arguments):
        inside.set()
        go_on.wait(30)
        run(*arguments)

    monkeypatch.setattr(processor, "run_program", slowly)
    first = [True, False]
    thread = threading.Thread(target=together.push, args=(FRAMES[:2, :5], first))
    thread.start()
    assert inside.wait(30)
    for active in (first, [False, True]):
        with pytest.raises(RuntimeError, match="another thread is using this stream"):
            together.push(FRAMES[:2, :5], active)
    go_on.set()
    thread.join()
    together.push(FRAMES[:2, :5], [False, True])
    assert together.frames_in == [5, 5]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_closes_all_that_were_pushed(error, monkeypatch):
    """It comes between two groups: none that was meant stays open, and no other is closed."""
    streams = 40
    frames = np.resize(FRAMES, (streams, 60, MODEL.latent_dim))
    together = ob.MultiStreamDecoder(MODEL, streams, 2)
    together.push(frames[:, :20])
    active = np.arange(streams) != 3
    run, calls = processor.run_program, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise error
        run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(processor, "run_program", interrupted)
        with pytest.raises(error):
            together.push(frames[:, 20:30], active)
    for number in range(streams):
        if number != 3:
            with pytest.raises(RuntimeError, match="after an interrupted operation"):
                together.snapshot(number)
    together.push(frames[:, 20:], ~active)
    together.reset(17)
    mask = np.isin(np.arange(streams), (3, 17))
    result = together.flush(mask & ~(np.arange(streams) == 17))[3]
    np.testing.assert_array_equal(result, MODEL.decode(frames[3])[-len(result) :])
    chunks = [together.push(frames, np.arange(streams) == 17)[17]]
    chunks.append(together.flush(np.arange(streams) == 17)[17])
    np.testing.assert_array_equal(np.concatenate(chunks), MODEL.decode(frames[17]))
