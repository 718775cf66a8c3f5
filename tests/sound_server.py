"""A private PulseAudio server with a null sink, and a recorder of that sink."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

PROGRAMS = ("pulseaudio", "pactl", "parec")
ALSA = """
pcm.!default { type pulse }
ctl.!default { type pulse }
"""
PATIENCE = 30.0


def missing_parts() -> str:
    """The missing programs and libraries that these tests need; empty if there are none."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if ctypes.util.find_library("portaudio") is None:
        missing.append("PortAudio (libportaudio2)")
    plugin = "alsa-lib/libasound_module_pcm_pulse.so"
    if not [*Path("/").glob(f"usr/lib*/{plugin}"), *Path("/").glob(f"usr/lib*/*/{plugin}")]:
        missing.append("ALSA's pulse plugin (libasound2-plugins)")
    return ", ".join(missing)


class SoundServer:
    """A running server.

    Attributes
    ----------
    environment : dict
        Environment variables for programs that play through this server.
    """

    def __init__(self, folder: Path, rate: int = 44100, channels: int = 2) -> None:
        self.rate, self.channels = rate, channels
        self.folder = folder
        socket = folder / "socket"
        (folder / "alsa.conf").write_text(ALSA)
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_SERVER": f"unix:{socket}",
            "ALSA_CONFIG_PATH": str(folder / "alsa.conf"),
        }
        sink = f"module-null-sink sink_name=null rate={rate} format=float32le channels={channels}"
        self.process = subprocess.Popen(
            [
                *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1"),
                *("--use-pid-file=no", "--disable-shm=yes", "--log-target=stderr"),
                *("--load", sink),
                *("--load", f"module-native-protocol-unix socket={socket} auth-anonymous=1"),
            ],
            env={**self.environment, "PULSE_SERVER": ""},
            stderr=(folder / "pulseaudio.log").open("w"),
        )
        self._wait_until_ready()
        # With a listener the sink works in short blocks, otherwise in blocks of two seconds.
        self._listener = self._recorder(subprocess.DEVNULL)

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + PATIENCE
        while self._control("info").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self.folder / "pulseaudio.log").read_text())
            time.sleep(0.05)

    def _control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pactl", *arguments], env=self.environment, capture_output=True, text=True
        )

    def _recorder(self, sink: IO[bytes] | int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *("parec", "--device=null.monitor", "--raw", "--format=float32le"),
                *(f"--rate={self.rate}", f"--channels={self.channels}", "--latency-msec=20"),
            ],
            env=self.environment,
            stdout=sink,
            stderr=subprocess.DEVNULL,
        )

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record the sink from before the block until it is silent again."""
        file = self.folder / "recorded.raw"
        with file.open("wb") as sink:
            process = self._recorder(sink)
        recording = Recording(file, self.channels)
        try:
            recording.wait_for(lambda samples: len(samples) > 0)
            yield recording
            if self.process.poll() is None:
                # The monitor delivers the samples with some delay, then silence.
                recording.wait_for(lambda samples: not samples[-4000:].any())
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()

    def stop(self) -> None:
        """Terminate the server."""
        self.process.terminate()
        self.process.wait()
        self._listener.wait()

    def kill(self) -> None:
        """Kill the server, so that it can't notify its clients."""
        self.process.kill()
        self.process.wait()

    @classmethod
    @contextmanager
    def running(cls, folder: Path, rate: int = 44100, channels: int = 2) -> Iterator[SoundServer]:
        """Run a server during the block; skip the test if parts are missing."""
        missing = missing_parts()
        if missing:
            pytest.skip(f"needs {missing}")
        server = cls(folder, rate, channels)
        try:
            yield server
        finally:
            server.stop()


class Recording:
    """Samples recorded so far."""

    def __init__(self, file: Path, channels: int) -> None:
        self._file, self._channels = file, channels

    @property
    def samples(self) -> np.ndarray:
        """(n, channels) float32, silence included."""
        data = self._file.read_bytes()
        whole = len(data) // (4 * self._channels) * 4 * self._channels
        return np.frombuffer(data[:whole], "<f4").reshape(-1, self._channels)

    @property
    def sound(self) -> np.ndarray:
        """The samples from the first to the last that is not silent."""
        loud = np.flatnonzero(self.samples.any(axis=1))
        return self.samples[loud[0] : loud[-1] + 1] if len(loud) else self.samples[:0]

    def wait_for(self, condition) -> None:
        """Wait until the samples satisfy a condition."""
        end = time.monotonic() + PATIENCE
        while not condition(self.samples):
            if time.monotonic() > end:
                raise TimeoutError("the recorder did not receive the expected samples")
            time.sleep(0.05)


@pytest.fixture(scope="session")
def sound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundServer]:
    with SoundServer.running(tmp_path_factory.mktemp("sound")) as server:
        yield server
