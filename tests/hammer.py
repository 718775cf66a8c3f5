"""Attacks on decoders and encoders by many threads; all that they give is compared bit for bit.

As a program it makes one attack, for instance::

    python tests/hammer.py decoders --seconds 60

and prints as JSON how often it did what. It ends with an error at the first difference; when it
hangs, it prints where its threads are and ends. `tests/test_hammer.py` runs it as a process that is
stopped and continued all the time.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import functools
import gc
import itertools
import json
import os
import queue
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from networks import ENCODING, GEOMETRIES, model_of, random_audio, random_latents, small
from users import DecoderUser, EncoderUser, Piece, User, same_bits

import oobleck_stream as ob

CORES = os.cpu_count() or 1

MAX_THREADS = 2 * CORES + 2
"""Threads of a push."""

WORKERS = 2 * CORES + 1
"""Threads that push at the same time."""

MAX_LIFE = 100
"""Actions of a user before another one takes its place."""

MAX_QUIET = 180
"""Seconds without a finished action after which an attack counts as hanging."""

MAX_GROWTH = 64 << 20
"""Bytes by which the process may grow in the second half of an attack by dropped decoders."""


class Attack:
    """What an attack has: random numbers, counts of what was done, and a time when it ends.

    Parameters
    ----------
    seconds : float
    seed : int
    """

    def __init__(self, seconds: float, seed: int) -> None:
        self._seconds, self._end = seconds, 0.0
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def begin(self) -> None:
        """Let the time run."""
        self._end = time.monotonic() + self._seconds
        faulthandler.dump_traceback_later(MAX_QUIET, exit=True)

    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def random(self) -> Any:
        """A new generator of random numbers."""
        with self._lock:
            return np.random.default_rng(int(self._random.integers(2**63)))

    def count(self, counts: Counter[str]) -> None:
        """Add counts of what was done; from here on the attack may be quiet for `MAX_QUIET`."""
        with self._lock:
            self.counts.update(counts)
            faulthandler.dump_traceback_later(MAX_QUIET, exit=True)


# What is decoded and encoded


def config_named(name: str) -> ob.OobleckConfig:
    """A preset at a small width; ``"fast"`` has few samples a frame."""
    if name == "fast":
        return small("stable-audio-open-1.0", strides=(2, 3, 4), multiples=(1, 2, 4))
    return small(name)


@functools.cache
def decoding(name: str) -> tuple[ob.Model, list[Piece]]:
    """A model and two pieces for its decoder."""
    model = model_of(config_named(name))
    latents = [random_latents(model.config, 30 + seed, seed) for seed in (0, 7)]
    return model, [Piece(each, model.decode(each, threads=1)) for each in latents]


@functools.cache
def encoding(name: str, sample: bool) -> tuple[ob.Model, list[Piece]]:
    """A model and two pieces for its encoder; the noise has seed 3."""
    model = model_of(config_named(name))
    audio = [random_audio(model.config, 9 * model.hop + extra, extra) for extra in (0, 333)]
    options = {"sample": sample, "seed": 3}
    return model, [Piece(each, model.encode(each, threads=1, **options)) for each in audio]


def random_config(random: Any) -> ob.OobleckConfig:
    """A geometry with few samples a frame; ``ValueError`` for numbers that make none."""
    levels = int(random.integers(1, 5))
    return ob.OobleckConfig(
        latent_dim=int(random.integers(1, 40)),
        audio_channels=int(random.integers(1, 4)),
        channels=int(random.integers(1, 50)),
        multiples=tuple(random.integers(1, 5, levels)),
        strides=tuple(random.integers(1, 7, levels)),
        dilations=tuple(random.integers(1, 12, int(random.integers(1, 4)))),
        kernel=int(random.choice([1, 3, 5, 7, 9])),
        kernel_per_stride=int(random.integers(1, 4)),
        transpose_padding=random.choice(["ceil(s/2)", "(k-1)//2"]),
        output_padding=random.choice(["0", "s%2", "s-1"]),
        snake_log_scale=bool(random.integers(2)),
        bias=bool(random.integers(2)),
        output_bias=bool(random.integers(2)),
        final_tanh=bool(random.integers(2)),
    )


# The attacks


def decoders(attack: Attack) -> None:
    """Decoders of every geometry."""
    names = ["fast", *GEOMETRIES]

    def make(random: Any) -> User:
        name = names[0] if random.integers(2) else str(random.choice(names))
        return DecoderUser(name, *decoding(name), random, MAX_THREADS)

    use_in_threads(attack, make)


def streams(attack: Attack) -> None:
    """Decoders of up to twenty streams."""
    names = ["fast", "ezaudio", "document"]

    def make(random: Any) -> User:
        name = names[0] if random.integers(2) else str(random.choice(names))
        number = int(random.choice([1, 2, 3, 5, 20]))
        return DecoderUser(name, *decoding(name), random, MAX_THREADS, streams=number)

    use_in_threads(attack, make)


def encoders(attack: Attack) -> None:
    """Encoders of every geometry, with and without noise."""
    names = ["fast", *ENCODING]

    def make(random: Any) -> User:
        name, sample = str(random.choice(names)), bool(random.integers(2))
        options = {"sample": sample, "seed": 3}
        return EncoderUser(name, *encoding(name, sample), random, MAX_THREADS, options=options)

    use_in_threads(attack, make)


def geometries(attack: Attack) -> None:
    """Networks of random geometries; each has a user of its own."""

    def make(random: Any) -> User:
        try:
            model = model_of(random_config(random), int(random.integers(1000)))
        except ValueError:
            return make(random)
        attack.count(Counter(geometries=1))
        if random.integers(3) == 0:
            options = {
                "sample": bool(random.integers(2)),
                "seed": 3,
                "pad": bool(random.integers(2)),
            }
            audio = random_audio(model.config, int(random.integers(1, 40 * model.hop)))
            piece = Piece(audio, model.encode(audio, threads=1, **options))
            common = repr(model.config), model, [piece], random, MAX_THREADS
            return EncoderUser(*common, options=options)
        latents = random_latents(model.config, int(random.integers(1, 60)))
        piece = Piece(latents, model.decode(latents, threads=1))
        common = repr(model.config), model, [piece], random, MAX_THREADS
        return DecoderUser(*common, streams=random.choice([None, 1, 2, 5]))

    use_in_threads(attack, make)


def use_in_threads(attack: Attack, make: Callable[[Any], User]) -> None:
    """Keep more users than threads busy: each is now in one thread, now in another."""
    waiting: queue.SimpleQueue[tuple[User | None, int]] = queue.SimpleQueue()
    for _ in range(3 * WORKERS):
        waiting.put((None, 0))
    attack.begin()

    def work() -> None:
        while attack.left() > 0:
            user, life = waiting.get()
            if user is None:
                user = make(attack.random())
                life = int(user.random.integers(1, MAX_LIFE))
            for _ in range(min(life, 5)):
                user.act()
            attack.count(user.counts)
            user.counts.clear()
            life -= 5
            waiting.put((user if life > 0 else None, life))

    in_threads([work] * WORKERS)


class Dropped(BaseException):
    """Ends an iteration over a decoder. Like KeyboardInterrupt it may come anywhere."""


def drops(attack: Attack) -> None:
    """Decoders that are dropped in mid-iteration, while another thread collects garbage.

    Nothing may be left of them but the control blocks that followers were told of last. Each is
    used in a new thread; into some of these an exception is thrown, wherever they are.
    """
    names = ["fast", "ezaudio", "document"]
    for name in names:
        decoding(name)
    new_decoder = ob.StreamingDecoder  # An exception in the middle of an import would do harm.
    alive: list[weakref.ref[Any]] = []
    controls: list[weakref.ref[Any]] = []
    lock, stop = threading.Lock(), threading.Event()

    def collect() -> None:
        for number, generation in enumerate(itertools.cycle((0, 0, 0, 1, 2)), 1):
            gc.collect(generation)
            for references in (alive, controls):
                with lock:
                    references[:] = [each for each in references if each() is not None]
            if stop.wait(0.01):
                attack.count(Counter(collections=number))
                return

    def iterate(random: Any) -> None:
        name = names[0] if random.integers(4) else str(random.choice(names))
        model, pieces = decoding(name)
        piece, end = pieces[int(random.integers(2))], int(random.integers(30))
        way = str(random.choice(["source", "break", "throw", "whole"]))
        decoder = new_decoder(model, int(random.integers(2, MAX_THREADS + 1)))
        engine: Any = decoder._streams.stack._engine
        with lock:
            alive.extend([weakref.ref(decoder), weakref.ref(engine)])
        if random.integers(2):
            decoder.itself = decoder  # type: ignore[attr-defined]

        def source() -> Iterator[np.ndarray]:
            for number, frame in enumerate(piece.given):
                if number == end and way == "source":
                    raise Dropped
                yield frame

        chunks, at = decoder.stream(source()), 0
        for number, chunk in enumerate(chunks):
            same_bits(chunk, piece.made[at : at + len(chunk)], f"{name}, sample {at}")
            at += len(chunk)
            if number == 0:
                with lock:
                    controls.append(weakref.ref(engine._control))
            if number == end and way == "break":
                break
            if number == end and way == "throw":
                chunks.throw(Dropped)
        attack.count(Counter({"ended": 1, "samples": at}))

    def work(left: Callable[[], float]) -> None:
        random = attack.random()
        while left() > 0:
            errors: list[BaseException] = []
            victim = Victim(functools.partial(iterate, attack.random()), errors)
            if random.integers(2):
                victim.thread.join(float(random.exponential(0.02)))
                attack.count(Counter({"thrown into a thread": victim.throw(Dropped)}))
            victim.thread.join()
            attack.count(Counter({"decoders": 1, "dropped": len(errors)}))
            for error in errors:
                if not isinstance(error, Dropped):
                    raise error

    gc.freeze()  # Collections are quick without what is there already.
    attack.begin()
    half = attack.left() / 2
    collector = threading.Thread(target=collect)
    collector.start()
    try:
        in_threads([functools.partial(work, lambda: attack.left() - half)] * WORKERS)
        gc.collect()
        before = resident_bytes()
        in_threads([functools.partial(work, attack.left)] * WORKERS)
    finally:
        stop.set()
        collector.join()
    gc.collect()
    left_over = sum(each() is not None for each in alive)
    assert left_over == 0, f"{left_over} decoders and engines are still alive"
    followers = sum("follower" in thread.name for thread in threading.enumerate())
    told = sum(each() is not None for each in controls)
    assert told <= 3 * followers, f"{followers} followers, {told} control blocks still alive"
    grown = resident_bytes() - before
    assert grown < MAX_GROWTH, f"{grown} bytes more than half way"
    attack.count(Counter({"control blocks alive": told, "followers": followers, "grown": grown}))


class Victim:
    """Runs a function in a new thread, into which an exception may be thrown.

    Parameters
    ----------
    work : callable
    errors : list
        What the function raises is appended.
    """

    def __init__(self, work: Callable[[], None], errors: list[BaseException]) -> None:
        self._work, self._errors = work, errors
        self._ending, self._ended = threading.Lock(), False
        self.thread = start(self._run, errors)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            # The number of a thread that has ended may soon be that of another one.
            with self._ending:
                self._ended = True

    def throw(self, error: type[BaseException]) -> bool:
        """Raise an exception wherever the thread is, unless it has done its work. Only once."""
        with self._ending:
            if self._ended:
                return False
            number, raised = ctypes.c_ulong(self.thread.ident or 0), ctypes.py_object(error)
            return ctypes.pythonapi.PyThreadState_SetAsyncExc(number, raised) == 1


def resident_bytes() -> int:
    """Memory of this process without what malloc keeps for later, on Linux; elsewhere 0."""
    if not sys.platform.startswith("linux"):
        return 0
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def start(work: Callable[[], None], errors: list[BaseException]) -> threading.Thread:
    """Run a function in a thread; what it raises is appended to `errors`."""

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    return thread


def in_threads(works: Sequence[Callable[[], None]]) -> None:
    """Run functions in a thread each, to their ends; raise the first error of any."""
    errors: list[BaseException] = []
    for thread in [start(work, errors) for work in works]:
        thread.join()
    if errors:
        raise errors[0]


ATTACKS = {attack.__name__: attack for attack in (decoders, streams, encoders, geometries, drops)}


def main() -> None:
    """Make one attack and print what it counted."""
    parser = argparse.ArgumentParser(description="Attack decoders and encoders by many threads.")
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int, help="cores to use, as far as there are so many")
    options = parser.parse_args()
    if options.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    sys.setswitchinterval(1e-4)
    decoding("fast")  # This may have to compile the kernels.
    attack = Attack(options.seconds, options.seed)
    ATTACKS[options.attack](attack)
    print(json.dumps(attack.counts))


if __name__ == "__main__":
    main()
