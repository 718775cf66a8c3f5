"""Where outputs are written: planted links, links as outputs, file modes, killed processes."""

from __future__ import annotations

import gc
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from outputs import CONVERSIONS, OTHERS, WRITERS, contents, inputs

import oobleck_stream as ob
from oobleck_stream.errors import InputError
from oobleck_stream.files.audio_writer import AudioWriter
from oobleck_stream.files.latents_writer import LatentWriter
from oobleck_stream.formats.atomic import (
    OLD_SUFFIX,
    PART_SUFFIX,
    atomic_file,
    atomic_folder,
    new_file,
)
from oobleck_stream.formats.flat_writer import FlatWriter

ALL = WRITERS | OTHERS | CONVERSIONS
FAST = [name for name in ALL if "--plot" not in name and "protobuf" not in name]
SOUND = np.zeros((100, 2), np.float32)


def write(name, path):
    assert ALL[name].refusal(path) is None


def writers(folder):
    """Open writers, one for each format that has a writer class."""
    return [
        AudioWriter(folder / "a.wav", 44100, 2),
        AudioWriter(folder / "a.flac", 44100, 2),
        AudioWriter(folder / "a.ogg", 44100, 2),
        LatentWriter(folder / "a.npy", 2),
    ]


# Planted names


def test_a_link_at_a_predictable_name_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("a.wav", "a.flac", "a.ogg", "a.npy", "a.bin"):
        (tmp_path / f".{name}.{os.getpid()}.part").symlink_to(victim)
    for name in ("wav 16", "flac 16", "ogg", "npy", "bin", "flat"):
        write(name, tmp_path / ALL[name].name)
        assert victim.read_text() == "precious"
        assert not (tmp_path / ALL[name].name).is_symlink()


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_link_at_a_guessed_name_is_not_written_through(tmp_path, monkeypatch, kind):
    """Guessing the random name does not help an attacker: an existing name is never used."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a.npy").write_text("precious")
    planted = tmp_path / f".a.npy.guessed1{PART_SUFFIX}"
    if kind == "link":
        planted.symlink_to(victim)
    else:
        planted.mkdir()
        (planted / "a.npy").symlink_to(victim / "a.npy")
    names = ["guessed1", "random22"]
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: iter(names))
    write("npy", tmp_path / "a.npy")
    assert (victim / "a.npy").read_text() == "precious"
    assert len(np.load(tmp_path / "a.npy")) == 5001
    assert planted.exists()


def test_a_new_file_is_never_one_that_is_there(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    (tmp_path / "b").symlink_to(tmp_path / "nothing")
    for name in ("victim", "a", "b"):
        with pytest.raises(FileExistsError, match=str(tmp_path / name)), new_file(tmp_path / name):
            pass
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


# Links as outputs


@pytest.mark.parametrize("name", FAST)
def test_a_link_is_written_through(tmp_path, name):
    output = ALL[name]
    for folder in ("direct", "real", "link"):
        (tmp_path / folder).mkdir()
    write(name, tmp_path / "direct" / output.name)
    output.prepare(tmp_path / "real" / output.name)
    link = tmp_path / "link" / output.name
    link.symlink_to(tmp_path / "real" / output.name)
    write(name, link)
    assert link.is_symlink()
    # Shards are written beside the link, where readers look for them.
    there = contents(tmp_path / "real") | contents(tmp_path / "link")
    wanted = contents(tmp_path / "direct")
    assert {path: there[path] for path in wanted} == wanted
    assert link.resolve() == tmp_path / "real" / output.name
    if name == "convert sharded":
        ob.load(link)


def test_a_link_to_nothing_creates_what_it_leads_to(tmp_path):
    (tmp_path / "a.npy").symlink_to(tmp_path / "b.npy")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    write("npy", tmp_path / "a.npy")
    write("validate --save npy", tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir() if path.is_symlink()} == {"a.npy", "a"}
    assert len(np.load(tmp_path / "b.npy")) == 5001
    assert (tmp_path / "b" / "output.npy").is_file()


def test_an_input_is_not_written_over_through_a_link(tmp_path):
    (tmp_path / "a").symlink_to(inputs() / "model")
    (tmp_path / "a.safetensors").symlink_to(inputs() / "model" / "model.safetensors")
    before = contents(inputs())
    for name in ("convert stable-audio-tools", "convert safetensors"):
        assert "the checkpoint itself" in ALL[name].refusal(tmp_path / ALL[name].name)
    assert contents(inputs()) == before


@pytest.mark.parametrize("through", [False, True], ids=["itself", "link"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("name", FAST)
def test_a_pipe_or_socket_is_refused_and_never_replaced(tmp_path, monkeypatch, name, kind, through):
    output = ALL[name]
    inputs()  # Created before this test counts files.
    special = tmp_path / (f"special-{output.name}" if through else output.name)
    if kind == "pipe":
        os.mkfifo(special)
    else:
        monkeypatch.chdir(tmp_path)  # A socket address has at most 108 bytes.
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(special.name)
    if through:
        (tmp_path / output.name).symlink_to(special)
    before = {path: path.lstat().st_mode for path in tmp_path.rglob("*")}
    message = output.refusal(tmp_path / output.name)
    assert message is not None
    assert str(tmp_path / output.name) in message
    assert message.isprintable()
    assert {path: path.lstat().st_mode for path in tmp_path.rglob("*")} == before


def test_a_pipe_with_the_name_of_a_shard_is_not_replaced(tmp_path):
    output = ALL["convert sharded"]
    write("convert sharded", tmp_path / output.name)
    shard = min(path for path in tmp_path.iterdir() if path.suffix == ".safetensors")
    shard.unlink()
    os.mkfifo(shard)
    message = output.refusal(tmp_path / output.name)
    assert f"{shard}: is not a regular file" in str(message)
    assert stat.S_ISFIFO(shard.lstat().st_mode)


def test_a_pipe_is_refused_before_anything_is_written(tmp_path):
    os.mkfifo(tmp_path / "a.bin")
    os.mkfifo(tmp_path / "a.wav")
    for path, kind in [(tmp_path / "a.bin", FlatWriter), (tmp_path / "a.wav", AudioWriter)]:
        with pytest.raises(InputError, match=rf"{path.name}: can't be written: it is a pipe"):
            kind(path, 2, 2) if kind is AudioWriter else kind(path, 2)


def test_a_pipe_without_a_name_is_refused(tmp_path):
    """For example ``/dev/stdout``, if a shell has connected it to a pipe."""
    receiver, sender = os.pipe()
    (tmp_path / "a.npy").symlink_to(f"/proc/self/fd/{sender}")
    assert "it is a pipe" in ALL["npy"].refusal(tmp_path / "a.npy")
    assert (tmp_path / "a.npy").is_symlink()
    os.close(receiver)
    os.close(sender)


def test_a_pipe_that_appears_meanwhile_is_not_replaced(tmp_path):
    def write_late():
        with atomic_file(tmp_path / "a") as file:
            file.write(b"new")
            os.mkfifo(tmp_path / "a")

    with pytest.raises(OSError, match="it is a pipe"):
        write_late()
    assert stat.S_ISFIFO((tmp_path / "a").lstat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Modes and names


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("name", FAST)
def test_modes_follow_the_umask(tmp_path, name, mask):
    before = os.umask(mask)
    try:
        write(name, tmp_path / ALL[name].name)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("a" * 251 + ".npy", "\N{SNOWMAN}" * 83 + ".npy"):
        write("npy", tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_errors_name_the_requested_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.npy").mkdir()
    for path in ("no/a.npy", "folder.npy", "file/a.npy"):
        Path("file").write_text("")
        with pytest.raises(OSError, match=r".") as caught, atomic_file(Path(path)):
            pass
        assert caught.value.filename == path
    with pytest.raises(OSError, match=r".") as caught, atomic_folder(Path("a")) as folder:
        (folder / "b").read_bytes()
    assert caught.value.filename == "a/b"
    with pytest.raises(OSError, match=r".") as caught, atomic_file(Path("a")):
        open("other")  # noqa: SIM115
    assert caught.value.filename == "other"


# Folders


def test_a_folder_that_can_not_be_replaced_stays(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    (tmp_path / "file").write_text("")
    for path in ("a", "file"):
        with pytest.raises(OSError, match="not"), atomic_folder(tmp_path / path):
            pytest.fail("it had to be refused before")
    replace = os.replace
    moved = []

    def fail_once(source, target):
        moved.append(source)
        if len(moved) == 2:
            raise OSError(5, "broken", source)
        replace(source, target)

    def rewrite():
        with atomic_folder(tmp_path / "a", replace=True) as folder:
            (folder / "new").write_text("new")

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="broken") as caught:
        rewrite()
    assert caught.value.filename == str(tmp_path / "a")
    assert contents(tmp_path) == {"a": None, "a/old": b"old", "file": b""}
    rewrite()
    assert contents(tmp_path) == {"a": None, "a/new": b"new", "file": b""}


def test_files_that_appear_in_a_folder_meanwhile_are_not_lost(tmp_path):
    def fill():
        with atomic_folder(tmp_path / "a"):
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "mine").write_text("mine")

    with pytest.raises(OSError, match="not empty"):
        fill()
    assert contents(tmp_path) == {"a": None, "a/mine": b"mine"}


# Leftovers of killed processes


KILLED = """
import sys, time, numpy as np
from pathlib import Path
from oobleck_stream.files.audio_writer import AudioWriter
from oobleck_stream.files.latents_writer import LatentWriter
from oobleck_stream.formats.atomic import atomic_folder
folder = Path(sys.argv[1])
with AudioWriter(folder / "a.wav", 44100, 2) as a, LatentWriter(folder / "a.npy", 2) as b:
    with atomic_folder(folder / "a") as c:
        a.write(np.zeros((99999, 2), np.float32))
        (c / "half").write_text("half")
        print("there", flush=True)
        time.sleep(600)
"""


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    for path in (tmp_path / "a.wav", tmp_path / "a.npy"):
        write("wav 16" if path.suffix == ".wav" else "npy", path)
    # While it runs, no other writer touches its files.
    assert len(list(tmp_path.glob(f".a*{PART_SUFFIX}"))) == 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(list(tmp_path.glob(f".a*{PART_SUFFIX}"))) == 3
    write("wav 16", tmp_path / "a.wav")
    assert not list(tmp_path.glob(f".a.wav.*{PART_SUFFIX}"))
    # A writer removes only the leftovers of its own target.
    assert len(list(tmp_path.glob(f".a*{PART_SUFFIX}"))) == 2
    write("npy", tmp_path / "a.npy")
    write("validate --save npy", tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.npy", "a.wav"]


def test_nothing_else_is_removed(tmp_path):
    """Only private folders of this user, with a name that a writer uses, are removed."""
    kept = [
        f".a.npy.abcdefgh{PART_SUFFIX}",  # a file
        f".a.npy.abcdefg2{PART_SUFFIX}",  # a link to a folder
        f".a.npy.abcdefg3{PART_SUFFIX}",  # a folder that others may enter
        f".a.npy.abc{PART_SUFFIX}",
        f".a.npy.abcdefg4{PART_SUFFIX}x",
        f".a.npy.abcdefg5{OLD_SUFFIX}",
        f".b.npy.abcdefg6{PART_SUFFIX}",
        f".aXnpy.abcdefg7{PART_SUFFIX}",
        ".a.npy.123.part",
        "elsewhere",
    ]
    (tmp_path / kept[0]).write_text("file")
    (tmp_path / kept[-1]).mkdir(mode=0o700)
    (tmp_path / kept[-1] / "a.npy").write_text("precious")
    (tmp_path / kept[1]).symlink_to(tmp_path / kept[-1])
    (tmp_path / kept[2]).mkdir()
    (tmp_path / kept[2]).chmod(0o755)
    for name in kept[3:-1]:
        (tmp_path / name).mkdir(mode=0o700)
    gone = tmp_path / f".a.npy.abcdefg8{PART_SUFFIX}"
    gone.mkdir(mode=0o700)
    (gone / "a.npy").write_text("half")
    write("npy", tmp_path / "a.npy")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "a.npy"}
    assert (tmp_path / kept[-1] / "a.npy").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_leftovers_of_another_user_are_not_removed(tmp_path):
    other = tmp_path / f".a.npy.abcdefgh{PART_SUFFIX}"
    other.mkdir(mode=0o700)
    os.chown(other, 65534, 65534)
    write("npy", tmp_path / "a.npy")
    assert other.is_dir()


def test_two_writers_of_one_target_do_not_disturb_each_other(tmp_path):
    with AudioWriter(tmp_path / "a.wav", 44100, 2) as first:
        first.write(SOUND)
        with AudioWriter(tmp_path / "a.wav", 44100, 2) as second:
            second.write(SOUND[:10])
        assert (tmp_path / "a.wav").stat().st_size == 44 + 10 * 4
    assert (tmp_path / "a.wav").stat().st_size == 44 + 100 * 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupt():
        with ExitStack() as stack:
            for writer in writers(tmp_path):
                stack.enter_context(writer).write(SOUND)
            folder = stack.enter_context(atomic_folder(tmp_path / "a"))
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_dropped_leaves_nothing(tmp_path):
    for writer in writers(tmp_path):
        writer.write(SOUND)
    del writer
    gc.collect()
    assert list(tmp_path.iterdir()) == []
