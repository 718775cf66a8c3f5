"""Runs of data sets: which inputs are found, what is done again, and tasks that others run."""

from __future__ import annotations

import json
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from data_sets import (
    RATE,
    converted,
    decode,
    digests,
    encode,
    manifest,
    write_latents,
    write_sound,
    write_sounds,
)
from networks import random_audio

import oobleck_stream as ob

LAYOUTS = ["files", "webdataset", "parquet"]


# Inputs


def test_lists_patterns_and_single_files(sounds, tmp_path, model):
    names = sorted(path.relative_to(sounds).as_posix() for path in sounds.rglob("*.wav"))
    (sounds / "list.txt").write_text("\n".join(names) + "\n\n")
    (sounds / "list.jsonl").write_text("".join(json.dumps({"path": n}) + "\n" for n in names))
    (sounds / ".hidden.wav").write_text("not read")
    expected = None
    for number, source in enumerate(("", "list.txt", "list.jsonl", "*/*.wav", "**/*.wav")):
        out = tmp_path / f"out{number}"
        assert encode(sounds / source, out, model).done == 6
        expected = expected or digests(out)
        assert digests(out) == expected
    report = encode(sounds / names[0], tmp_path / "one", model)
    assert report.done == 1
    assert list(manifest(tmp_path / "one")) == [Path(names[0]).name]


def test_links_are_followed_once(sounds, tmp_path, model):
    (sounds / "loop").symlink_to(sounds)
    (sounds / "linked.wav").symlink_to(next(sounds.rglob("*.wav")))
    assert encode(sounds, tmp_path / "out", model).done == 7


def test_the_output_may_be_in_the_input(sounds, model):
    assert encode(sounds, sounds / "out", model).done == 6
    assert encode(sounds, sounds / "out", model).kept == 6
    assert decode(sounds / "out", sounds / "out" / "back", model, order="ct").done == 6
    assert decode(sounds / "out", sounds / "out" / "back", model, order="ct").kept == 6


def test_a_read_only_input_stays_as_it_is(sounds, tmp_path, model):
    before = digests(sounds)
    encode(sounds, tmp_path / "out", model, unit=0.2)
    assert digests(sounds) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "no such file"),
        ("empty", "no inputs found"),
        ("list.txt", "no.wav: can't be read: No such file"),
        ("list.jsonl", "line 1 is no object with a path"),
    ],
)
def test_inputs_that_are_not_there(tmp_path, model, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("no.wav\n")
    (tmp_path / "list.jsonl").write_text("{}\n")
    with pytest.raises(ob.InputError, match=words):
        encode(tmp_path / name, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_latents_with_one_name_are_refused(latents, tmp_path, model):
    path = next(latents.rglob("*.npy"))
    np.savez(path.with_suffix(".npz"), latents=np.load(path))
    with pytest.raises(ob.InputError, match="have the same name"):
        decode(latents, tmp_path / "out", model)


def test_addresses_of_fsspec(sounds, latents, tmp_path, model):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.put(str(sounds), "/sounds", recursive=True)
    memory.put(str(latents), "/latents", recursive=True)
    for run, source in ((encode, sounds), (decode, latents)):
        for layout in LAYOUTS:
            name = f"{run.__name__}-{layout}"
            options = {"layout": layout, "shard_items": 4, "unit": 0.5}
            run(source, tmp_path / name, model, **options)
            report = run(f"memory://{source.name}", f"memory://{name}", model, **options)
            assert (report.done, report.failed) == (6, ())
            memory.get(f"/{name}", str(tmp_path / "got" / name), recursive=True)
            expected = digests(tmp_path / name)
            assert digests(tmp_path / "got" / name).keys() == expected.keys()
            for file, digest in digests(tmp_path / "got" / name).items():
                assert file == "manifest.jsonl" or digest == expected[file]
            assert run(f"memory://{source.name}", f"memory://{name}", model, **options).kept == 6


def test_remote_folders_are_searched_like_local_ones(latents, tmp_path, model):
    """Hidden folders are skipped, and so is the output folder if it is inside."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.store.clear()
    memory.put(str(latents), "/latents", recursive=True)
    hidden = tmp_path / "hidden.npy"
    np.save(hidden, np.zeros((8, 5), np.float32))
    for place in (".hidden", "0/.hidden", "out"):
        memory.put(str(hidden), f"/latents/{place}/hidden.npy")
    report = decode("memory://latents", "memory://latents/out", model)
    assert (report.done, report.failed) == (6, ())


# Resuming


def times(out):
    return {path: path.stat().st_mtime_ns for path in Path(out).rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("run", [encode, decode])
def test_a_repeated_run_does_what_is_missing_or_changed(tmp_path, model, run, layout):
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    folder, out = tmp_path / "in", tmp_path / "out"
    (write_sounds if run is encode else write_latents)(folder, 9)
    options = {"layout": layout, "shard_items": 4, "unit": 0.7}
    assert run(folder, out, model, **options).done == 9
    before, unchanged = digests(out), times(out)
    del unchanged[out / "manifest.jsonl"]
    unchanged.pop(out / "filelist.txt", None)
    report = run(folder, out, model, **options)
    assert (report.done, report.kept) == (0, 9)
    assert digests(out) == before
    assert unchanged.items() <= times(out).items()

    # An output that is gone, an input that has changed, one that is new, one that is gone.
    outputs = sorted({line["output"] for line in manifest(out).values()})
    (out / outputs[-1]).unlink()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    (folder / "new").mkdir()
    (folder / "new" / paths[3].name).write_bytes(paths[3].read_bytes())
    paths[1].write_bytes(paths[4].read_bytes())
    paths[0].unlink()
    report = run(folder, out, model, **options)
    assert report.gone == 1
    lost = 1 if layout == "files" else 1 + (9 - 8)
    assert report.done in (lost + 1, lost + 2)
    assert report.failed == ()
    run(folder, tmp_path / "fresh", model, **options | {"shard_items": 4})
    if layout == "files":
        gone = digests(out).keys() - digests(tmp_path / "fresh").keys()
        assert {Path(name).suffix for name in gone} <= {".npy", ".json", ".wav"}
        assert digests(tmp_path / "fresh").items() <= digests(out).items()
    else:
        assert sorted(map(comparable, manifest(out).values())) == sorted(
            map(comparable, manifest(tmp_path / "fresh").values())
        )


def comparable(line):
    """What does not depend on how items are divided into files."""
    names = ("key", "sha256", "output_sha256", "frames", "samples", "status", "member")
    return [line[name] for name in names]


def test_other_settings_are_refused(sounds, tmp_path, model):
    encode(sounds, tmp_path / "out", model)
    before = digests(tmp_path / "out")
    for options, words in (
        ({"dtype": "float16"}, "dtype is 'float32' there, not 'float16'"),
        ({"split": 1.0}, "split is None there, not 125"),
        ({"layout": "webdataset"}, "layout is 'files'"),
    ):
        with pytest.raises(ob.InputError, match=words):
            encode(sounds, tmp_path / "out", model, **options)
    with pytest.raises(ob.InputError, match="network is"):
        ob.dataset.encode(sounds, tmp_path / "out", "tiny", workers=0)
    write_latents(tmp_path / "latents", 1)
    with pytest.raises(ob.InputError, match="direction is"):
        decode(tmp_path / "latents", tmp_path / "out", model)
    assert digests(tmp_path / "out") == before
    encode(sounds, tmp_path / "out", model, unit=0.1, threads=2)


def test_inputs_that_failed_are_tried_again(sounds, tmp_path, model):
    path = sounds / "later.wav"
    path.write_bytes(b"")
    assert len(encode(sounds, tmp_path / "out", model).failed) == 1
    write_sound(path, 1000)
    report = encode(sounds, tmp_path / "out", model)
    assert (report.done, report.kept, report.failed) == (1, 6, ())
    path.write_bytes(b"no sound now")
    assert len(encode(sounds, tmp_path / "out", model).failed) == 1
    assert "later.wav.npy" not in (tmp_path / "out" / "filelist.txt").read_text().split("\n")


def test_an_input_that_changes_meanwhile_is_a_line(sounds, tmp_path, model):
    path = sounds / "changed.wav"
    write_sound(path, 3000)
    plan = ob.dataset.plan_encode(sounds, tmp_path / "out", model)
    write_sound(path, 2000)
    report = plan.rounds(lambda tasks: map(plan.run, tasks))
    (line,) = report.failed
    assert "was changed while it was read" in line.error
    assert encode(sounds, tmp_path / "out", model).done == 1


def test_records_are_merged(sounds, tmp_path, model, monkeypatch):
    """Their number stays small during a run."""
    monkeypatch.setattr("oobleck_stream.dataset.plan.MERGED_RECORDS", 3)
    plan = ob.dataset.plan_encode(sounds, tmp_path / "out", model, unit=0.1)
    most = []

    def run(tasks):
        for task in tasks:
            yield plan.run(task)
            most.append(len(list((tmp_path / "out" / ".work" / "done").glob("*"))))

    tasks = list(plan.tasks())
    while tasks:
        results = [(task, plan.run(task)) for task in tasks]
        tasks = [new for task, result in results for new in plan.follow(task, result)]
        folder = tmp_path / "out" / ".work" / "done"
        most.append(len(list(folder.glob("*"))) if folder.exists() else 0)
    assert max(most) <= 3
    again = ob.dataset.plan_encode(sounds, tmp_path / "out", model, unit=0.1)
    assert again.status.inputs == 0
    again.finish()
    encode(sounds, tmp_path / "other", model)
    assert digests(tmp_path / "out") == digests(tmp_path / "other")


# Tasks that others run


def test_a_pool_of_processes_runs_the_tasks(sounds, tmp_path, model):
    encode(sounds, tmp_path / "one", model)
    plan = ob.dataset.plan_encode(sounds, tmp_path / "out", model, unit=0.5)
    with ProcessPoolExecutor(2) as pool:
        report = plan.rounds(lambda tasks: pool.map(plan.run, tasks))
    assert report.done == 6
    assert digests(tmp_path / "out") == digests(tmp_path / "one")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shares(sounds, tmp_path, model, layout):
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    options = {"layout": layout, "shard_items": 2, "unit": 0.5}
    encode(sounds, tmp_path / "one", model, **options)
    done = [
        encode(sounds, tmp_path / "out", model, share=(number, 3), **options).done
        for number in (2, 1, 3)
    ]
    assert sum(done) == 6
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    report = encode(sounds, tmp_path / "out", model, **options)
    assert (report.done, report.kept) == (0, 6)
    assert digests(tmp_path / "out") == digests(tmp_path / "one")


def check_shuffled(plan, parts, seed=0):
    """Run the tasks in a random order, some twice; check the number of parts."""
    generator, units = random.Random(seed), []

    def run(tasks):
        order = list(range(len(tasks)))
        generator.shuffle(order)
        results = {}
        for number in [*order, *order[: len(order) // 10]]:
            results[number] = plan.run(tasks[number])
        units.append(len(tasks))
        return [results[number] for number in range(len(tasks))]

    report = plan.rounds(run)
    assert (report.done, report.failed) == (1, ())
    assert max(units) == parts


@pytest.mark.parametrize("name", ["long.wav", "long.mp3", "other rate.wav"])
def test_a_long_sound_in_shuffled_parts(tmp_path, model, network, name):
    rate = 11_025 if "rate" in name else RATE
    write_sound(tmp_path / "in" / name, 60 * rate, rate)
    sound = converted(tmp_path / "in" / name)
    check_long_sound(tmp_path, model, network, name, sound, 60 / 49.5)


def check_long_sound(tmp_path, model, network, name, sound, unit):
    plan = ob.dataset.plan_encode(tmp_path / "in", tmp_path / "out", model, unit=unit)
    check_shuffled(plan, 50)
    latents = np.load(tmp_path / "out" / f"{name}.npy").T
    np.testing.assert_array_equal(latents, network.encode(sound))


def test_long_latents_in_shuffled_parts(tmp_path, model, network):
    latents = np.random.default_rng(0).standard_normal((7500, 8), np.float32)
    check_long_latents(tmp_path, model, network, latents, 60 / 49.5)


def check_long_latents(tmp_path, model, network, latents, unit):
    (tmp_path / "in").mkdir(exist_ok=True)
    np.save(tmp_path / "in" / "long.npy", latents)
    plan = ob.dataset.plan_decode(
        tmp_path / "in", tmp_path / "sounds", model, unit=unit, bits="float"
    )
    check_shuffled(plan, 50)
    sound, _ = soundfile.read(tmp_path / "sounds" / "long.wav", dtype="float32")
    np.testing.assert_array_equal(sound, network.decode(latents))


@pytest.mark.nightly
def test_an_hour_in_shuffled_parts(tmp_path):
    """With the bundled network: 50 parts, encoded and decoded."""
    network = ob.load("tiny")
    sound = np.tile(random_audio(network.config, 60 * 44_100 + 77), (60, 1))
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "hour.wav", sound, 44_100, subtype="FLOAT")
    check_long_sound(tmp_path, "tiny", network, "hour.wav", sound, 3600 / 49.5)
    latents = np.load(tmp_path / "out" / "hour.wav.npy").T
    (tmp_path / "in" / "hour.wav").unlink()
    check_long_latents(tmp_path, "tiny", network, latents, 3600 / 49.5)
