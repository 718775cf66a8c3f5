"""Data sets: outputs are what `encode` and `decode` give, and say what was done to the inputs."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import run_command
from data_sets import (
    CONFIG,
    RATE,
    converted,
    digests,
    leftovers,
    manifest,
    noise,
    write_latents,
    write_model,
    write_sound,
    write_sounds,
)
from networks import model_of, random_audio

import oobleck_stream as ob
from oobleck_stream.dataset.job import fingerprint
from oobleck_stream.engine.packed import retiled

LAYOUTS = ["files", "webdataset", "parquet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def network(model):
    return ob.load(model)


@pytest.fixture
def tmp_path(tmp_path):
    """In memory, if that is possible, because all outputs are flushed to the disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def sounds(tmp_path):
    return write_sounds(tmp_path / "sounds", 6)


@pytest.fixture
def latents(tmp_path):
    return write_latents(tmp_path / "latents", 6)


def encode(source, out, model, **options):
    return ob.dataset.encode(source, out, model, **({"workers": 0} | options))


def decode(source, out, model, **options):
    return ob.dataset.decode(source, out, model, **({"workers": 0} | options))


def stored(out, line):
    """The latents of an item (frames, latent_dim), and the JSON beside them."""
    path = Path(out) / line["output"]
    return np.load(path).T, json.loads(path.with_suffix(".json").read_text())


# What is written


def test_latents_are_those_of_the_whole(sounds, tmp_path, model, network):
    report = encode(sounds, tmp_path / "out", model, unit=0.5)
    assert (report.inputs, report.done, report.kept, report.failed) == (6, 6, 0, ())
    lines = manifest(tmp_path / "out")
    assert sorted(lines) == sorted(
        path.relative_to(sounds).as_posix() for path in sounds.rglob("*.wav")
    )
    for key, line in lines.items():
        sound = converted(sounds / key)
        latents, info = stored(tmp_path / "out", line)
        np.testing.assert_array_equal(latents, network.encode(sound))
        assert line["status"] == "done"
        assert (line["frames"], line["samples"]) == (len(latents), len(sound))
        assert line["size"] == (sounds / key).stat().st_size
        assert line["output_sha256"] == digests(tmp_path / "out")[line["output"]]
        assert line["sha256"] == digests(sounds)[key]
        assert info["padding_mask"] == [1] * len(latents)
        assert info["seconds_total"] == -(-len(sound) // RATE)
    assert leftovers(tmp_path / "out") == []
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.jsonl").read_text()


@pytest.mark.parametrize(("audio", "bits"), [("wav", "float"), ("wav", "16"), ("flac", "24")])
def test_audio_is_that_of_the_whole(latents, tmp_path, model, network, audio, bits):
    report = decode(latents, tmp_path / "out", model, audio=audio, bits=bits, unit=0.5)
    assert (report.done, report.failed) == (6, ())
    lines = manifest(tmp_path / "out")
    for path in latents.rglob("*.npy"):
        key = path.relative_to(latents).with_suffix("").as_posix()
        wanted = network.decode(np.load(path))
        with ob_writer(tmp_path / f"expected.{audio}", bits) as writer:
            writer.write(wanted)
        content = (tmp_path / f"expected.{audio}").read_bytes()
        assert (tmp_path / "out" / f"{key}.{audio}").read_bytes() == content
        assert lines[key]["samples"] == len(wanted)
    assert leftovers(tmp_path / "out") == []


def ob_writer(path, bits):
    from oobleck_stream.files.audio_writer import AudioWriter

    return AudioWriter(path, CONFIG.samplerate, CONFIG.audio_channels, bits)


def test_what_is_encoded_is_decoded(sounds, tmp_path, model, network):
    encode(sounds, tmp_path / "latents", model)
    report = decode(tmp_path / "latents", tmp_path / "sounds2", model, bits="float", order="ct")
    assert (report.done, report.failed) == (6, ())
    for path in sounds.rglob("*.wav"):
        key = path.relative_to(sounds).as_posix()
        sound, _ = soundfile.read(tmp_path / "sounds2" / f"{key}.wav", dtype="float32")
        expected = network.decode(network.encode(converted(path)))
        np.testing.assert_array_equal(sound, expected)


UNUSUAL = {
    "mono.wav": (lambda path: write_sound(path, 3000, channels=1), ["mono on all 2 channels"]),
    "48000.wav": (lambda path: write_sound(path, 9000, 48000), ["resampled from 48000 to 8000 Hz"]),
    "ä ö/ünï 音.flac": (lambda path: write_sound(path, 2000), []),
    "silent.wav": (lambda path: path.write_bytes(silence(path)), []),
    "one.wav": (lambda path: write_sound(path, 1), []),
    "twice.wav": (lambda path: write_sound(path, 500, seed=1), []),
    "twice.flac": (lambda path: write_sound(path, 500, seed=2), []),
    "lossy.mp3": (lambda path: write_sound(path, 20_000), []),
    "lossy.ogg": (
        lambda path: write_sound(path, 20_000, 16_000),
        ["resampled from 16000 to 8000 Hz"],
    ),
    "float.wav": (lambda path: write_sound(path, 900, subtype="FLOAT"), []),
    "n" * 230 + ".wav": (lambda path: write_sound(path, 100), []),
}
BROKEN = {
    "empty.wav": (lambda path: path.write_bytes(b""), "is empty; a sound file was expected"),
    "no samples.wav": (lambda path: soundfile.write(path, np.zeros((0, 2)), RATE), "no samples"),
    "text.wav": (lambda path: path.write_text("text"), "not a sound file"),
    "cut.flac": (lambda path: cut_file(path), "damaged or cut off"),
    "three.wav": (lambda path: write_sound(path, 100, channels=3), "has 3 channels"),
    "fast.wav": (lambda path: write_sound(path, 99, 2_000_000), "has 2000000 Hz"),
    "nan.wav": (lambda path: not_a_number(path), "sample 50 is not"),
}


def silence(path):
    soundfile.write(path, np.zeros((1000, 2)), RATE)
    return path.read_bytes()


def cut_file(path):
    write_sound(path, 20_000)
    path.write_bytes(path.read_bytes()[:9000])


def not_a_number(path):
    samples = noise(100).copy()
    samples[50] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")


@pytest.mark.parametrize("unit", [0.2, 100])
def test_unusual_inputs(tmp_path, model, network, unit):
    """Each is encoded, and its line says how, or it is a line that says why not."""
    folder = tmp_path / "sounds"
    for name, (make, _) in (UNUSUAL | BROKEN).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name)
    report = encode(folder, tmp_path / "out", model, unit=unit)
    assert (report.done, len(report.failed)) == (len(UNUSUAL), len(BROKEN))
    lines = manifest(tmp_path / "out")
    assert len(lines) == len(UNUSUAL) + len(BROKEN)
    for name, (_, changes) in UNUSUAL.items():
        if name not in lines:
            name, line = next((name, lines[key]) for key in lines if key[:150] == name[:150])
        else:
            line = lines[name]
        assert line["changes"] == changes, name
        np.testing.assert_array_equal(
            stored(tmp_path / "out", line)[0], network.encode(converted(folder / name))
        )
    for name, (_, reason) in BROKEN.items():
        assert lines[name]["status"] == "failed"
        assert reason in lines[name]["error"], name
        assert "\n" not in lines[name]["error"]
        assert not (tmp_path / "out" / f"{name}.npy").exists()
    listed = (tmp_path / "out" / "filelist.txt").read_text().splitlines()
    assert len(listed) == len(UNUSUAL)
    again = encode(folder, tmp_path / "out", model, unit=unit)
    assert (again.done, again.kept, len(again.failed)) == (0, len(UNUSUAL), len(BROKEN))


def test_bad_latents_are_lines(latents, tmp_path, model):
    np.save(latents / "shape.npy", np.zeros((10, 9)))
    np.save(latents / "nan.npy", np.full((40, 8), np.nan))
    np.save(latents / "large.npy", np.full((40, 8), 3e38, np.float32))
    np.save(latents / "square.npy", np.zeros((8, 8)))
    np.save(latents / "none.npy", np.zeros((0, 8)))
    (latents / "cut.npy").write_bytes((latents / "nan.npy").read_bytes()[:-1])
    report = decode(latents, tmp_path / "out", model, unit=0.1)
    assert report.done == 6
    errors = {line.key: line.error for line in report.failed}
    for key, words in (
        ("shape", "latents of shape"),
        ("nan", "frame 0 is not"),
        ("large", "float32 overflows"),
        ("square", "may be"),
        ("none", "holds no frames"),
        ("cut", "cut off"),
    ):
        assert words in errors[key], key
    assert len(errors) == 6


# Options


def test_split_crop_and_pad_cut_latents(tmp_path, model, network):
    write_sound(tmp_path / "in" / "a.wav", 20_001)
    whole = network.encode(converted(tmp_path / "in" / "a.wav"))
    frames = 40  # of 313, in 0.32 seconds
    for unit in (0.1, 0.5, 100):
        out = tmp_path / f"split {unit}"
        encode(tmp_path / "in", out, model, split=0.32, unit=unit)
        lines = manifest(out)
        assert list(lines) == [f"a.wav.{number:05d}" for number in range(8)]
        parts = [stored(out, line)[0] for line in lines.values()]
        assert [len(part) for part in parts] == [frames] * 7 + [33]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        info = stored(out, lines["a.wav.00002"])[1]
        assert (info["samples"], info["timestamps"][0]) == (frames * 64, 80 * 64 / 20_001)

        out = tmp_path / f"crop {unit}"
        encode(tmp_path / "in", out, model, crop=0.32, unit=unit)
        (line,) = manifest(out).values()
        latents, info = stored(out, line)
        np.testing.assert_array_equal(latents, whole[:frames])
        assert line["changes"] == ["the first 0.320 s of 2.500 s"]
        assert info["seconds_total"] == 3

        out = tmp_path / f"pad {unit}"
        encode(tmp_path / "in", out, model, crop=3.2, pad=True, unit=unit)
        padded = np.pad(converted(tmp_path / "in" / "a.wav"), ((0, 400 * 64 - 20_001), (0, 0)))
        (line,) = manifest(out).values()
        latents, info = stored(out, line)
        np.testing.assert_array_equal(latents, network.encode(padded))
        assert line["changes"] == ["0.700 s of silence added at the end"]
        assert info["padding_mask"] == [1] * 313 + [0] * 87

        out = tmp_path / f"split pad {unit}"
        encode(tmp_path / "in", out, model, split=0.64, pad=True, unit=unit)
        lines = manifest(out)
        assert [line["frames"] for line in lines.values()] == [80] * 4
        assert stored(out, lines["a.wav.00003"])[1]["padding_mask"] == [1] * 73 + [0] * 7


def test_cropped_and_resampled(tmp_path, model, network):
    write_sound(tmp_path / "in" / "a.wav", 40_000, 16_000)
    whole = network.encode(converted(tmp_path / "in" / "a.wav"))
    for unit in (0.1, 100):
        encode(tmp_path / "in", tmp_path / f"{unit}", model, crop=0.32, unit=unit)
        (line,) = manifest(tmp_path / f"{unit}").values()
        np.testing.assert_array_equal(stored(tmp_path / f"{unit}", line)[0], whole[:40])
        assert line["changes"][1:] == ["the first 0.320 s of 2.500 s"]


def test_tiles_are_part_of_the_settings(tmp_path):
    """A data set that was begun with the same network in other arithmetic is refused."""
    wide = CONFIG.replace(channels=64, multiples=(1,), strides=(64,))
    model = model_of(wide)
    direct = [layer.direct for layer in model.encoder.layers]
    older = dataclasses.replace(model, load_encoder=lambda: retiled(model.encoder, direct))
    assert fingerprint(older, "encode") != fingerprint(model, "encode")
    assert fingerprint(older, "decode") == fingerprint(model, "decode")


def test_sampled_latents_do_not_depend_on_the_parts(sounds, tmp_path, model, network):
    for unit in (0.1, 100):
        encode(sounds, tmp_path / f"{unit}", model, sample=True, seed=5, unit=unit)
    assert digests(tmp_path / "0.1") == digests(tmp_path / "100")
    seeds = set()
    for key, line in manifest(tmp_path / "100").items():
        latents, info = stored(tmp_path / "100", line)
        expected = network.encode(converted(sounds / key), sample=True, seed=info["seed"])
        np.testing.assert_array_equal(latents, expected)
        seeds.add(info["seed"])
    assert len(seeds) == 6
    encode(sounds, tmp_path / "other", model, sample=True, seed=6)
    assert digests(tmp_path / "other") != digests(tmp_path / "100")


def test_half_precision(sounds, tmp_path, model, network):
    encode(sounds, tmp_path / "out", model, dtype="float16", unit=0.5)
    for key, line in manifest(tmp_path / "out").items():
        latents, _ = stored(tmp_path / "out", line)
        expected = network.encode(converted(sounds / key)).astype(np.float16)
        np.testing.assert_array_equal(latents, expected)
        assert latents.dtype == np.float16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": 1, "split": 1}, "can't be combined"),
        ({"pad": True}, "pad needs crop or split"),
        ({"crop": -1}, "crop must be"),
        ({"unit": 0}, "unit must be"),
        ({"threads": 0}, "threads must be"),
        ({"workers": -1}, "workers must be"),
        ({"shard_items": 0}, "shard_items must be"),
    ],
)
def test_wrong_arguments(sounds, tmp_path, model, options, words):
    with pytest.raises(ValueError, match=words):
        encode(sounds, tmp_path / "out", model, **options)


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


# The command line


def test_the_commands(sounds, tmp_path, model):
    (sounds / "broken.wav").write_text("")
    options = ("--model", model, "--workers", 0)
    done = run_command("dataset", "encode", sounds, tmp_path / "out", *options)
    assert done.returncode == 1
    broken, summary = done.stderr.splitlines()[-2:]
    assert broken.endswith("broken.wav: is empty; a sound file was expected")
    assert "6 of 7 inputs done, 0 were done before, 1 failed" in summary
    (sounds / "broken.wav").unlink()
    done = run_command("dataset", "encode", sounds, tmp_path / "out", *options, "--json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "summary"
    assert (events[-1]["done"], events[-1]["kept"], events[-1]["failed"]) == (0, 6, 0)
    done = run_command(
        *("dataset", "decode", tmp_path / "out", tmp_path / "back", *options),
        *("--order", "ct", "--audio", "flac", "--json"),
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["bytes"] == progress[-1]["total_bytes"] > 0
    assert progress[-1]["seconds"] > 0
    assert progress[-1]["seconds_left"] == 0
    assert len(list((tmp_path / "back").rglob("*.flac"))) == 6


def test_strict_stops_at_the_first_failure(sounds, tmp_path, model):
    (sounds / "0" / "a.wav").write_text("")
    options = ("--model", model, "--workers", 0, "--unit", 0.1, "--json", "--strict")
    done = run_command("dataset", "encode", sounds, tmp_path / "out", *options)
    assert done.returncode == 1
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["failed"] == 1
    assert summary["done"] < 6
    assert manifest(tmp_path / "out")["0/a.wav"]["status"] == "failed"
    (sounds / "0" / "a.wav").unlink()
    done = run_command("dataset", "encode", sounds, tmp_path / "out", *options)
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["kept"] == summary["done"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["encode", "IN", "OUT", "--pad"], "--crop or --split"),
        (["encode", "IN", "OUT", "--crop", "1", "--split", "1"], "can't be combined"),
        (["encode", "IN", "OUT", "--seed", "1"], "--sample"),
        (["encode", "IN", "OUT", "--shard", "3/2"], "a share like 3/16"),
        (["encode", "IN", "OUT", "--scheduler", "tcp://127.0.0.1:9"], "no Dask scheduler"),
        (["encode", "nothing", "OUT", "--workers", "0"], "no such file"),
        (["decode", "IN", "OUT", "--audio", "flac", "--bits", "float"], "--audio wav"),
        (["decode", "IN", "OUT", "--workers", "0"], "no inputs found"),
    ],
)
def test_wrong_usage(sounds, tmp_path, model, arguments, word, monkeypatch):
    if "--scheduler" in arguments:
        pytest.importorskip("distributed")
        monkeypatch.setattr("oobleck_stream.dataset.engines.CONNECT_SECONDS", 1)
    names = {"IN": sounds, "OUT": tmp_path / "out"}
    arguments = [names.get(argument, argument) for argument in arguments]
    done = run_command("dataset", *arguments, "--model", model)
    assert done.returncode == 2
    assert word in done.stderr.splitlines()[-1]


def test_an_output_that_can_not_be_written(sounds, tmp_path, model):
    (tmp_path / "out").write_text("a file")
    done = run_command(
        "dataset", "encode", sounds, tmp_path / "out", "--model", model, "--workers", 0
    )
    assert done.returncode == 1
    assert str(tmp_path / "out") in done.stderr.splitlines()[-1]
    assert os.listdir(tmp_path / "sounds") != []
