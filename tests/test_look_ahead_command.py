"""What is said of the error and the cost of a look-ahead; the quality of the bundled network's."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from early_sound import early_sound
from networks import model_of, random_latents, small

import oobleck_stream as ob
from oobleck_stream.bench.look_ahead import error_facts, work_facts
from oobleck_stream.network import multiplications
from oobleck_stream.validation.distances import log_mel_distance, si_sdr, stft_distance

RATE = 44100


def run(*arguments):
    command = [sys.executable, "-m", "oobleck_stream", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("piece", ob.PIECES)
def test_the_early_sound_of_the_pieces_is_good(piece):
    """The bars that the README states, on a part of each piece."""
    model, latents = ob.load("tiny"), ob.piece(piece)[2000:2400]
    quarter = error_facts(model, latents, round(0.25 * model.latency), 1)
    tenth = error_facts(model, latents, round(0.1 * model.latency), 1)
    assert quarter["si_sdr"] >= 40
    assert tenth["si_sdr"] >= 25
    assert quarter["log_mel"] < tenth["log_mel"] < 3
    assert quarter["join"] <= 1.5
    assert tenth["join"] <= 1.5


def test_the_error_is_that_of_the_early_sound():
    model, latents = ob.load("tiny"), ob.piece("keys")[2000:2060].astype(np.float32)
    exact, early = model.decode(latents), early_sound(model, latents, 106, 8)
    facts = error_facts(model, latents, 106, 1)
    assert facts["si_sdr"] == pytest.approx(si_sdr(exact, early))
    assert facts["stft"] == pytest.approx(stft_distance(exact, early))


def test_no_error_with_the_whole_look_ahead():
    model, latents = ob.load("tiny"), ob.piece("pads")[2000:2100]
    facts = error_facts(model, latents, model.latency, 1)
    assert facts == {"si_sdr": np.inf, "log_mel": 0, "stft": 0, "join": 1}
    assert work_facts(model, model.latency)["work"] == 1


def test_the_work_is_that_of_the_steps(monkeypatch):
    """The multiply-adds that are stated are those of the programs that run."""
    from oobleck_stream.engine import program as table
    from oobleck_stream.engine.cpu.engine import CpuEngine

    model = model_of(small("ace-step-1.5", channels=20))
    decoder = ob.StreamingDecoder(model, look_ahead=3000)
    decoder.push(random_latents(model.config, 3 * model.context + 3))
    sums, run = [], CpuEngine.run

    def counting(self, program, *arguments):
        columns = [table.ROWS, table.TAPS, table.CHANNELS, table.COLUMNS]
        phases = np.where(program.steps[:, table.TILE] > 1, 1, program.steps[:, table.PHASES])
        sums.append(int((program.steps[:, columns].prod(axis=1) * phases).sum()))
        return run(self, program, *arguments)

    monkeypatch.setattr(CpuEngine, "run", counting)
    decoder.push(np.zeros(64))
    done = sum(sums) / multiplications(model.decoder.layers)
    assert done == pytest.approx(work_facts(model, 3000)["work"], rel=1e-9)


def test_distances_of_known_sounds():
    generator = np.random.default_rng(0)
    sound = generator.standard_normal((20000, 2)).astype(np.float32)
    noise = generator.standard_normal((20000, 2)).astype(np.float32)
    assert si_sdr(sound, sound + 0.01 * noise) == pytest.approx(40, abs=0.1)
    assert si_sdr(sound, 0.5 * sound) > 130
    # Half the amplitude is 6.02 dB less in every band.
    assert log_mel_distance(sound, 0.5 * sound, RATE) == pytest.approx(6.02, abs=0.01)
    assert stft_distance(sound, 0.5 * sound) == pytest.approx(0.5 + np.log(2), abs=0.01)
    assert (log_mel_distance(sound, sound, RATE), stft_distance(sound, sound)) == (0, 0)
    short = sound[:100]
    assert log_mel_distance(short, short, 8000) == 0


def test_the_command(tmp_path):
    np.save(tmp_path / "a.npy", ob.piece("keys")[2000:2100])
    options = ("--model", "tiny", "--seconds", "0.2", "--threads", "1")
    done = run("look-ahead", tmp_path / "a.npy", *options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    shares = [line.split()[1] for line in lines[5:12]]
    assert shares == ["5.0", "10.0", "15.0", "25.0", "50.0", "75.0", "100.0"]
    done = run("look-ahead", tmp_path / "a.npy", *options, "--look-ahead", "6ms", "--json")
    facts = json.loads(done.stdout)
    assert [row["samples"] for row in facts["rows"]] == [265]
    assert facts["frames"] == 100
    assert facts["rows"][0]["si_sdr"] > 30


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ("--frames", "60", "--seconds", "0.2", "--plot", tmp_path / "a.png")
    assert run("look-ahead", *arguments).returncode == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_info_and_bench_print_the_cost():
    options = ("--look-ahead", "25%", "--threads", "1")
    text = run("info", "--model", "tiny", *options).stdout
    assert "early      look-ahead 264 samples = 6 ms, fade 8 samples: 5.37 times" in text
    done = run("bench", "look-ahead", "--model", "tiny", "--seconds", "0.3", *options, "--json")
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["share"], round(row["work"], 2)) == (0.25, 5.37)
    assert row["ratio_early"] > 1
    done = run("bench", "look-ahead", "--model", "tiny", "--seconds", "0.3", "--threads", "1")
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[5:8]] == ["10.0", "25.0", "50.0"]
    assert max(map(len, lines)) <= 100
