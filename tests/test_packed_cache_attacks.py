"""The cache of packed networks under attack: never another sound, never an error, nothing left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import pytest
from checkpoint_files import safetensors_bytes
from fuzz_files import CHECKPOINTS
from networks import random_tensors, small, write_folder

import oobleck_stream as ob
from oobleck_stream.checkpoints import cache, packed_file

CONFIG = small("ezaudio", 8)
ONE, TWO = random_tensors(CONFIG, 1), random_tensors(CONFIG, 2)
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The cache's folder, in which networks of any size are kept."""
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MIN_CACHED_BYTES", 1)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", CONFIG, ONE)


def digest(source):
    """Of all that a model is."""
    model = ob.load(source)
    parts = repr((model.config, model.name, model.notes))
    return hashlib.sha256(model.decoder.data.tobytes() + parts.encode()).hexdigest()


def uncached(source):
    """The same, without the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OOBLECK_STREAM_CACHE", "off")
        return digest(source)


def packed(kept):
    (path,) = kept.glob("*.packed.safetensors")
    return path


def change(file, data):
    """Other bytes with the same size and modification time."""
    before = file.stat()
    assert len(data) == before.st_size
    assert data != file.read_bytes()
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def assert_noticed(source, file, data):
    before = digest(source)
    assert digest(source) == before
    change(file, data)
    after = digest(source)
    assert after != before
    assert after == uncached(source)
    assert digest(source) == after


# Stale


def test_weights_of_the_same_size_and_time_are_noticed(folder):
    file = folder / "model.safetensors"
    assert_noticed(folder, file, safetensors_like(file, TWO))


def safetensors_like(file, tensors):
    """Other numbers behind the header of a file."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    changed = bytearray(data)
    for name, entry in header.items():
        begin, stop = (end + offset for offset in entry["data_offsets"])
        changed[begin:stop] = tensors[name].tobytes()
    return bytes(changed)


def test_a_config_of_the_same_size_and_time_is_noticed(folder):
    file = folder / "model_config.json"
    assert_noticed(folder, file, file.read_bytes().replace(b"24000", b"16000"))


@pytest.mark.parametrize("name", ["model-0.safetensors", "model-1.safetensors"])
def test_a_shard_of_the_same_size_and_time_is_noticed(tmp_path, name):
    folder = tmp_path / "sharded"
    folder.mkdir()
    for file, data in CHECKPOINTS["sharded"].items():
        (folder / file).write_bytes(data)
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    assert_noticed(folder, folder / name, bytes(data))


@pytest.mark.parametrize("name", ["part1.pb", ".config.json"])
def test_a_library_of_the_same_size_and_time_is_noticed(tmp_path, name):
    from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData

    folder = tmp_path / "libraries"
    folder.mkdir()
    for file, data in CHECKPOINTS["protobuf"].items():
        (folder / file).write_bytes(data)
    data = (folder / name).read_bytes()
    if name == "part1.pb":
        library = CollectionLibraryData.FromString(data)
        library.collections[0].collection.data[0] *= 2
        changed = library.SerializeToString()
    else:
        changed = data.replace(b"44100", b"32000")
    assert_noticed(folder, folder / name, changed)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_where_there_is_no_ctime_samples_are_compared(folder, monkeypatch, place):
    """As on Windows, and on file systems of other machines."""
    real = os.fstat

    def fstat(descriptor):
        found = real(descriptor)
        fields = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return type("stat", (), {**fields, "st_ctime_ns": 0, "st_ctime": 0.0})

    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    end, size = 8 + int.from_bytes(data[:8], "little"), len(data)
    monkeypatch.setattr(cache, "HASHED_PREFIX_BYTES", end + 4096)
    monkeypatch.setattr(cache, "HASHED_PAGES", 3)
    monkeypatch.setattr(os, "fstat", fstat)
    first = {"start": end, "middle": size // 2 // 4096 * 4096 + 9, "end": size - 1}[place]
    data[end + (first - end) // 4 * 4] ^= 1
    assert_noticed(folder, file, bytes(data))


def test_weights_replaced_while_they_are_loaded_are_not_kept_as_the_new_ones(folder, monkeypatch):
    """They were opened before, so they are mapped; the files that are stamped are new ones."""
    from oobleck_stream import loading

    file, real = folder / "model.safetensors", loading.cached_model
    other = file.with_name("other")
    other.write_bytes(safetensors_like(file, TWO))

    def cached_model(*arguments):
        if other.exists():
            os.replace(other, file)
        return real(*arguments)

    monkeypatch.setattr(loading, "cached_model", cached_model)
    ob.load(folder)
    assert digest(folder) == uncached(folder)


def test_a_new_version_of_the_package_packs_again(folder, kept, monkeypatch):
    digest(folder)
    before = packed(kept).read_bytes()
    monkeypatch.setattr(cache, "__version__", "99")
    assert digest(folder) == uncached(folder)
    assert packed(kept).read_bytes() != before


@posix
def test_a_name_that_is_not_text(tmp_path, folder):
    name = os.fsdecode(b"\xff\xfe")
    try:
        copy = shutil.copytree(folder, tmp_path / name)
    except OSError:
        pytest.skip("the file system has no such names")
    assert digest(copy) == digest(copy) == uncached(copy)


# Damaged


@pytest.mark.parametrize("cases", [120, pytest.param(6000, marks=pytest.mark.nightly)])
def test_a_damaged_file_changes_nothing(folder, kept, cases):
    expected = digest(folder)
    path = packed(kept)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    written = len(whole[:header].rstrip())
    draw = random.Random(1)
    found = {"used": 0, "made again": 0}
    for number in range(cases):
        data = bytearray(whole)
        kind = number % 6
        place = draw.randrange([8, written, written, header, len(data), len(data)][kind])
        if kind == 5:
            del data[place:]
        else:
            data[place : place + draw.choice([1, 1, 8])] = draw.randbytes(draw.choice([1, 1, 8]))
        if draw.randrange(30) == 0:
            data.clear()
        path.write_bytes(data)
        before = path.stat().st_ino, path.stat().st_mtime_ns
        assert digest(folder) == expected
        same = before == (path.stat().st_ino, path.stat().st_mtime_ns)
        found["used" if same else "made again"] += 1
        if not same:
            assert path.read_bytes() == whole
        assert os.listdir(kept) == [path.name]
    print(found)
    assert found["made again"] > cases // 2


def test_a_header_of_another_network_is_refused(folder, kept):
    expected, path = digest(folder), packed(kept)
    whole = path.read_bytes()
    for old, new in [
        (b'\\"samplerate\\": 24000', b'\\"samplerate\\": 48000'),
        (b'\\"latent_scale\\": 1.0', b'\\"latent_scale\\": 2.0'),
        (b'"notes": "[]"', b'"notes":"[ ]"'),
        (b'/model"', b'/MODEL"'),
    ]:
        assert old in whole, old
        path.write_bytes(whole.replace(old, new))
        assert digest(folder) == expected
        assert path.read_bytes() == whole
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(ob.CheckpointError, match=r"damaged: .* checksum"):
            ob.load(path)


def test_something_else_in_its_place(folder, kept):
    expected, path = digest(folder), packed(kept)
    path.unlink()
    path.mkdir()
    assert digest(folder) == expected
    path.rmdir()
    with contextlib.suppress(OSError):
        path.symlink_to(path.name)
        assert digest(folder) == expected
    path.unlink(missing_ok=True)
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        assert digest(folder) == expected


# Other processes

SCRIPT = """
import os, resource, sys
import oobleck_stream as ob
from oobleck_stream.checkpoints import cache, packed_file
cache.MIN_CACHED_BYTES = 1
source, what = sys.argv[1:]
if what == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
if what == "killed":
    def write_header(file, *arguments):
        file.write(bytes(50_000))
        file.flush()
        print("writing", flush=True)
        sys.stdin.read()
    packed_file.write_header = write_header
if what == "stranger":
    folder = os.environ["OOBLECK_STREAM_CACHE"]
    os.environ["OOBLECK_STREAM_CACHE"] = "off"
    import fcntl  # Like the modules that loading imports, one that the other user may not read.
    ob.load(source)
    os.environ["OOBLECK_STREAM_CACHE"] = folder
    os.setegid(65534)
    os.seteuid(65534)
import hashlib
print(hashlib.sha256(ob.load(source).decoder.data.tobytes()).hexdigest())
"""


def start(source, what="", **options):
    command = [sys.executable, "-c", SCRIPT, str(source), what]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def sha(source):
    return hashlib.sha256(ob.load(source).decoder.data.tobytes()).hexdigest()


def test_four_processes_at_once(folder, kept):
    processes = [start(folder) for _ in range(4)]
    ended = [(process.communicate(timeout=120), process.returncode) for process in processes]
    assert ended == [((f"{sha(folder)}\n", ""), 0)] * 4
    assert len(os.listdir(kept)) == 1
    assert digest(packed(kept)).strip()


@posix
def test_a_full_disk(folder, kept):
    expected = uncached(folder)
    assert len(safetensors_bytes(ONE)) > 200_000
    out, err = start(folder, "full").communicate(timeout=120)
    assert err == ""
    assert os.listdir(kept) == []
    assert digest(folder) == expected
    assert out.strip() == sha(folder)


@posix
def test_a_process_killed_while_it_writes(folder, kept):
    process = start(folder, "killed")
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (left,) = kept.iterdir()
    an_hour_ago = time.time() - 7200
    for path in (left, *left.glob("*")):
        os.utime(path, (an_hour_ago, an_hour_ago))
    assert digest(folder) == uncached(folder)
    assert os.listdir(kept) == [packed(kept).name]


# Folders of others


@posix
def test_a_folder_in_which_all_may_write_is_not_used(folder, kept):
    expected = uncached(folder)
    kept.mkdir()
    kept.chmod(0o777)
    with pytest.warns(RuntimeWarning, match=r"cache can be written by other users") as warned:
        assert digest(folder) == expected
    assert warned[0].filename == __file__
    assert os.listdir(kept) == []
    kept.chmod(0o700)
    digest(folder)
    plant(packed(kept))
    kept.chmod(0o1777)
    with pytest.warns(RuntimeWarning, match=r"cache can be written by other users"):
        assert digest(folder) == expected


def plant(path):
    """Put another network in the place of a cached one, in perfect order."""
    cached = packed_file.read_packed(packed_file_container(path))
    other = ob.random_model(cached.config, 7)
    packed_file.write_packed(path, other, packed_file_container(path).metadata["source"])


def packed_file_container(path):
    from oobleck_stream.formats.safetensors import open_safetensors

    return open_safetensors(path)


@posix
def test_a_file_that_all_may_write_is_not_used(folder, kept):
    expected = digest(folder)
    plant(packed(kept))
    assert digest(folder) != expected  # Else what follows would show nothing.
    packed(kept).chmod(0o666)
    assert digest(folder) == expected
    assert not packed(kept).stat().st_mode & 0o002


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_folder_or_a_file_of_another_user_is_not_used(folder, kept):
    expected = digest(folder)
    plant(packed(kept))
    os.chown(packed(kept), 65534, 65534)
    assert digest(folder) == expected
    plant(packed(kept))
    os.chown(kept, 65534, 65534)
    with pytest.warns(RuntimeWarning, match=r"cache belongs to another user"):
        assert digest(folder) == expected


@posix
def test_the_folder_that_is_made_is_private(folder, kept):
    before = os.umask(0)
    try:
        digest(folder)
    finally:
        os.umask(before)
    assert kept.stat().st_mode & 0o777 == 0o700
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        digest(folder)


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_that_can_not_be_written_or_entered(monkeypatch, mode):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = write_folder(f"{name}/model", CONFIG, ONE)
        (folder / "model.safetensors").chmod(0o644)
        monkeypatch.setenv("OOBLECK_STREAM_CACHE", f"{name}/cache")
        expected = sha(folder)
        os.chmod(f"{name}/cache", mode)
        out, err = start(folder, "stranger").communicate(timeout=120)
        assert (out.strip(), "Traceback" in err) == (expected, False)
        assert len(os.listdir(f"{name}/cache")) == 1


# Shards


@posix
def test_shards_may_be_links_as_in_the_cache_of_the_hub(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, (name, data) in enumerate(CHECKPOINTS["sharded"].items()):
        (blobs / str(number)).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert digest(snapshot) == uncached(snapshot)
    shard = (snapshot / "model-1.safetensors").resolve()
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    assert_noticed(snapshot, shard, bytes(data))


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "{folder}/outside.safetensors",
        "./model-0.safetensors",
        "sub/../../outside.safetensors",
        "..\\outside.safetensors",
        "..",
        "",
        "model-0.safetensors/",
        "model-0.safetensors\0",
        "model-0.bin",
        "dangling.safetensors",
        "folder.safetensors",
        "pipe.safetensors",
    ],
)
def test_an_index_names_nothing_but_files_beside_it(tmp_path, name):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for file, data in CHECKPOINTS["sharded"].items():
        (folder / file).write_bytes(data)
    shard = (folder / "model-0.safetensors").read_bytes()
    (tmp_path / "outside.safetensors").write_bytes(shard)
    (folder / "model-0.bin").write_bytes(shard)
    (folder / "folder.safetensors").mkdir()
    with contextlib.suppress(OSError, AttributeError):
        (folder / "dangling.safetensors").symlink_to("nothing")
        os.mkfifo(folder / "pipe.safetensors")
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    digest(folder)
    named = name.format(folder=tmp_path)
    moved = {key: named if file == "model-0.safetensors" else file for key, file in places.items()}
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(ob.CheckpointError, match=r"file beside the index|is missing") as caught:
        ob.load(folder)
    assert str(caught.value).isprintable()


def test_the_sound_is_that_of_the_checkpoint(folder, kept):
    """What the digests above stand for."""
    latents = np.ones((5, CONFIG.latent_dim), np.float32)
    sounds = [ob.load(folder).decode(latents) for _ in range(2)]
    sounds.append(ob.load(packed(kept)).decode(latents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OOBLECK_STREAM_CACHE", "off")
        sounds.append(ob.load(folder).decode(latents))
    assert all(np.array_equal(sound, sounds[0]) for sound in sounds)
