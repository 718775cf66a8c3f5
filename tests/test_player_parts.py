"""The parts of the player without a sound server: tracks, producer, callback, ring, status line."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import random_latents, small

import oobleck_stream as ob
from oobleck_stream.errors import InputError
from oobleck_stream.files.excerpt import Excerpt
from oobleck_stream.player.callback import PlaybackCallback
from oobleck_stream.player.playlist import Playlist
from oobleck_stream.player.producer import Producer, TimedDecoder
from oobleck_stream.player.ring import Ring
from oobleck_stream.player.status import Status
from oobleck_stream.player.tracks import Repeated, tracks_of


@pytest.mark.parametrize("preset", ["stable-audio-open-1.0", "yue2", "document"])
def test_a_track_is_exact_from_any_sample_on(preset):
    model = ob.random_model(small(preset))
    latents = random_latents(model.config, 60)
    samples = model.decode(latents)
    track = tracks_of(latents, model)[0]
    assert track.length == len(samples)
    decoder = ob.StreamingDecoder(model)
    for start in [0, 1, model.hop - 1, model.hop, 20 * model.hop + 7, len(samples) - 1]:
        chunks = list(track.samples(decoder, start))
        assert np.array_equal(np.concatenate(chunks), samples[start:])
    assert sum(map(len, track.samples(decoder, len(samples)))) == 0


def test_repeated_frames_are_those_of_a_tiled_array():
    frames = np.arange(10).reshape(5, 2)
    repeated, tiled = Repeated(frames, 3), np.tile(frames, (3, 1))
    assert len(repeated) == len(tiled)
    for start, stop in [(0, 15), (3, 12), (14, 20), (15, 20)]:
        assert np.array_equal(repeated[start:stop], tiled[start:stop])
    assert np.array_equal(Repeated(frames, float("inf"))[10**9 : 10**9 + 2], frames[:2])


def test_a_device_that_does_not_wait_loses_nothing():
    model = ob.random_model(small("stable-audio-open-1.0", channels=2))
    latents = random_latents(model.config, 700)
    ring = Ring(44100, 2)
    callback = PlaybackCallback(ring, start_level=8820, lead_in=0, lead_out=1)
    playlist = Playlist(tracks_of(latents, model), model.samplerate)
    producer = Producer(playlist, TimedDecoder(model), ring, rounds=3)
    producer.start()
    played, out, sizes = hashlib.sha256(), np.zeros((4410, 2), np.float32), []
    more = True
    while more:
        if ring.fill < len(out) and not ring.ended:
            time.sleep(0.0005)
            continue
        before = ring.read
        more = callback.fill(out)
        played.update(out[: ring.read - before].tobytes())
        sizes.append(len(producer.marks))
    producer.stop()
    expected = model.decode(latents)
    assert ring.read == 3 * len(expected)
    assert played.digest() == hashlib.sha256(np.tile(expected, (3, 1)).tobytes()).digest()
    assert callback.underflows == 0
    assert max(sizes) <= 3


@given(data=st.data(), capacity=st.integers(1, 12))
def test_a_ring_returns_the_samples_written_to_it(data, capacity):
    ring, numbers = Ring(capacity, 1), np.arange(1, 200, dtype=np.float32)[:, None]
    expected: list[float] = []
    played: list[float] = []
    written = 0
    for _ in range(30):
        action, count = data.draw(st.sampled_from("wwwrrrd")), data.draw(st.integers(0, 15))
        if action == "w":
            taken = ring.write(numbers[written : written + count])
            assert taken == min(count, ring.room + taken)
            expected += numbers[written : written + taken, 0].tolist()
            written += taken
        elif action == "r":
            out = np.zeros((count, 1), np.float32)
            got = ring.read_into(out)
            assert got == min(count, len(expected))
            assert out[:got, 0].tolist() == expected[:got]
            assert not out[got:].any()
            played += expected[:got]
            del expected[:got]
            if ring.discards == 0:
                latest = ring.latest(min(5, ring.capacity - ring.fill))[:, 0].tolist()
                assert latest == played[len(played) - len(latest) :]
        else:
            ring.discard()
            expected.clear()
        assert ring.fill == len(expected)


def test_the_ring_between_two_threads_loses_nothing():
    ring, total = Ring(1000, 2), 40_000
    samples = np.arange(2 * total, dtype=np.float32).reshape(-1, 2)
    received = []

    def read() -> None:
        out, count = np.zeros((333, 2), np.float32), 0
        while count < total:
            got = ring.read_into(out)
            received.append(out[:got].copy())
            count += got

    reader = threading.Thread(target=read)
    reader.start()
    position = 0
    while position < total:
        position += ring.write(samples[position : position + 777])
    reader.join()
    assert np.array_equal(np.concatenate(received), samples)


def status_with(**changes):
    status = Status(
        track=1,
        tracks=3,
        name="a.npy",
        position=61.26,
        length=3700.0,
        paused=False,
        muted=False,
        looping=True,
        finished=False,
        volume=0.5,
        buffered=0.75,
        real_time_factor=0.3,
        level=1.0,
        underflows=2,
        device_underflows=0,
        silent_seconds=0.25,
    )
    return dataclasses.replace(status, **changes)


def test_the_bar_spans_what_is_played():
    """Between --start and the end that --length gives."""
    line = status_with(start=60, position=65, length=70).as_line(200)
    assert "1:05.0 / 1:10.0" in line
    assert "[==========          ]" in line
    assert "[                    ]" in status_with(start=60, position=60, length=70).as_line(200)


def test_an_excerpt_ends_with_its_piece():
    excerpt = Excerpt.of(100, 2.0, 3.0)
    assert (excerpt.begin, excerpt.end) == (200, 500)
    assert [excerpt.end_in(samples) for samples in (400, 600, None)] == [400, 500, 500]
    assert Excerpt.of(100, 2.0).end_in(None) is None
    with pytest.raises(InputError, match=r"a: lasts 2\.00 s: there is nothing at 2 s"):
        excerpt.require_within(200, 100, "a")
    for start, length in ((-1, None), (0, 0), (math.inf, None), (0, math.nan)):
        with pytest.raises(InputError, match="start must be from 0 and length above 0"):
            Excerpt.of(100, start, length)


def test_a_status_line_fits_the_terminal():
    status = status_with()
    line = status.as_line(200)
    for part in ("2/3", "1:01.2 / 1:01:40", "[========]", "buffer 750 ms", "RTF 0.30", "vol 50%"):
        assert part in line
    assert line.endswith("loop  late 2 (0.25 s)")
    for width in (80, 60):
        line = status.as_line(width)
        assert len(line) < width
        for part in ("2/3", "1:01.2 / 1:01:40", "vol 50%", "loop", "late 2 (0.25 s)"):
            assert part in line
    assert "RTF 0.30" in status.as_line(80)
    assert len(status.as_line(20)) == 19
