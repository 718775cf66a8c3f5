"""Data sets on real clusters: the same bytes, whatever is killed; nothing is lost or left over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from command_line import COMMAND
from data_sets import (
    CONFIG,
    RATE,
    children,
    coding_rate,
    digests,
    killing,
    leftovers,
    manifest,
    start_seconds,
    tcp_cluster,
    write_latents,
    write_model,
    write_sound,
    write_sounds,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from small_disks import PAGE, memory_folder, small_disk

import oobleck_stream as ob

dask = pytest.importorskip("dask")
pytest.importorskip("distributed")
pytest.importorskip("pyarrow")

from oobleck_stream.dataset.engines import local_cluster  # noqa: E402

LAYOUTS = ["files", "webdataset", "parquet"]
RUNS = {"encode": ob.dataset.encode, "decode": ob.dataset.decode}
PATIENCE = 300


@pytest.fixture(scope="module")
def folder():
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def tmp_path(folder):
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        yield Path(inside)


@pytest.fixture(scope="module")
def model(folder):
    return write_model(folder / "model")


@pytest.fixture(scope="module")
def inputs(folder):
    """The inputs of each direction: short ones, and two that are long for `OPTIONS`."""
    sounds, latents = write_sounds(folder / "sounds", 12), write_latents(folder / "latents", 12)
    write_sound(sounds / "long.wav", 80_000)
    write_sound(sounds / "long and slow.wav", 60_000, 11_025)
    write_latents(latents / "long", 2, 1500)
    return {"encode": sounds, "decode": latents}


@pytest.fixture(scope="module")
def expected(folder, model, inputs):
    """What one process writes, for a direction and a layout."""
    found = {}

    def get(direction, layout):
        if (direction, layout) not in found:
            out = folder / f"one process, {direction}, {layout}"
            run(direction, inputs, out, model, layout, workers=0)
            found[direction, layout] = digests(out)
        return found[direction, layout]

    return get


@pytest.fixture(scope="module")
def client():
    with local_cluster(2) as client:
        yield client


def run(direction, inputs, out, model, layout="files", unit=0.7, **options):
    options = {"layout": layout, "shard_items": 5, "unit": unit} | options
    report = RUNS[direction](inputs[direction], out, model, **options)
    assert report.failed == ()
    return report


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", RUNS)
def test_a_local_cluster(client, tmp_path, model, inputs, expected, direction, layout):
    run(direction, inputs, tmp_path / "out", model, layout, client=client)
    assert digests(tmp_path / "out") == expected(direction, layout)
    assert leftovers(tmp_path / "out") == []


def test_a_scheduler_and_workers_started_by_hand(tmp_path, model, inputs, expected):
    with tcp_cluster() as (address, _):
        process = driver("encode", inputs, tmp_path / "encode", model, "--scheduler", address)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        events = [json.loads(line) for line in output.splitlines()]
        assert events[0]["dashboard"].startswith("http://127.0.0.1:")
        assert any(event.get("workers") == 2 for event in events)
        run("decode", inputs, tmp_path / "decode", model, scheduler=address)
    for direction in RUNS:
        assert digests(tmp_path / direction) == expected(direction, "files")


# Workers that are killed


def check_killed_workers(direction, layout, tmp_path, model, kills):
    """Kill every worker soon after it has started, in a run of `kills + 2` times that work.

    Only two workers are alive at the end, so at least `kills` were killed before.
    """
    start = start_seconds(model)
    seconds = (kills + 2) * (start + 1.5) * coding_rate(direction, model)
    if direction == "encode":
        sounds = write_sounds(tmp_path / "in", 30, int(seconds / 15 * RATE))
        write_sound(sounds / "slow.wav", int(seconds / 10 * 11_025), 11_025)
    else:
        write_latents(tmp_path / "in", 30, int(seconds / 15 * RATE / CONFIG.hop))
    inputs, spared, out = {direction: tmp_path / "in"}, children(), tmp_path / "out"
    with killing(spared, start + 0.5, start + 1.5) as killed:
        run(direction, inputs, out, model, layout, unit=seconds / 100, workers=2)
    assert len(killed) >= kills
    assert children().keys() == spared.keys()
    assert leftovers(out) == []
    run(direction, inputs, tmp_path / "one process", model, layout, unit=1000, workers=0)
    assert digests(out) == digests(tmp_path / "one process")
    return len(killed)


def test_workers_are_killed(tmp_path, model):
    check_killed_workers("encode", "files", tmp_path, model, 2)


@pytest.mark.nightly
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", RUNS)
def test_workers_are_killed_all_the_time(tmp_path, model, direction, layout):
    count = check_killed_workers(direction, layout, tmp_path, model, 8)
    print(f"\n{direction} {layout}: {count} workers killed")


def test_a_task_that_ends_its_worker_three_times_is_set_aside(tmp_path, model, inputs):
    """The inputs that shared its task are done."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for path in inputs["encode"].rglob("*.wav"):
        (sounds / path.name).write_bytes(path.read_bytes())
    write_sound(sounds / "poison.wav", 500)
    with dask.config.set(
        {"distributed.worker.preload": [str(Path(__file__).parents[1] / "poison.py")]}
    ):
        report = ob.dataset.encode(sounds, tmp_path / "out", model, workers=2)
    (line,) = report.failed
    assert (line.key, line.status) == ("poison.wav", "set aside")
    assert "its task ended 3 workers" in line.error
    assert report.done == 14
    assert manifest(tmp_path / "out")["poison.wav"]["status"] == "set aside"
    report = ob.dataset.encode(sounds, tmp_path / "out", model, workers=0)
    assert (report.done, report.kept, report.failed) == (1, 14, ())


def test_workers_that_do_not_start(tmp_path, model, inputs, monkeypatch):
    monkeypatch.setattr("oobleck_stream.dataset.engines.START_SECONDS", 3)
    with (
        dask.config.set({"distributed.worker.preload": ["no_such_module"]}),
        pytest.raises(OSError, match="no worker has been running for 3 s"),
    ):
        ob.dataset.encode(inputs["encode"], tmp_path / "out", model, workers=1)


# Schedulers and drivers that are killed


def driver(direction, inputs, out, model, *options):
    """Start the command in a session of its own."""
    arguments = (direction, inputs[direction], out, "--model", model, *options, "--unit", 0.7)
    return subprocess.Popen(
        [*COMMAND, "dataset", *map(str, arguments), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_progress(process):
    """Read the command's lines until something is done."""
    for line in process.stdout:
        if json.loads(line).get("done"):
            return
    raise AssertionError(process.stderr.read())


def test_the_scheduler_is_killed(tmp_path, model, inputs, expected):
    with tcp_cluster() as (address, scheduler):
        process = driver("encode", inputs, tmp_path / "out", model, "--scheduler", address)
        wait_for_progress(process)
        scheduler.kill()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert errors.splitlines()[-1].startswith("oobleck_stream: "), errors
    assert "scheduler" in errors.splitlines()[-1]
    report = run("encode", inputs, tmp_path / "out", model, workers=0)
    assert 0 < report.kept < report.inputs
    assert digests(tmp_path / "out") == expected("encode", "files")
    assert leftovers(tmp_path / "out") == []


def no_process_of(session):
    """Whether all processes of a session have ended within some seconds."""
    for _ in range(200):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def check_killed_drivers(direction, layout, tmp_path, model, inputs, expected, delays, workers):
    """Kill the command after some seconds each time, then let it go on; nothing is torn."""
    out, wanted = tmp_path / "out", expected(direction, layout)
    options = ("--layout", layout, "--shard-items", 5, "--workers", workers)
    for delay in delays:
        process = driver(direction, inputs, out, model, *options)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=delay)
        process.kill()
        process.communicate()
        assert no_process_of(process.pid)
        there = {name: digest for name, digest in digests(out).items() if name in wanted}
        assert there.items() <= wanted.items()
    report = run(direction, inputs, out, model, layout, workers=0)
    assert digests(out) == wanted
    assert leftovers(out) == []
    return report


@settings(max_examples=2)
@given(delays=st.lists(st.floats(0.5, 4.0), min_size=1, max_size=2))
def test_the_driver_is_killed(folder, model, inputs, expected, delays):
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        arguments = (Path(inside), model, inputs, expected, delays, 2)
        check_killed_drivers("encode", "files", *arguments)


@pytest.mark.nightly
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", RUNS)
def test_the_driver_is_killed_at_many_moments(folder, model, inputs, expected, direction, layout):
    @settings(max_examples=10)
    @given(
        delays=st.lists(st.floats(0.5, 12.0), min_size=1, max_size=3),
        workers=st.integers(0, 2),
    )
    def check(delays, workers):
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            arguments = (Path(inside), model, inputs, expected, delays, workers)
            check_killed_drivers(direction, layout, *arguments)

    check()


@pytest.mark.parametrize("delay", [None, 0.0, 0.1, 0.3])
def test_ctrl_c_ends_cleanly(tmp_path, model, inputs, expected, delay):
    """When something is done, or some seconds after the first worker process was started."""
    process = driver("encode", inputs, tmp_path / "out", model, "--workers", 2)
    if delay is None:
        wait_for_progress(process)
    else:
        while not children(process.pid):
            time.sleep(0.001)
        time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert no_process_of(process.pid)
    run("encode", inputs, tmp_path / "out", model, workers=0)
    assert digests(tmp_path / "out") == expected("encode", "files")


# Full disks


def check_full_disk(tmp_path, model, inputs, expected, direction, layout, pages, **options):
    """The run ends with one error, and goes on when there is room."""
    wanted = expected(direction, layout)
    for free in pages:
        with small_disk(tmp_path / "disk", free) as disk:
            failure = None
            try:
                run(direction, inputs, disk / "out", model, layout, **options)
            except OSError as error:
                failure = error
            whole = failure is None
            if whole:
                assert digests(disk / "out") == wanted
                continue
            assert "No space left" in str(failure) or "disk full" in str(failure)
            there = digests(disk / "out") if (disk / "out").exists() else {}
            assert {k: v for k, v in there.items() if k in wanted}.items() <= wanted.items()
            subprocess.run(["mount", "-o", "remount,size=64M", str(disk)], check=True)
            run(direction, inputs, disk / "out", model, layout, **options)
            assert digests(disk / "out") == wanted
    return whole


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_a_full_disk(tmp_path, model, inputs, expected, layout):
    """The disk can also be unmounted afterwards: no file is left open."""
    pages = (*range(0, 60, 3), 30 * 2**20 // PAGE)
    assert check_full_disk(tmp_path, model, inputs, expected, "encode", layout, pages, workers=0)


def test_a_disk_that_is_full_for_workers(client, tmp_path, model, inputs, expected):
    check_full_disk(
        tmp_path, model, inputs, expected, "decode", "webdataset", (100,), client=client
    )


@pytest.mark.nightly
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("direction", RUNS)
def test_disks_of_every_size(tmp_path, model, inputs, expected, direction, layout):
    pages = [*range(0, 60, 3), *range(60, 1200, 60), 8000]
    assert check_full_disk(tmp_path, model, inputs, expected, direction, layout, pages, workers=0)
