"""A live source played with a look-ahead: what is heard, what is recorded, how soon."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from early_sound import early_sound
from networks import random_latents
from sound_server import sound_server
from test_player import CONFIG, folder, listen, messages, model, run_play, voiced

__all__ = ["folder", "model", "sound_server"]


@pytest.mark.sound
def test_the_early_sound_is_heard_and_the_exact_one_recorded(
    sound_server,
    tmp_path,
    folder,
    model,
):
    latents, samples = random_latents(CONFIG, 40), round(0.25 * model.latency)
    heard, done = listen(
        sound_server,
        run_play,
        *("-", "--model", folder, "--look-ahead", "25%", "--record", tmp_path / "exact.wav"),
        *("--latency", "0.2", "--buffer", "0.5", "--prebuffer", "0.3"),
        input=latents.tobytes(),
    )
    assert (done.returncode, messages(done)) == (0, "")
    expected = early_sound(model, latents, samples, model.hop // 8)
    # Silence may have been inserted where decoding was late.
    assert np.array_equal(voiced(heard), voiced(expected))
    recorded = soundfile.read(tmp_path / "exact.wav", dtype="float32")[0]
    assert np.array_equal(recorded, model.decode(latents))


@pytest.mark.sound
def test_the_reaction_is_measured(sound_server):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "oobleck_stream", "bench", "play", "--model", "tiny"),
            *("--look-ahead", "25%", "--seconds", "2", "--threads", "1", "--json"),
        ],
        env=sound_server.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["look_ahead_samples"] == 264
    assert len(facts["delays"]) == 2
    assert all(delay is None or 0 < delay < 5 for delay in facts["delays"])


def test_a_look_ahead_that_is_too_long_is_refused(tmp_path, folder):
    np.save(tmp_path / "a.npy", random_latents(CONFIG, 3))
    for text, message in (
        ("431ms", "431ms is more than the network's look-ahead, 430 ms"),
        ("soon", "a look-ahead like 80ms, 0.08 or 25% expected, not 'soon'"),
        ("-1", "a look-ahead like 80ms"),
    ):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "oobleck_stream", "look-ahead", tmp_path / "a.npy"),
                *("--model", folder, f"--look-ahead={text}"),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert message in done.stderr
