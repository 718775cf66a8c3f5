"""The outputs are read by the code of stable-audio-tools, webdataset and `datasets`."""

from __future__ import annotations

import io
import json
import os
import sys
import types

import numpy as np
import pytest
import soundfile
from data_sets import RATE, converted, manifest, write_latents, write_model, write_sounds

import oobleck_stream as ob


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"), 7)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("latents"), 7)


def expected_latents(sounds, model):
    network = ob.load(model)
    return {
        path.relative_to(sounds).as_posix(): network.encode(converted(path))
        for path in sounds.rglob("*.wav")
    }


@pytest.mark.peers
def test_stable_audio_tools(sounds, model, tmp_path, monkeypatch):
    """Its `PreEncodedDataset` finds every item, and the sound's end in the padding mask."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("stable_audio_tools")
    # Its module imports these for other data sets.
    stand_in = types.ModuleType("torchaudio")
    stand_in.transforms = types.ModuleType("torchaudio.transforms")
    for name, module in (("torchaudio", stand_in), ("webdataset", types.ModuleType("webdataset"))):
        try:
            __import__(name)
        except ImportError:
            monkeypatch.setitem(sys.modules, name, module)
    from stable_audio_tools.data.dataset import LocalDatasetConfig, PreEncodedDataset

    ob.dataset.encode(sounds, tmp_path / "out", model, crop=1.28, pad=True, workers=0)
    config = LocalDatasetConfig("test", str(tmp_path / "out"))
    data = PreEncodedDataset([config], latent_crop_length=100)
    assert len(data) == 7
    network, seen = ob.load(model), set()
    lines = manifest(tmp_path / "out")
    for latents, info in data:
        sound = converted(sounds / info["key"])
        padded = np.pad(sound, ((0, max(0, 160 * 64 - len(sound))), (0, 0)))
        wanted = torch.from_numpy(network.encode(padded)[:100].T.copy())
        assert torch.equal(latents, wanted)
        assert torch.equal(info["audio"], wanted)
        assert info["seconds_total"] == -(-len(sound) // RATE)
        (mask,) = info["padding_mask"]
        assert mask.sum() == min(100, -(-len(sound) // 64))
        assert lines[info["key"]]["frames"] == 160
        seen.add(info["key"])
    assert len(seen) == 7
    whole = PreEncodedDataset([config], max_length_sec=1000)
    assert {latents.shape for latents, _ in whole} == {(8, 160)}
    loader = torch.utils.data.DataLoader(whole, batch_size=7, collate_fn=lambda batch: batch)
    (batch,) = loader
    assert len(batch) == 7


def test_stable_audio_tools_reads_only_what_is_listed(sounds, model, tmp_path):
    """It takes every `.npy` file in a folder, unless there is a list."""
    ob.dataset.encode(sounds, tmp_path / "out", model, workers=0)
    names = (tmp_path / "out" / "filelist.txt").read_text().splitlines()
    assert sorted(names) == sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.npy")
    )


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_webdataset(sounds, model, tmp_path, precision):
    wds = pytest.importorskip("webdataset")
    ob.dataset.encode(
        sounds,
        tmp_path,
        model,
        layout="webdataset",
        dtype=precision,
        shard_items=3,
        workers=0,
    )
    shards = sorted(tmp_path.glob("*.tar"))
    assert [path.name for path in shards] == [f"shard-{n:06d}.tar" for n in range(3)]
    expected, read = expected_latents(sounds, model), {}
    urls = [str(path) for path in shards]
    for sample in wds.WebDataset(urls, shardshuffle=False).decode():
        read[sample["json"]["key"]] = sample["npy"]
        assert sample["npy"].shape == (8, sample["json"]["frames"])
        assert len(sample["json"]["padding_mask"]) == sample["json"]["frames"]
    assert read.keys() == expected.keys()
    for key, latents in read.items():
        np.testing.assert_array_equal(latents, expected[key].T.astype(precision))


def test_webdataset_of_audio(latents, model, tmp_path):
    wds = pytest.importorskip("webdataset")
    ob.dataset.decode(
        latents, tmp_path, model, layout="webdataset", audio="flac", shard_items=3, workers=0
    )
    network, keys = ob.load(model), set()
    for sample in wds.WebDataset(sorted(map(str, tmp_path.glob("*.tar"))), shardshuffle=False):
        info = json.loads(sample["json"])
        sound, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        wanted = network.decode(np.load(latents / f"{info['key']}.npy"))
        assert rate == RATE
        assert sound.shape == wanted.shape
        assert np.abs(sound - np.clip(wanted, -1, 1)).max() <= 2**-15
        keys.add(info["key"])
    assert len(keys) == 7


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_datasets(sounds, model, tmp_path, precision, monkeypatch):
    hub = load_datasets(tmp_path, monkeypatch)
    ob.dataset.encode(
        sounds,
        tmp_path / "out",
        model,
        layout="parquet",
        dtype=precision,
        shard_items=3,
        workers=0,
    )
    data = hub.load_dataset(str(tmp_path / "out"), split="train")
    assert len(data) == 7
    expected = expected_latents(sounds, model)
    for row in data.with_format("numpy"):
        np.testing.assert_array_equal(row["latents"], expected[row["key"]].astype(precision))
        assert row["filled"] == len(row["latents"])
        assert json.loads(str(row["info"]))["frames"] == len(row["latents"])
    streamed = hub.load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    assert {row["key"] for row in streamed} == expected.keys()


def test_datasets_of_audio(latents, model, tmp_path, monkeypatch):
    hub = load_datasets(tmp_path, monkeypatch)
    ob.dataset.decode(
        latents, tmp_path / "out", model, layout="parquet", bits="float", shard_items=3, workers=0
    )
    data = hub.load_dataset(str(tmp_path / "out"), split="train")
    assert isinstance(data.features["audio"], hub.Audio)
    network = ob.load(model)
    for row in data.cast_column("audio", hub.Audio(decode=False)):
        sound, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        assert rate == row["sample_rate"] == RATE
        np.testing.assert_array_equal(sound, network.decode(np.load(latents / f"{row['key']}.npy")))


def load_datasets(tmp_path, monkeypatch):
    """Import the library, with its cache in a folder of the test."""
    pytest.importorskip("pyarrow")
    for name in ("HF_DATASETS_CACHE", "HF_HOME"):
        monkeypatch.setitem(os.environ, name, str(tmp_path / "cache"))
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    hub = pytest.importorskip("datasets")
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return hub
