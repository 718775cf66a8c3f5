"""Playing a small network on a real sound server, and recording what is heard."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND
from networks import random_latents, random_tensors, small, write_folder
from sound_server import SoundServer

import oobleck_stream as ob

CONFIG = small("stable-audio-open-1.0", channels=8)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"), CONFIG, random_tensors(CONFIG))


@pytest.fixture(scope="session")
def model(folder: Path) -> ob.Model:
    model = ob.load(folder)
    model.decode(np.zeros((1, 64)))  # Compiles the kernels if necessary.
    return model


def save_latents(path: Path, frames: int, seed: int = 1) -> np.ndarray:
    latents = random_latents(CONFIG, frames, seed)
    np.save(path, latents)
    return latents


def run_play(server: SoundServer, *arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, "play", "--quiet", *map(str, arguments)],
        env=server.environment,
        capture_output=True,
        timeout=60,
        **options,
    )


def run_script(
    server: SoundServer, script: str, *arguments: object, timeout: float = 60
) -> subprocess.CompletedProcess:
    """Run Python code that plays; its standard output is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=server.environment,
        capture_output=True,
        timeout=timeout,
        text=True,
    )
    assert (done.returncode, messages(done)) == (0, "")
    return done


def stood_still(done: subprocess.CompletedProcess) -> bool:
    """Whether ALSA reported that the whole machine was late, so that the device lost sound."""
    return "underrun occurred" in str(done.stderr)


def messages(done: subprocess.CompletedProcess) -> str:
    """Standard error without the messages of ALSA's library."""
    text = done.stderr if isinstance(done.stderr, str) else done.stderr.decode()
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("ALSA lib"))


def listen(
    server: SoundServer, run: Callable, *arguments: object, **options
) -> tuple[np.ndarray, subprocess.CompletedProcess]:
    """Run something that plays; return the sound between the silence at both ends, and the process.

    Repeated if the machine stood still meanwhile.
    """
    for _ in range(5):
        with server.recording() as recording:
            done = run(server, *arguments, **options)
        if not stood_still(done):
            return recording.sound, done
    pytest.skip("this machine stands still again and again")


def trimmed(samples: np.ndarray) -> np.ndarray:
    """The samples without the silence at both ends, as `Recording.sound`."""
    loud = np.flatnonzero(samples.any(axis=1))
    return samples[loud[0] : loud[-1] + 1]


def voiced(samples: np.ndarray) -> np.ndarray:
    """The samples that are not silent."""
    return samples[samples.any(axis=1)]


def runs_of(recorded: np.ndarray, samples: np.ndarray) -> list[tuple[int, int]]:
    """The ranges of `samples` that were recorded one after another, ignoring silence."""
    numbers = {row.tobytes(): number for number, row in enumerate(samples)}
    played = np.array([numbers[row.tobytes()] for row in voiced(recorded)])
    breaks = np.flatnonzero(np.diff(played) != 1)
    starts, stops = [0, *(breaks + 1)], [*breaks, len(played) - 1]
    return [(int(played[a]), int(played[b]) + 1) for a, b in zip(starts, stops, strict=True)]


def start_play(server: SoundServer, *arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, "play", *map(str, arguments)],
        env=server.environment,
        stderr=subprocess.PIPE,
        **options,
    )
