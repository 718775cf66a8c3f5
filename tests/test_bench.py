"""The benchmark on a small network: its figures exist and are consistent."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_line import COMMAND, Done, run_command, run_process
from networks import random_latents, random_tensors, write_folder
from sound_server import sound_server  # noqa: F401

from oobleck_stream.bench.peers import refusal
from oobleck_stream.bench.rounds import Case, run_rounds, take_turn
from oobleck_stream.bench.run import network_facts
from oobleck_stream.bench.start import is_mapped
from oobleck_stream.bench.task import Task
from oobleck_stream.checkpoints.packed_file import write_packed
from oobleck_stream.config import PRESETS, OobleckConfig
from oobleck_stream.engine.stack import Stack
from oobleck_stream.loading import load
from oobleck_stream.network import decoder_layers, encoder_layers, steady_blocks
from oobleck_stream.random_weights import random_model

SHORT = ["--threads", "2", "--seconds", "0.05"]
SIZES = ["--pushes", "2,1", "--batch", "5"]
SMALL = ["--width", "4", *SHORT]
ROUNDS = [*SMALL, *SIZES]
WIDEST = 100


def run_bench(*arguments: object) -> Done:
    return run_command("bench", *arguments)


@pytest.fixture(scope="module")
def facts() -> dict:
    done = run_process("bench", "layers", *ROUNDS, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_has_what_was_requested(facts):
    assert facts["threads"] == 2
    assert [row["frames"] for row in facts["pushes"]] == [1, 2]
    assert facts["batch"]["frames"] == 5
    assert facts["paired"]["frames"] == 2
    assert facts["one_thread"]["threads"] == 1
    assert facts["peers"] is None
    assert facts["rounds"] >= 3


@pytest.fixture(scope="module")
def encoder_facts() -> dict:
    done = run_process("bench", "encoder", *ROUNDS, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", ["facts", "encoder_facts"])
def test_figures_agree(command, request):
    facts = request.getfixturevalue(command)
    peaks = {peak["threads"]: peak["median_gflops"] for peak in facts["machine"]["peak"]}
    assert set(peaks) == {1, 2}
    network = facts["network"]
    assert (facts["paired"] is None) == (command == "encoder_facts")
    paired = [facts["paired"]] if facts["paired"] else []
    for row in [*facts["pushes"], *paired, facts["batch"], facts["one_thread"]]:
        seconds, frames = row["median_seconds"], row["frames"]
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / peaks[row["threads"]])
        assert row["gflops"] == pytest.approx(network["gflop_per_frame"] * frames / seconds)
        assert row["real_time_factor"] == pytest.approx(seconds * network["frame_rate"] / frames)
        assert 0 < seconds <= row["p99_seconds"] <= row["max_seconds"]
        assert 0 <= row["late_share"] <= 1
        assert row["calls"] >= facts["rounds"]
    ratio = facts["one_thread"]["median_seconds"] / facts["batch"]["median_seconds"]
    assert facts["threads_ratio"] == pytest.approx(ratio)
    assert all(row["epilogue_share"] < 1 for row in [*facts["pushes"], facts["batch"]])


def test_limits_are_the_best_at_most(facts):
    for unit, kind in (("gflops", "peak"), ("gbytes_per_second", "read")):
        for row in facts["machine"][kind]:
            assert 0 < row[f"median_{unit}"] <= row[f"max_{unit}"]


def test_start_adds_up(facts):
    start = facts["start"]
    parts = ("process_to_command", "load", "kernels", "first_sample")
    if start["total_seconds"] is not None:
        assert start["total_seconds"] == pytest.approx(sum(start[f"{p}_seconds"] for p in parts))
        assert start["process_to_command_seconds"] > 0
    # The network looks nine frames ahead.
    assert start["first_sample_frames"] == 10
    if sys.platform == "linux":
        assert start["memory_at_first_sample"]["anonymous"] > start["weights_bytes"]


def test_only_weights_in_a_file_are_mapped(tmp_path):
    model = random_model(PRESETS["yue2"].replace(channels=2))
    assert not is_mapped(model.decoder.data)
    write_packed(tmp_path / "a.packed.safetensors", model)
    assert is_mapped(load(tmp_path / "a.packed.safetensors").decoder.data)


def test_layers_do_all_the_work(facts):
    layers, peak = facts["layers"], facts["machine"]["peak"][0]["median_gflops"]
    read = facts["machine"]["read"][0]["median_gbytes_per_second"]
    assert len(layers) == len(decoder_layers(PRESETS["stable-audio-open-1.0"]))
    for kind, frames in (("push", 1), ("batch", 5)):
        rows = [layer[kind] for layer in layers]
        work = sum(row["gflops"] * row["milliseconds"] / 1e3 for row in rows)
        assert work == pytest.approx(facts["network"]["gflop_per_frame"] * frames)
        for row in rows:
            assert row["share_of_peak"] == pytest.approx(row["gflops"] / peak)
            rate = row["weight_gbytes_per_second"]
            assert row["share_of_read"] == pytest.approx(rate / read)


WIDE = PRESETS["ezaudio"].replace(channels=64, multiples=(1, 3, 3), strides=(2, 4, 32))
"""A network whose fast convolutions are joined with the next layer (64 channels) or not (192)."""


@pytest.mark.parametrize("config", [PRESETS["yue2"].replace(channels=2), WIDE])
def test_steps_share_the_time_of_a_push(config):
    model = random_model(config)
    stack = Stack(model.decoder, 2)
    assert stack.step_times() == []
    for frame in random_latents(config, 12):
        stack.push(frame[None])
        indices, shares = zip(*stack.step_times(), strict=True)
        assert sum(shares) == pytest.approx(1)
        assert min(shares) >= 0
    assert [index for index in indices if index >= 0] == [*range(len(model.decoder.layers))]


def test_saved_multiplications_are_stated():
    facts = network_facts(Task(random_model(WIDE)))
    points, taps = {4: 12, 2: 9}, 7
    done = direct = 0
    for layer, blocks in zip(
        decoder_layers(WIDE), steady_blocks(decoder_layers(WIDE)), strict=True
    ):
        size = blocks * layer.inputs * layer.outputs
        done += size * points.get(layer.tile, layer.taps * layer.phases)
        direct += size * (taps * layer.tile if layer.tile > 1 else layer.taps * layer.phases)
    assert facts["saved_multiplications"] == pytest.approx(1 - done / direct)
    assert facts["saved_multiplications"] > 0.3


def test_the_encoder_is_measured(encoder_facts):
    network, config = encoder_facts["network"], PRESETS["stable-audio-open-1.0"].replace(channels=4)
    work, rows = 0, config.hop
    for layer in encoder_layers(config):
        rows //= layer.stride
        work += rows * layer.kernel * layer.inputs * layer.outputs
    assert network["half"] == "encoder"
    assert network["gflop_per_frame"] == pytest.approx(2e-9 * work)
    assert network["context_frames"] == 8
    assert encoder_facts["start"] is None
    assert "4 and 128" in encoder_facts["peers_problem"]


@pytest.mark.parametrize(
    ("command", "own"), [("layers", ["paired, 2 x 1", "of read"]), ("encoder", ["encoder:"])]
)
def test_table_fits_a_terminal(command, own):
    done = run_bench(command, *ROUNDS, "--preset", "ezaudio")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDEST
    for word in (
        "FMA peak",
        "convolution saves",
        *own,
        "push of 1",
        "push of 2",
        "batch of 5",
        "one thread",
        "epilogues",
    ):
        assert any(word in line for line in lines)


def test_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    done = run_bench(*ROUNDS, "--plot", tmp_path / "bench.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--preset", "nothing"],
        ["--model", "tiny", "--preset", "yue2"],
        ["--model", "tiny", "--width", "4"],
        ["--pushes", "1,x"],
        ["--pushes", "0"],
        ["--seconds", "0"],
        ["--backend", "abacus"],
        ["--backend", "auto", "--plot", "a.png"],
        ["layers", "--backend", "auto"],
        ["peers", "--backend", "auto"],
        ["encoder", "--backend", "auto"],
        ["encoder", "--preset", "cosmos3", "--width", "4"],
        ["streams", "--counts", "0"],
        ["streams", "--plot", "a.png"],
        ["dance"],
    ],
)
def test_bad_options_are_refused(arguments):
    done = run_bench(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_without_a_command_bench_is_bench_run():
    options = [*ROUNDS, "--seconds", "0.01", "--json"]
    plain, run = (run_bench(*command, *options) for command in ([], ["run"]))
    assert plain.returncode == run.returncode == 0, plain.stderr + run.stderr
    assert json.loads(plain.stdout).keys() == json.loads(run.stdout).keys()
    assert run_bench("--json", "--help").stdout == run_bench("run", "--help").stdout


def test_help_names_every_measurement():
    text = run_bench("--help").stdout
    for name in ("run", "layers", "peers", "encoder", "streams", "play", "components"):
        assert f"\n  {name} " in text
        assert run_bench(name, "--help").returncode == 0


def test_networks_that_no_peer_has_are_refused():
    for name in ("stable-audio-open-1.0", "ace-step-1.5", "ezaudio", "yue2"):
        assert refusal(PRESETS[name]) is None
    for name in ("cosmos3", "document"):
        assert "diffusers" in refusal(PRESETS[name])


def test_one_thread_and_refused_peers():
    done = run_bench("peers", *ROUNDS, "--threads", "1", "--preset", "cosmos3", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert len(facts["machine"]["peak"]) == 1
    assert facts["one_thread"] is None
    assert facts["threads_ratio"] is None
    assert facts["peers"] is None
    assert "output_padding" in facts["peers_problem"]


@pytest.fixture
def source(tmp_path):
    """A network whose encoder diffusers has: twice as many channels as latent values."""
    config = OobleckConfig(latent_dim=2, channels=4, multiples=(1, 2), strides=(4, 8))
    halves = (random_tensors(config, half=half) for half in ("decoder", "encoder"))
    return write_folder(tmp_path / "model", config, {**next(halves), **next(halves)})


@pytest.mark.peers
@pytest.mark.parametrize(("command", "context"), [("peers", 10), ("encoder", 8)])
def test_peers_compute_the_same_network(source, command, context):
    done = run_bench(command, *SHORT, *SIZES, "--model", source, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    ours = {row["frames"]: row["median_seconds"] for row in facts["pushes"]}
    ours["batch"] = facts["batch"]["median_seconds"]
    assert [peer["name"] for peer in facts["peers"]] == ["diffusers", "onnxruntime", "openvino"]
    compared = 0
    for peer in facts["peers"]:
        if peer["problem"]:
            assert "not installed" in peer["problem"]
            assert not peer["rows"]
            continue
        compared += 1
        exact = [frames + 2 * context for frames in (1, 2)]
        assert [row["frames_computed"] for row in peer["rows"]] == [5, *exact, 1, 2]
        for row in peer["rows"]:
            base = ours["batch" if row["mode"] == "batch" else row["frames"]]
            assert row["ratio"] == pytest.approx(row["median_seconds"] / base)
            assert (row["snr_db"] > 100) == (row["mode"] != "no context")
    if not compared:
        pytest.skip("none of the peers is installed")


def test_a_turn_does_not_count_the_first_of_several_calls():
    calls = []
    assert len(take_turn(lambda: calls.append(0), 1e-3)) == len(calls) - 1
    assert len(take_turn(lambda: calls.append(0), 0)) == 1


def test_every_case_has_a_turn_in_every_round():
    order: list[str] = []

    def turn(name):
        return lambda seconds: order.append(name) or [seconds]

    cases = [Case(turn("a")), Case(turn("b"))]
    assert run_rounds(cases, 1e-9) == 3
    assert order == ["a", "b"] * 3
    assert [len(case.times) for case in cases] == [3, 3]


def test_the_peak_kernel_counts_its_operations():
    from oobleck_stream.engine.cpu.peak import multiply_add

    half, total = np.full(16, 0.5, np.float32), np.zeros(16, np.float32)
    operations = multiply_add(100, half.ctypes.data, total.ctypes.data)
    chains = operations // 100 // 2 // 16
    # Each chain ends at 1, the fixed point of x / 2 + 1 / 2.
    assert chains > 1
    assert np.array_equal(total, np.full(16, chains, np.float32))


def test_the_reading_kernel_reads_everything_once():
    from oobleck_stream.engine.cpu.peak import READ_STEP, read

    turns = 3
    array = np.arange(turns * READ_STEP // 4, dtype=np.float32)
    total = np.zeros(16, np.float32)
    read(array.ctypes.data, turns, total.ctypes.data)
    assert np.array_equal(total, array.reshape(-1, 16).sum(axis=0))


@pytest.mark.sound
def test_play(sound_server):  # noqa: F811
    result = subprocess.run(
        [*COMMAND, "bench", "play", "--width", "4", "--seconds", "2", "--json"],
        env=sound_server.environment | {"HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["seconds"] == 2
    assert facts["played"] > 1.9
    assert facts["first_sound"] is not None
    assert facts["silence"] >= 0


def test_streams_side_by_side():
    done = run_bench("streams", *SMALL, "--counts", "3,1", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [row["streams"] for row in facts["rows"]] == [1, 3]
    for row in facts["rows"]:
        seconds, budget = row["median_seconds"], facts["frame_seconds"]
        assert row["stream_real_time_factor"] == pytest.approx(seconds / budget / row["streams"])
        assert row["real_time"] == (row["p99_seconds"] <= budget)
    lines = run_bench("streams", *SMALL, "--counts", "2").stdout.splitlines()
    assert max(map(len, lines)) <= WIDEST
    row = next(line for line in lines if line.startswith(f"{2:>10}"))
    assert row.split()[-1] in ("yes", "no")


def test_serve_with_real_clients():
    options = ["--slots", "2", "--listeners", "2", "--seconds", "1.5", "--json"]
    done = run_bench("serve", *options)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["slots"], facts["sessions"], facts["listeners"]) == (2, 2, 2)
    assert facts["ticks"] > 0
    assert facts["tick"] >= facts["tick_pushes"] > 0
    assert set(facts["push_streams"]) <= {1, 2}
    assert min(facts["push"], facts["plain_push"], facts["paced_push"]) > 0
    assert (facts["refused"], facts["parked"]) == (0, 0)
    assert facts["first_sound_alone"] > 0
