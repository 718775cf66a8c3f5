"""Measures the time from a change of live latents to the first changed sample that is heard."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bench.playing import MONITOR
from oobleck_stream.model import Model
from oobleck_stream.player.player import Player

REST_SECONDS, PLAY_SECONDS = 0.6, 0.2
"""Seconds for which the latents stay constant before a change, and seconds that a change lasts."""

HEARD = 0.05
"""A sample counts as changed if its difference exceeds this share of the largest difference."""


class Knob:
    """A live source. It repeats the same frame, but yields random frames while `turned` is set.

    Attributes
    ----------
    turned : bool
        Whether the frames are random. Any thread may set it.
    """

    def __init__(self, model: Model, seconds: float) -> None:
        self.turned = False
        self._frames = round(seconds * model.config.frame_rate)
        self._size = model.latent_dim

    def frames(self) -> Iterator[FloatArray]:
        """Yield one frame at a time."""
        generator = np.random.default_rng(0)
        rest = np.zeros(self._size, np.float32)
        for _ in range(self._frames):
            yield generator.standard_normal(self._size, np.float32) if self.turned else rest


class Recording:
    """Records the sound server's output with ``parec``, and when each part of it arrived."""

    def __init__(self, model: Model) -> None:
        self._channels = model.channels
        self._pieces: list[tuple[float, bytes]] = []
        self._process = subprocess.Popen(
            [
                *("parec", f"--device={MONITOR}", "--raw", "--format=float32le"),
                *(f"--rate={model.samplerate}", f"--channels={model.channels}"),
                "--latency-msec=5",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while piece := os.read(self._process.stdout.fileno(), 2**16):
            self._pieces.append((time.perf_counter(), piece))

    def close(self) -> None:
        """Stop recording."""
        self._process.terminate()
        self._process.wait()

    def heard(self) -> tuple[FloatArray, FloatArray]:
        """Return the samples, (n, channels), and when each sample arrived, (n,) float64."""
        pieces = list(self._pieces)
        whole = sum(len(piece) for _, piece in pieces) // (4 * self._channels)
        data = b"".join(piece for _, piece in pieces)[: 4 * self._channels * whole]
        samples = np.frombuffer(data, "<f4").reshape(-1, self._channels)
        ends = np.cumsum([len(piece) for _, piece in pieces]) // (4 * self._channels)
        arrived = np.array([moment for moment, _ in pieces])
        times = arrived[np.searchsorted(ends, np.arange(whole), side="right")]
        return samples, times


def reaction_facts(
    model: Model, threads: int, seconds: float, look_ahead: int | None
) -> dict[str, Any]:
    """Play a constant frame, change it now and then, and measure when each change is heard.

    Parameters
    ----------
    model : Model
    threads : int
    seconds : float
        Approximate duration.
    look_ahead : int or None
        The look-ahead of the player in samples.

    Returns
    -------
    dict
        ``delays`` has the delay of each change in seconds. A delay begins when the source changes,
        and ends when ``parec`` delivers the first changed sample. The delay of a change that was
        not heard is None. Without ``parec``, the whole entry ``delays`` is None.
    """
    facts: dict[str, Any] = {
        "look_ahead_samples": model.latency if look_ahead is None else look_ahead,
        "look_ahead": (model.latency if look_ahead is None else look_ahead) / model.samplerate,
        "frame": 1 / model.config.frame_rate,
        "delays": None,
    }
    if shutil.which("parec") is None:
        return facts
    changes = max(1, round(seconds / (REST_SECONDS + PLAY_SECONDS)))
    # The source lasts longer than all changes take, so that no change is cut off.
    knob = Knob(model, 2 + changes * (REST_SECONDS + PLAY_SECONDS) + 2)
    recording, moments = Recording(model), []
    generator = np.random.default_rng(1)
    try:
        time.sleep(0.5)
        with Player(knob.frames(), model, threads=threads, look_ahead=look_ahead) as player:
            player.play()
            time.sleep(1.0)
            for _ in range(changes):
                # Change at random times relative to the frames and the device's buffers.
                time.sleep(REST_SECONDS + 0.1 * generator.random())
                moments.append(time.perf_counter())
                knob.turned = True
                time.sleep(PLAY_SECONDS)
                knob.turned = False
            time.sleep(REST_SECONDS)
            facts |= {
                "device": player.device.name,
                "device_latency": player.device_latency,
                "buffer": player.buffer,
                "underflows": player.underflows,
                "rtf": player.real_time_factor,
            }
    finally:
        recording.close()
    samples, times = recording.heard()
    facts["delays"] = [_delay(samples, times, moment, model.hop) for moment in moments]
    return facts


def _delay(samples: FloatArray, times: FloatArray, moment: float, hop: int) -> float | None:
    """Return the seconds from `moment` to the first changed sample. None if no change was heard."""
    part = (times > moment - REST_SECONDS / 2) & (times < moment + PLAY_SECONDS + REST_SECONDS / 2)
    sound, arrived = samples[part], times[part]
    # While the latents are constant, the sound repeats with every frame.
    change = np.abs(sound[hop:] - sound[:-hop]).max(axis=1, initial=0)
    loud = change > HEARD * change.max(initial=0)
    if not loud.any() or change.max() == 0:
        return None
    return float(arrived[hop:][loud.argmax()] - moment)


def reaction_lines(facts: dict[str, Any]) -> list[str]:
    """Format the figures as lines of text."""
    delays = facts["delays"]
    if delays is None:
        return ["reaction   not recorded (parec is not installed)"]
    known = sorted(delay for delay in delays if delay is not None)
    if not known:
        return ["reaction   no change was heard"]
    middle, worst = known[len(known) // 2], known[-1]
    parts = [
        f"look-ahead {1e3 * facts['look_ahead']:.1f} ms ({facts['look_ahead_samples']} samples)",
        f"frame {1e3 * facts['frame']:.1f} ms",
        f"buffer {1e3 * facts['buffer']:.0f} ms",
        f"device {1e3 * facts['device_latency']:.0f} ms",
    ]
    return [
        f"reaction   from a change of the latents to the first changed sample, by parec: median "
        f"{1e3 * middle:.0f} ms, worst {1e3 * worst:.0f} ms of {len(known)} changes "
        f"({len(delays) - len(known)} not heard)",
        f"           {', '.join(parts)}; {facts['underflows']} underflows",
    ]
