"""Data sets: outputs are what `encode` and `decode` give, and say what was done to the inputs."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import run_command
from data_sets import (
    CONFIG,
    RATE,
    converted,
    decode,
    digests,
    encode,
    leftovers,
    manifest,
    noise,
    write_sound,
)
from networks import model_of

from oobleck_stream.dataset.job import fingerprint
from oobleck_stream.engine.packed import retiled

LAYOUTS = ["files", "webdataset", "parquet"]


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
