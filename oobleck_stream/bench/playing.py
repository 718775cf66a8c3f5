"""Plays live frames on the audio device, and measures gaps and the delay of the first sound."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.model import Model
from oobleck_stream.player.player import Player

MONITOR = "@DEFAULT_MONITOR@"


class Listener:
    """Records the sound server's output with ``parec`` and notes the time of the first sound.

    Attributes
    ----------
    heard : float or None
        The time of the first sound, on the clock of `time.perf_counter`. None if there was no sound
        yet, or if ``parec`` is missing.
    """

    def __init__(self, model: Model) -> None:
        self.heard: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if shutil.which("parec") is None:
            return
        rate, channels = f"--rate={model.samplerate}", f"--channels={model.channels}"
        command = ["parec", f"--device={MONITOR}", "--raw", "--format=float32le", rate, channels]
        self._process = subprocess.Popen(
            [*command, "--latency-msec=20"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while piece := self._process.stdout.read(4096):
            if any(piece):
                self.heard = time.perf_counter()
                return

    def close(self) -> None:
        """Stop recording."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def live_frames(model: Model, seconds: float) -> Iterator[FloatArray]:
    """Yield random frames, one at a time, for `seconds` of audio."""
    generator = np.random.default_rng(0)
    for _ in range(round(seconds * model.config.frame_rate)):
        yield generator.standard_normal(model.latent_dim, np.float32)


def play_facts(model: Model, threads: int, seconds: float) -> dict[str, Any]:
    """Play live frames in pushes of one frame, on the default device.

    Returns
    -------
    dict
        Times are in seconds. ``first_sound`` is the delay between the request to play and the first
        sound that ``parec`` records.
    """
    listener = Listener(model)
    try:
        # Let the recorder start, so that its own delay is not measured.
        time.sleep(1.0)
        with Player(live_frames(model, seconds), model, threads=threads) as player:
            start = time.perf_counter()
            player.play()
            opened = time.perf_counter()
            player.wait()
            ended = time.perf_counter()
            return {
                "device": player.device.name,
                "threads": threads,
                "seconds": seconds,
                "opened": opened - start,
                "first_sound": None if listener.heard is None else listener.heard - start,
                "played": ended - start,
                "underflows": player.underflows,
                "silence": player.silent_seconds,
                "device_underflows": player.device_underflows,
                "rtf": player.real_time_factor,
            }
    finally:
        listener.close()


def play_lines(facts: dict[str, Any]) -> list[str]:
    """Format the figures as lines of text."""
    heard = facts["first_sound"]
    first = "not recorded (parec is not installed)" if heard is None else f"{heard:.2f} s, by parec"
    return [
        f"played     {facts['seconds']:g} s in pushes of 1 frame, {facts['threads']} threads, on "
        f"{facts['device']}: took {facts['played']:.1f} s, RTF {facts['rtf']:.2f} at the end",
        f"first      sound after the request: {first}; stream opened after {facts['opened']:.2f} s",
        f"underflows {facts['underflows']} of the decoder ({facts['silence']:.2f} s of silence "
        f"inserted), {facts['device_underflows']} of the device",
    ]
