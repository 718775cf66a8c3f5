"""The promise as one reusable test: whatever the cuts, a stream gives the whole's bits.

A stream under test is described by four callables, so that a layer, a decoder and anything else
with state go through the same checks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class Subject:
    """What the contract needs to know of a stateful thing.

    Parameters
    ----------
    make : callable
        ``make(threads)`` gives a new stream with `push`, `flush`, `reset`, `snapshot`, `restore`.
    whole : callable
        ``whole(rows)`` computes everything at once.
    due : callable
        ``due(count)``: exactly how many output rows must have come after `count` input rows.
    rows : array
        Input rows to draw from.
    """

    make: Callable[[int], Any]
    whole: Callable[[np.ndarray], np.ndarray]
    due: Callable[[int], int]
    rows: np.ndarray


@st.composite
def cuts(draw, length):
    """Lengths of pieces that make up `length`: single rows, empty pieces, big ones."""
    points = draw(st.lists(st.integers(0, length), max_size=12))
    ends = sorted([*points, length])
    return np.diff([0, *ends]).tolist()


def pieces(rows, lengths):
    """Cut rows into pieces of the given lengths."""
    ends = np.cumsum(lengths)
    return [rows[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def run(stream, rows, lengths):
    """Push the pieces and flush; everything that came, in order."""
    chunks = [stream.push(piece) for piece in pieces(rows, lengths)]
    return np.concatenate([*chunks, stream.flush()])


def check_cuts(subject, length, lengths, threads):
    """Pushes and flush equal the whole, and every sample comes as early as it can."""
    rows = subject.rows[:length]
    stream, given, came = subject.make(threads), 0, 0
    chunks = []
    for piece in pieces(rows, lengths):
        chunks.append(stream.push(piece))
        given, came = given + len(piece), came + len(chunks[-1])
        assert came == subject.due(given)
    chunks.append(stream.flush())
    result = np.concatenate(chunks)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, subject.whole(rows))


def check_reset(subject, length, used):
    """After a reset, nothing of what was pushed before remains."""
    stream = subject.make(2)
    stream.push(subject.rows[::-1][:used])
    stream.reset()
    result = run(stream, subject.rows[:length], [length])
    np.testing.assert_array_equal(result, subject.whole(subject.rows[:length]))


def check_restore(subject, length, at):
    """A snapshot goes on in another stream, twice, and its origin is not disturbed."""
    rows = subject.rows[:length]
    first, second = subject.make(1), subject.make(2)
    before = first.push(rows[:at])
    state = first.snapshot()
    second.push(subject.rows[::-1][: at + 3])
    expected = subject.whole(rows)
    for stream in (second, second, first):
        stream.restore(state)
        rest = run(stream, rows[at:], [length - at])
        np.testing.assert_array_equal(np.concatenate([before, rest]), expected)


def check_interleaved(subject, length):
    """Two streams in turn do not disturb each other."""
    rows, others = subject.rows[:length], np.ascontiguousarray(subject.rows[::-1][:length])
    streams = subject.make(2), subject.make(1)
    chunks = [[], []]
    for position in range(length):
        for stream, chunk, source in zip(streams, chunks, (rows, others), strict=True):
            chunk.append(stream.push(source[position : position + 1]))
    for stream, chunk, source in zip(streams, chunks, (rows, others), strict=True):
        result = np.concatenate([*chunk, stream.flush()])
        np.testing.assert_array_equal(result, subject.whole(source))


def check_two_threads(subject, length, repeats=8):
    """Streams in several Python threads at once, each asking for two threads."""
    rows = subject.rows[:length]
    expected, failures = subject.whole(rows), []

    def work(step):
        stream = subject.make(2)
        for _ in range(repeats):
            stream.reset()
            lengths = [step] * (length // step) + [length % step]
            if not np.array_equal(run(stream, rows, lengths), expected):
                failures.append(step)

    workers = [threading.Thread(target=work, args=(step,)) for step in (1, 2, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def check_seek(subject, length, frame, lengths):
    """After a seek, the rest of the whole piece follows; `lengths` are those of the pieces."""
    decoder = subject.make(2)
    decoder.push(subject.rows[:7])
    first = decoder.seek(frame)
    assert first == max(0, frame - decoder.model.context)
    rows = subject.rows[first:length]
    chunks = [decoder.push(piece) for piece in pieces(rows, lengths)]
    assert decoder.frames_in == length
    expected = subject.whole(subject.rows[:length])
    skipped = (frame - first) * decoder.hop
    assert sum(map(len, chunks)) == max(0, subject.due(len(rows)) - skipped)
    sound = np.concatenate([*chunks, decoder.flush()])
    np.testing.assert_array_equal(sound, expected[frame * decoder.hop :])
    assert decoder.samples_out == len(expected)


def check_future(subject, length, at, value):
    """What is given out does not depend on any later row: `value` there changes nothing."""
    changed = subject.rows[:length].copy()
    changed[at:] = value
    stream = subject.make(2)
    given = stream.push(subject.rows[:at])
    assert len(given) == subject.due(at)
    other = subject.make(1)
    later = other.push(changed)
    np.testing.assert_array_equal(later[: len(given)], given)


# The tests of every module that has a fixture `subject`. The module imports them by name.


@settings(max_examples=8)
@given(data=st.data())
def test_cuts(subject, data):
    length = data.draw(st.integers(0, 32))
    check_cuts(subject, length, data.draw(cuts(length)), data.draw(st.sampled_from([1, 2, 4])))


@pytest.mark.parametrize("used", [13, 14])
def test_reset(subject, used):
    check_reset(subject, 15, used)


@pytest.mark.parametrize("at", [0, 3, 16])
def test_restore(subject, at):
    check_restore(subject, 18, at)


def test_interleaved(subject):
    check_interleaved(subject, 14)


def test_two_threads(subject):
    check_two_threads(subject, 16, repeats=3)


@pytest.mark.parametrize("at", [11, 20])
def test_nothing_from_the_future(subject, at):
    check_future(subject, 26, at, 50.0)
