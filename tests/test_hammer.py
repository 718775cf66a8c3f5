"""The attacks of `tests/hammer.py`, on a process that is stopped again and again.

The nightly ones take 600 seconds in all, or as many as OOBLECK_STREAM_HAMMER_SECONDS has.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hammer import ATTACKS

NIGHTLY_SECONDS = float(os.environ.get("OOBLECK_STREAM_HAMMER_SECONDS", "600"))
CORES = [1, None]
MAX_STARTING = 300
"""Seconds that a process may take to start, compile kernels and decode the pieces."""


def hammer(attack, seconds, seed, cores=None):
    """Make one attack beside a busy process; what it counted, and how often it was stopped."""
    command = [sys.executable, str(Path(__file__).parent / "hammer.py"), attack]
    command += ["--seconds", str(seconds), "--seed", str(seed)]
    if cores is not None:
        command += ["--cores", str(cores)]
    end = time.monotonic() + seconds + MAX_STARTING
    with (
        tempfile.TemporaryFile("w+") as output,
        running([sys.executable, "-c", "while True: pass"]),
        running(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        stops = stop_and_go(process, random.Random(seed), end)
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{text}"
    return json.loads(text.splitlines()[-1]) | {"stops": stops}


@contextmanager
def running(command, **options):
    """A process that does not outlive the block."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def stop_and_go(process, draw, end):
    """Stop a process and let it go on until it ends, or until some time; how often that was."""
    stops = 0
    while process.poll() is None and time.monotonic() < end:
        if hasattr(signal, "SIGSTOP"):
            process.send_signal(signal.SIGSTOP)
            time.sleep(draw.choice([0.0, 0.001, 0.02]))
            process.send_signal(signal.SIGCONT)
            stops += 1
        time.sleep(draw.choice([0.0, 0.003, 0.05]))
    return stops


@pytest.mark.parametrize("attack", ATTACKS)
def test_short_attack(attack):
    counts = hammer(attack, seconds=1, seed=1)
    assert counts.get("samples", 0) + counts.get("frames encoded", 0) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_long_attack(attack, cores):
    seed = random.randrange(2**32)
    counts = hammer(attack, NIGHTLY_SECONDS / (len(CORES) * len(ATTACKS)), seed, cores)
    print(f"\n{attack}, {cores or 'all'} cores, seed {seed}: {json.dumps(counts)}")
