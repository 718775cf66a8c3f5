"""An exception raised at any bytecode of an operation leaves no mixture of two states behind.

Afterwards a stream has its old state, or its new one, or it refuses to go on until it is reset. A
mixture would be wrong sound without an error.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from networks import model_of, random_audio, random_latents, small

import oobleck_stream as ob

CONFIG = small("stable-audio-open-1.0", channels=2, strides=(2, 3), multiples=(1, 2))
MODEL = model_of(CONFIG)
FRAMES = random_latents(CONFIG, 40)
AUDIO = random_audio(CONFIG, 40 * CONFIG.hop)
MASK = [True, False, True]


class Interrupted(BaseException):
    """Raised by the sweep where Ctrl-C would raise KeyboardInterrupt."""


def interrupt(action, point):
    """Run an action and raise at its bytecode number `point`; how many it passed."""
    passed = 0

    def trace(frame, event, argument):
        nonlocal passed
        name = frame.f_code.co_filename
        if "oobleck_stream" not in name and not name.endswith("contextlib.py"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            passed += 1
            if passed == point:
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return passed


class Decoder:
    """A decoder of one stream."""

    streams = (None,)
    actions = ("reset", "seek", "restore", "snapshot", "push", "flush")

    def prepare(self):
        stream = ob.StreamingDecoder(MODEL, threads=2)
        # Pushes of a length that `go_on` repeats: their plans are known and used again.
        for first in range(0, 18, 3):
            stream.push(FRAMES[first : first + 3])
        return stream

    def act(self, stream, action, state):
        operations = {
            "reset": lambda: stream.reset(),
            "seek": lambda: stream.seek(21),
            "restore": lambda: stream.restore(state),
            "snapshot": lambda: stream.snapshot(),
            "push": lambda: stream.push(FRAMES[18:21]),
            "flush": lambda: stream.flush(),
        }
        return operations[action]

    def state(self):
        other = ob.StreamingDecoder(MODEL, threads=1)
        other.push(FRAMES[7:21])
        return other.snapshot()

    def go_on(self, stream, number):
        position = (stream.frames_in, stream.samples_out)
        chunks = [stream.push(FRAMES[first : first + 3]) for first in range(30, 39, 3)]
        return [np.array(position), *chunks, stream.flush()]

    def start_again(self, stream, number):
        stream.reset()
        return [stream.push(FRAMES[:9]), stream.flush()]


class EarlyDecoder(Decoder):
    """A decoder with a small look-ahead, and its exact samples."""

    def prepare(self):
        stream = ob.StreamingDecoder(MODEL, threads=2, look_ahead=MODEL.latency // 4)
        for first in range(0, 18, 3):
            stream.push(FRAMES[first : first + 3])
        return stream

    def go_on(self, stream, number):
        position = (stream.frames_in, stream.samples_out)
        chunks = [np.array(position)]
        for first in range(30, 39, 3):
            chunks += [stream.push(FRAMES[first : first + 3]), stream.exact]
        return [*chunks, stream.flush(), stream.exact]


class Encoder(Decoder):
    """An encoder that draws samples, so that its noise is part of the state."""

    actions = ("reset", "restore", "snapshot", "push", "flush")

    def prepare(self):
        stream = ob.StreamingEncoder(MODEL, threads=2, sample=True, seed=3)
        for first in range(0, 120, 30):
            stream.push(AUDIO[first : first + 30])
        return stream

    def act(self, stream, action, state):
        if action == "push":
            return lambda: stream.push(AUDIO[120:150])
        return super().act(stream, action, state)

    def state(self):
        other = ob.StreamingEncoder(MODEL, threads=1, sample=True, seed=3)
        other.push(AUDIO[50:183])
        return other.snapshot()

    def go_on(self, stream, number):
        position = (stream.samples_in, stream.frames_out)
        chunks = [stream.push(AUDIO[first : first + 30]) for first in range(150, 240, 30)]
        return [np.array(position), *chunks, stream.flush()]

    def start_again(self, stream, number):
        stream.reset()
        return [stream.push(AUDIO[:90]), stream.flush()]


class ManyStreams(Decoder):
    """Three streams in one decoder; an operation on some must not touch the others."""

    streams = (0, 1, 2)
    actions = ("reset", "reset all", "seek", "restore", "push", "flush")

    def prepare(self):
        stream = ob.MultiStreamDecoder(MODEL, 3, threads=2)
        for first in range(0, 18, 3):
            stream.push(np.stack([FRAMES[at + first : at + first + 3] for at in (0, 5, 9)]))
        return stream

    def act(self, stream, action, state):
        frames = np.stack([FRAMES[18:21], FRAMES[23:26], FRAMES[27:30]])
        operations = {
            "reset": lambda: stream.reset(1),
            "reset all": lambda: stream.reset(),
            "seek": lambda: stream.seek(21, 1),
            "restore": lambda: stream.restore(state, 1),
            "push": lambda: stream.push(frames, active=MASK),
            "flush": lambda: stream.flush(active=MASK),
        }
        return operations[action]

    def go_on(self, stream, number):
        position = (stream.frames_in[number], stream.samples_out[number])
        only = np.arange(3) == number
        frames = [np.stack([FRAMES[first : first + 3]] * 3) for first in range(30, 39, 3)]
        chunks = [stream.push(three, active=only)[number] for three in frames]
        return [np.array(position), *chunks, stream.flush(active=only)[number]]

    def start_again(self, stream, number):
        stream.reset(number)
        only = np.arange(3) == number
        chunk = stream.push(np.stack([FRAMES[:9]] * 3), active=only)[number]
        return [chunk, stream.flush(active=only)[number]]


SUBJECTS = {
    "decoder": Decoder(),
    "early": EarlyDecoder(),
    "encoder": Encoder(),
    "streams": ManyStreams(),
}
CASES = [(name, action) for name, subject in SUBJECTS.items() for action in subject.actions]


def outcome(subject, stream, number):
    """What a stream gives from here on; None if it refuses to go on."""
    try:
        return subject.go_on(stream, number)
    except RuntimeError as error:
        if "reset()" not in str(error) or "thread" in str(error):
            raise
        return None


def same(some, others):
    if some is None or others is None:
        return some is others
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def sweep(subject, action, most=None):
    """Interrupt an action at its bytecodes, or at most so many: how often each outcome came.

    The first and the last ones, where state is claimed and given back, come one by one.
    """
    state = subject.state()
    complete = subject.prepare()
    subject.act(complete, action, state)()
    untouched = subject.prepare()
    old = [outcome(subject, untouched, number) for number in subject.streams]
    new = [outcome(subject, complete, number) for number in subject.streams]
    fresh = [subject.start_again(subject.prepare(), number) for number in subject.streams]
    total = interrupt(subject.act(subject.prepare(), action, state), None)
    points = set(range(1, total + 1))
    if most is not None:
        third = most // 3
        points &= {
            *range(third),
            *range(total - third, total + 1),
            *range(1, total, max(1, total // third)),
        }
    counts = {"old": 0, "new": 0, "refused": 0}
    for point in sorted(points):
        stream = subject.prepare()
        if interrupt(subject.act(stream, action, state), point) < point:
            break
        for place, number in enumerate(subject.streams):
            found = outcome(subject, stream, number)
            if same(found, old[place]):
                counts["old"] += 1
            elif same(found, new[place]):
                counts["new"] += 1
            else:
                assert found is None, f"bytecode {point}: stream {number} went on from a mixture"
                counts["refused"] += 1
                again = subject.start_again(stream, number)
                assert same(again, fresh[place]), f"bytecode {point}: stream {number}"
    return counts


@pytest.mark.parametrize(("name", "action"), CASES)
def test_interrupted_anywhere(name, action):
    counts = sweep(SUBJECTS[name], action, 90)
    assert counts["old"] > 0


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "action"), CASES)
def test_interrupted_at_every_bytecode(name, action):
    """At every bytecode, unless an action executes so many that trying them would take hours."""
    print(name, action, sweep(SUBJECTS[name], action, 30_000))
