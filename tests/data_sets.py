"""Small data sets, what their outputs have to be, and clusters to make them with."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import soundfile
from networks import random_tensors, write_folder

import oobleck_stream as ob
from oobleck_stream.files.audio_reader import AudioFile

CONFIG = ob.OobleckConfig(
    latent_dim=8,
    channels=4,
    multiples=(1, 2, 4),
    strides=(2, 4, 8),
    samplerate=8000,
    audio_channels=2,
)
"""A stereo network with short frames, which encodes and decodes 90 seconds in one."""

RATE = CONFIG.samplerate


def write_model(folder):
    """Write a checkpoint with both halves; return its folder."""
    tensors = random_tensors(CONFIG, 1) | random_tensors(CONFIG, 1, "encoder")
    return write_folder(folder, CONFIG, tensors)


@functools.cache
def noise(samples, channels=2, seed=0):
    """Sound, float32."""
    generator = np.random.default_rng(seed)
    return np.float32(0.2) * generator.standard_normal((samples, channels), np.float32)


def write_sound(path, samples, rate=RATE, channels=2, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(samples, channels, seed), rate, **options)


def write_sounds(folder, count=12, longest=16_000):
    """Write WAV files of mixed lengths into three folders."""
    generator = np.random.default_rng(3)
    for number in range(count):
        samples = int(generator.integers(500, longest))
        write_sound(folder / f"{number % 3}" / f"sound{number}.wav", samples, seed=number)
    return folder


def write_latents(folder, count=12, longest=300):
    """Write `.npy` files of mixed lengths into three folders."""
    generator = np.random.default_rng(4)
    for number in range(count):
        frames = int(generator.integers(9, longest))
        path = folder / f"{number % 3}" / f"latents{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, generator.standard_normal((frames, CONFIG.latent_dim), np.float32))
    return folder


def converted(path):
    """The sound of a file as the network hears it."""
    blocks = AudioFile(path).blocks(CONFIG.samplerate, CONFIG.audio_channels)
    return np.concatenate(list(blocks))


def manifest(out):
    """The lines of the manifest by key."""
    lines = map(json.loads, (Path(out) / "manifest.jsonl").read_text().splitlines())
    return {line["key"]: line for line in lines}


def digests(out):
    """The SHA-256 of every file of an output folder, without unfinished work."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(out).rglob("*")
        if path.is_file() and ".work" not in path.parts
    }


def leftovers(out):
    """Files of unfinished work."""
    return [path for path in (Path(out) / ".work").rglob("*") if path.is_file()]


def start_seconds(model):
    """CPU seconds that a worker takes until it has loaded the model and its kernels."""
    lines = (
        "import distributed.nanny, oobleck_stream as ob",
        f"model = ob.load({str(model)!r})",
        "model.encode([[0.0, 0.0]] * model.hop, threads=1)",
        "model.decode([[0.0] * model.latent_dim], threads=1)",
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def coding_rate(direction, model):
    """Seconds of sound that one CPU second encodes or decodes on this machine."""
    network, seconds = ob.load(model), 20
    frames = np.zeros((seconds * RATE // CONFIG.hop, CONFIG.latent_dim), np.float32)
    code = {
        "encode": lambda: network.encode(noise(seconds * RATE), threads=1),
        "decode": lambda: network.decode(frames, threads=1),
    }[direction]
    code()
    begun = time.process_time()
    code()
    return seconds / (time.process_time() - begun)


@contextlib.contextmanager
def tcp_cluster(workers=2):
    """Start a scheduler and workers by hand; yield the scheduler's address and process.

    All workers have registered by then: a short run could otherwise end before the second has.
    """
    import distributed

    processes = []
    environment = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10"}
    try:
        scheduler = _start(["scheduler", "--host", "127.0.0.1", "--port", "0"], environment)
        processes.append(scheduler)
        address = _announced(scheduler)
        for _ in range(workers):
            command = ["worker", address, "--nthreads", "1", "--no-dashboard"]
            processes.append(_start(command, environment))
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address, scheduler
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            process.stderr.close()


def _start(arguments, environment):
    command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
    if arguments[0] == "scheduler":
        command += ["--dashboard-address", "127.0.0.1:0"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)


def _announced(scheduler):
    """The address that a scheduler prints; its later output is thrown away."""
    address = None
    for line in scheduler.stderr:
        if "Scheduler at:" in line:
            address = line.split()[-1]
            break
    threading.Thread(target=lambda: [None for _ in scheduler.stderr], daemon=True).start()
    assert address is not None
    return address


def children(parent=None):
    """The processes that multiprocessing has started from `parent`, and their CPU seconds.

    By default, `parent` is this process.
    """
    parent = os.getpid() if parent is None else parent
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The fields after the name, which is in parentheses: see proc(5).
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and b"spawn_main" in (path / "cmdline").read_bytes():
                ticks = int(fields[11]) + int(fields[12])
                found[int(path.name)] = ticks / os.sysconf("SC_CLK_TCK")
    return found


@contextlib.contextmanager
def killing(spared, least, most):
    """Kill each process that `children` finds, in a thread, except those that are spared.

    Each may use some seconds of CPU time before, drawn between `least` and `most`, so this does not
    depend on how busy the machine is. Yields a list of the processes that were killed.
    """
    ended, killed, allowed = threading.Event(), [], {}

    def kill():
        generator = np.random.default_rng(1)
        while not ended.wait(0.05):
            for pid, seconds in children().items():
                limit = allowed.setdefault(pid, generator.uniform(least, most))
                if pid not in spared and pid not in killed and seconds > limit:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def encode(source, out, model, **options):
    """Encode in this process."""
    return ob.dataset.encode(source, out, model, **({"workers": 0} | options))


def decode(source, out, model, **options):
    """Decode in this process."""
    return ob.dataset.decode(source, out, model, **({"workers": 0} | options))
