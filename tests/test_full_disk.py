"""Outputs on a full disk: each is complete, or is refused with one line and leaves nothing."""

from __future__ import annotations

import collections
import errno
import os

import numpy as np
import pytest
import soundfile
from networks import random_tensors, small, write_folder
from outputs import CONVERSIONS, OTHERS, WRITERS, contents
from small_disks import PAGE, file_size_limit, memory_folder, small_disk

import oobleck_stream as ob
from oobleck_stream import cache_folder
from oobleck_stream.checkpoints import cache

ALL = WRITERS | OTHERS | CONVERSIONS
LENGTHS = (5001, 5500, 6003)


def needs(name):
    if "--plot" in name:
        pytest.importorskip("matplotlib")
    if "protobuf" in name:
        pytest.importorskip("google.protobuf")


@pytest.fixture
def folder():
    with memory_folder() as folder:
        yield folder


def with_room(output, folder, length=5001):
    """Write with enough room; return the contents, and the size of the largest file."""
    folder.mkdir()
    output.prepare(folder / output.name)
    assert output.refusal(folder / output.name, length) is None
    largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return contents(folder), largest


def check(output, folder, wanted, length=5001):
    """Write; return whether the output is complete. If not, it must have been refused cleanly."""
    before = contents(folder)
    message = output.refusal(folder / output.name, length)
    after = contents(folder)
    if message is None:
        assert after == wanted
        return True
    assert str(folder / output.name.split(".")[0]) in message
    assert message.isprintable()
    assert ".oobleck-part" not in message
    assert after == before
    return False


@pytest.mark.parametrize("name", ALL)
def test_a_file_that_can_not_grow_is_refused_by_name(folder, name):
    needs(name)
    output = ALL[name]
    wanted, size = with_room(output, folder / "room")
    sizes = {size - 1, size} if "--plot" in name else {0, size // 2, size - 1, size}
    if name in WRITERS:
        sizes |= {*range(1, 90, 7), *range(0, size, size // 9), *range(size - 40, size + 3)}
    folder = folder / "full"
    folder.mkdir()
    for limit in sorted(sizes):
        output.prepare(folder / output.name)
        with file_size_limit(limit):
            assert check(output, folder, wanted) == (limit >= size), limit


@pytest.mark.parametrize("name", [name for name in ALL if "--plot" not in name])
def test_what_does_not_reach_the_disk_is_refused_by_name(folder, monkeypatch, name):
    """Some disks accept every write and fail when it is flushed."""
    needs(name)

    def broken(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    output = ALL[name]
    output.prepare(folder / output.name)
    monkeypatch.setattr(os, "fsync", broken)
    assert not check(output, folder, None)


def test_an_empty_flac_file_is_refused(tmp_path):
    """It would have no header, so nothing could read it."""
    assert "a FLAC file can't hold 0 samples" in ALL["flac 16"].refusal(tmp_path / "a.flac", 0)
    assert "can't hold 0 samples" in ALL["recording flac"].refusal(tmp_path / "a.flac", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_wav_file_has_a_maximum_size(tmp_path, monkeypatch):
    """Its header can't hold a larger size. A recording keeps the samples that fit."""
    monkeypatch.setattr("oobleck_stream.files.audio_writer.MAX_WAV_BYTES", 4000)
    assert ALL["wav 16"].refusal(tmp_path / "a.wav", 1000) is None
    assert soundfile.info(tmp_path / "a.wav").frames == 1000
    assert "more than 4 GiB" in ALL["wav 16"].refusal(tmp_path / "b.wav", 1001)
    assert ALL["flac 16"].refusal(tmp_path / "a.flac", 1001) is None
    assert ALL["rf64"].refusal(tmp_path / "rf64.wav", 1001) is None
    assert ALL["recording wav"].refusal(tmp_path / "c.wav", 1001) is None
    assert soundfile.info(tmp_path / "c.wav").frames == 500
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "a.flac", "rf64.wav", "c.wav"}


def test_a_cache_on_a_full_disk_does_no_harm(tmp_path, monkeypatch):
    config = small("ezaudio", 8)
    model = write_folder(tmp_path / "model", config, random_tensors(config, 1))
    wanted = ob.load(model).decoder.data
    monkeypatch.setenv(cache_folder.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_CACHED_BYTES", 1)
    for limit in (0, 5000, wanted.nbytes):
        with file_size_limit(limit):
            np.testing.assert_array_equal(ob.load(model).decoder.data, wanted)
        assert list((tmp_path / "cache").iterdir()) == []


# On a disk that is actually full


@pytest.fixture(scope="module")
def tally():
    """Counts the results of the sweeps, and prints them at the end."""
    counts = collections.Counter()
    yield counts
    print(f"\nfree page sizes: {dict(counts)}")


def sweep(output, folder, length, prepare, tally, step=1):
    wanted, size = with_room(output, folder / "room", length)
    pages = sum(-(-len(x) // PAGE) for x in wanted.values() if isinstance(x, bytes))
    pages = pages or -(-size // PAGE)
    results = []
    # The numbers of a .bin file are temporarily stored twice.
    for free in range(0, 2 * pages + 6, step):
        with small_disk(folder / "disk", free, prepare) as disk:
            results.append(check(output, disk, wanted, length))
        tally["whole" if results[-1] else "refused"] += 1
    assert results == sorted(results)
    assert results[-1]
    assert not results[0]


@pytest.mark.nightly
@pytest.mark.parametrize("length", LENGTHS + tuple(range(7000, 9000, 211)))
@pytest.mark.parametrize("name", WRITERS)
def test_every_number_of_free_pages(folder, tally, name, length):
    output = WRITERS[name]
    sweep(output, folder, length, lambda disk: output.prepare(disk / output.name), tally)


@pytest.mark.nightly
@pytest.mark.parametrize("older", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("name", OTHERS | CONVERSIONS)
def test_every_number_of_free_pages_for_commands(folder, tally, name, older):
    needs(name)
    output = ALL[name]

    def prepare(disk):
        if older:
            output.prepare(disk / output.name)

    sweep(output, folder, 5001, prepare, tally)
