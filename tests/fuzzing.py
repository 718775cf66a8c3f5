"""Using files that may be damaged, so that only a clean end or one line will do."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import shutil
import signal
import sys
import tracemalloc

import numpy as np
from command_line import run_command
from conversions import TARGETS
from fuzz_files import CONFIG, LATENTS
from networks import random_audio

import oobleck_stream as ob
from oobleck_stream.files.audio_reader import FlatAudio
from oobleck_stream.files.latents_pipe import LatentPipe
from oobleck_stream.files.latents_reader import read_latents

SECONDS = 20
"""After so many of work a case hangs; they take some hundredths of one."""

TIMES_ITS_SIZE = 16
FIXED_BYTES = 4 * 2**20
"""What reading a file may take: so many times its size, and so many bytes."""

DECODING_BYTES = 32 * 2**20
"""What a decoder or an encoder works in, however small its network is."""


class Hangs(BaseException):
    """A case that takes too long; nothing that expects damage catches this."""


@contextlib.contextmanager
def watched(what):
    """Fail, naming the case, when it works for ever; end the whole run when it waits for ever."""

    def interrupt(number, frame):
        raise Hangs(what)

    faulthandler.dump_traceback_later(30 * SECONDS, exit=True, file=sys.__stderr__)
    # Of the processor's time: a busy machine may keep any case waiting.
    before = signal.signal(signal.SIGPROF, interrupt) if hasattr(signal, "SIGPROF") else None
    if before is not None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        if before is not None:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def bounded(most):
    """Fail when what is done takes more memory."""
    tracemalloc.start()
    try:
        yield
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken <= most, f"took {taken} bytes"


def outcome(use, folder):
    """Use the files of a folder; "loaded", or "refused" where one line said why."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    try:
        with watched(folder):
            use(folder, TIMES_ITS_SIZE * size + FIXED_BYTES)
    except ValueError as error:
        message = str(error)
        assert str(folder) in message, message
        assert message.isprintable(), message
        return "refused"
    return "loaded"


def source_of(folder):
    """What is loaded: the only file of a folder, or the folder."""
    files = list(folder.iterdir())
    return files[0] if len(files) == 1 and files[0].suffix == ".safetensors" else folder


@functools.cache
def warm_up():
    """Compile everything: from now on memory belongs to the files alone."""
    model = ob.random_model(CONFIG)
    model.decode(LATENTS, threads=1)
    model.encode(random_audio(CONFIG, 9), threads=1)


def load_and_use(folder, most, choice=0):
    """Load what is there, decode a little, and encode a little where it can."""
    warm_up()
    with bounded(most):
        model = ob.load(source_of(folder))
    with bounded(most + DECODING_BYTES):
        # Mutated weights may be so large that float32 overflows: that is an error of its own.
        with contextlib.suppress(ob.NonFiniteError):
            model.decode(np.ones((2, model.latent_dim), np.float32), threads=1)
        try:
            model.encode(np.ones((9, model.channels), np.float32), threads=1)
        except ob.CheckpointError as error:
            if "can't encode" not in str(error):
                raise
        except ob.NonFiniteError:
            pass


def read_all(folder, most, choice):
    """Read latents to the end."""
    (path,) = folder.iterdir()
    with bounded(most):
        latents = read_latents(path)
        latents.fits(3)
        layout = (None, "tc", "ct")[choice % 3]
        for block in latents.blocks(3, layout):
            assert np.isfinite(block).all()


def read_pipe(folder, most, choice):
    """Read latents as they come through a pipe."""
    (path,) = folder.iterdir()
    with bounded(most), path.open("rb", buffering=0) as file:
        for block in LatentPipe(file, str(path)).blocks(3, (None, "tc", "ct")[choice % 3]):
            assert np.isfinite(block).all()


def read_sound(folder, most, choice):
    """Read sound to the end."""
    (path,) = folder.iterdir()
    with bounded(most):
        for block in FlatAudio(path).blocks(44100, 1 + choice % 3):
            assert np.isfinite(block).all()


def convert(folder, most, choice):
    """Convert to one of the targets: it is there, or nothing is."""
    target, *options = [*TARGETS.values(), ("a.packed.safetensors",)][choice % (len(TARGETS) + 1)]
    output = folder.with_name("output")
    output.mkdir()
    arguments = ["convert", source_of(folder), output / target, *options]
    with bounded(most + FIXED_BYTES):
        done = run_command(*arguments)
    there = sorted(path.name for path in output.iterdir())
    try:
        assert not any(name.startswith(".") for name in there)
        if done.returncode == 0:
            assert target in there
            return
        assert (done.returncode, there, done.stdout) == (2, [], ""), done.stderr
        (line,) = done.stderr.splitlines()
    finally:
        shutil.rmtree(output)
    raise ValueError(line)
