"""`oobleck_stream convert`: what it refuses, and that nothing half-written stays."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import safetensors_bytes
from conversions import (
    AUDIO,
    CONFIG,
    DECODER,
    TARGETS,
    TENSORS,
    assert_sounds_the_same,
    convert,
    written,
)
from networks import random_tensors, write_folder

from oobleck_stream.formats.flat import write_flat


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "source", CONFIG, TENSORS)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_numbers_that_do_not_fit_are_refused_and_nothing_stays(tmp_path):
    last = list(TENSORS)[-1]
    for value, dtype, words in (
        (1e5, "float16", ["holds 100000, too large for float16"]),
        (3.4e38, "bfloat16", ["too large for bfloat16"]),
        (np.nan, "keep", ["not finite"]),
    ):
        values = TENSORS[last] * 0 + np.float32(value)
        source = written(tmp_path / "source.safetensors", TENSORS | {last: values})
        for name, *options in TARGETS.values():
            if "protobuf" in options and dtype != "keep":
                continue
            arguments = (source, tmp_path / name, *options, "--dtype", dtype)
            message = convert(*arguments, status=2)
            for word in [*words, last.rpartition(".")[2]]:
                assert word in message
            assert names(tmp_path) == ["source.safetensors"]


def test_what_is_there_stays_unless_forced(tmp_path, folder):
    other = write_folder(tmp_path / "other", CONFIG, random_tensors(CONFIG, 5))
    for name, *options in (*TARGETS.values(), ("a.packed.safetensors",)):
        convert(other, tmp_path / name, *options)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert "already exists (--force" in convert(folder, tmp_path / name, *options, status=2)
        broken = written(tmp_path / "broken.safetensors", DECODER | {"decoder.x": AUDIO})
        convert(broken, tmp_path / name, *options, "--force", status=2)
        broken.unlink()
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        convert(folder, tmp_path / name, *options, "--force")
        assert_sounds_the_same(tmp_path / name, folder, encoder=False)
        for path in [tmp_path / "a", *tmp_path.glob("a*")]:
            if path.is_dir():
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
            else:
                path.unlink(missing_ok=True)


def test_old_shards_go_and_an_interruption_leaves_no_false_index(tmp_path, folder, monkeypatch):
    index = tmp_path / "a.safetensors.index.json"
    other = write_folder(tmp_path / "other", CONFIG, random_tensors(CONFIG, 5))
    convert(other, index, "--shard-size", "1KB")
    kept = tmp_path / "a-00001-of-00099.safetensors"
    kept.write_text("named by nobody")
    replace = os.replace

    def interrupted(source, target):
        replace(source, target)
        raise OSError("interrupted")

    convert(folder, index, "--shard-size", "3KB", "--force")
    assert_sounds_the_same(index, folder)
    named = set(json.loads(index.read_text())["weight_map"].values())
    assert {path.name for path in tmp_path.glob("a-*")} == named | {kept.name}
    monkeypatch.setattr(os, "replace", interrupted)
    convert(other, index, "--shard-size", "3KB", "--force", status=1)
    assert not index.exists()


def test_the_protobuf_hint_names_the_target(tmp_path, folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "oobleck_stream.checkpoints.weights_pb2", raising=False)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    message = convert(folder, tmp_path / "a", "--to", "protobuf", status=2)
    assert f"{tmp_path / 'a'}: " in message
    assert "'oobleck_stream[protobuf]'" in message


def test_a_folder_with_other_things_in_it_is_not_replaced(tmp_path, folder):
    (tmp_path / "a").mkdir()
    convert(folder, tmp_path / "a", "--to", "protobuf")
    (tmp_path / "a" / "diary.txt").write_text("dear diary")
    message = convert(folder, tmp_path / "a", "--to", "protobuf", "--force", status=2)
    assert "diary.txt" in message
    assert (tmp_path / "a" / "diary.txt").exists()


def test_the_source_is_never_written_over(tmp_path, folder):
    file = folder / "model.safetensors"
    before = file.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(file)
    for source, target in (
        (file, file),
        (folder, file),
        (tmp_path / "link.safetensors", file),
        (file, tmp_path / "link.safetensors"),
    ):
        assert "of the checkpoint itself" in convert(source, target, "--force", status=2)
    index = tmp_path / "b.safetensors.index.json"
    convert(folder, index)
    shard = tmp_path / "b-00001-of-00001.safetensors"
    convert(shard, index, "--shard-size", "3KB", "--force")
    assert shard.exists()
    for target in (folder, tmp_path):
        message = convert(file, target, "--to", "stable-audio-tools", "--force", status=2)
        assert "contains the checkpoint itself" in message
    assert file.read_bytes() == before


def test_what_a_container_can_not_express_is_named(tmp_path):
    def message(form, **changes):
        config = CONFIG.replace(**changes)
        tensors = random_tensors(config) | random_tensors(config, half="encoder")
        values = {"config": json.dumps({"oobleck_stream": vars(config)})}
        source = tmp_path / "source.safetensors"
        source.write_bytes(safetensors_bytes(tensors, metadata=values))
        return convert(source, tmp_path / "a", "--to", form, status=2)

    assert "final_tanh" in message("diffusers", final_tanh=True)
    assert "latent_scale = 0.5" in message("diffusers", latent_scale=0.5)
    assert "encoder_hidden_size" in message("diffusers", channels=5)
    assert "latent_scale = 0.5" in message("stable-audio-tools", latent_scale=0.5)
    assert "output_padding" in message("stable-audio-tools", output_padding="s%2")
    assert names(tmp_path) == ["source.safetensors"]


BAD_USAGE = {
    "a": "--to diffusers, --to stable-audio-tools, --to protobuf",
    "a.npy": "was expected",
    "a.safetensors --to diffusers": "name of a file",
    "a.safetensors --shard-size 1GB": "--shard-size",
    "a.safetensors.index.json --shard-size 0": "a size such as",
    "a.safetensors.index.json --shard-size 5x": "a size such as",
    "a.packed.safetensors --half both": "decoder",
    "a.packed.safetensors --weight-norm keep": "folded",
    "a.packed.safetensors --dtype float16": "float32",
    "a --to protobuf --dtype bfloat16": "bfloat16",
    "a.safetensors --config nothing": "is not one of",
    "a.safetensors --config yue2": "strides",
    "no/where.safetensors": "there is no folder",
    "a.safetensors --half both": "no encoder",
}


@pytest.mark.parametrize("arguments", BAD_USAGE)
def test_bad_usage(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    source = write_folder(Path("source"), CONFIG, DECODER)
    before = names(tmp_path)
    assert BAD_USAGE[arguments] in convert(source, *arguments.split(), status=2)
    assert names(tmp_path) == before


def test_bad_sources(tmp_path):
    target = tmp_path / "a.safetensors"
    assert "no such file" in convert(tmp_path / "none", target, status=2)
    (tmp_path / "b.safetensors").write_bytes(b"x" * 50)
    assert "not a safetensors file" in convert(tmp_path / "b.safetensors", target, status=2)
    write_flat(tmp_path / "c.bin", [1.0])
    assert "no weights" in convert(tmp_path / "c.bin", target, status=2)
    for options in ({"kernel": 2}, {"kernel": "7"}, {"strides": 3}, {"cats": 1}, {"bias": 1}):
        values = {"config": json.dumps({"oobleck_stream": options})}
        (tmp_path / "d.safetensors").write_bytes(safetensors_bytes(DECODER, metadata=values))
        assert next(iter(options)) in convert(tmp_path / "d.safetensors", target, status=2)
    rest = {name: DECODER[name] for name in list(DECODER)[1:]}
    rest |= {name: TENSORS[name] for name in list(TENSORS)[-3:]}
    message = convert(written(tmp_path / "e.safetensors", rest), target, status=2)
    assert "decoder.layers.0.weight_v" in message
    assert "problems more" in message
