"""Compiled kernels on disk: whatever happens to the files, the program runs, with equal results.

Most tests compile a tiny kernel in this process; some call a kernel of the package in a new one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from numba import config, njit
from small_disks import file_size_limit

from oobleck_stream.commands.compiling import report_compiling
from oobleck_stream.engine.kernel_cache import keep
from oobleck_stream.warning import warn_once

REPOSITORY = Path(__file__).parent.parent
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

CALL = """
import json, numpy as np
from oobleck_stream.engine.cpu.peak import multiply_add
half, total = np.full(16, 0.5, np.float32), np.empty(16, np.float32)
count = multiply_add(3, half.ctypes.data, total.ctypes.data)
stats = multiply_add.stats
print(json.dumps([sum(stats.cache_misses.values()), sum(stats.cache_hits.values()),
                  count, total.tobytes().hex()]))
"""

COMPILED, FOUND = [1, 0], [0, 1]
NOT_KEPT = "compiled kernels are not kept on disk, so every start compiles them: "


def add(a, b):
    """The kernel that most tests compile, since it compiles quickly."""
    return a + b


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, which this process uses."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stored(cache):
    """A cache that contains the kernel."""
    assert call() == COMPILED
    return cache


def call(warning="", recompile=False):
    """Call the kernel as a new process would; return the cache misses and hits."""
    warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        kernel = keep(njit(nogil=True)(add))
        assert kernel(20, 22) == 42
        if recompile:
            kernel.recompile()
            assert kernel(20, 22) == 42
    messages = [str(each.message) for each in given]
    assert len(messages) == bool(warning), messages
    assert all(message.startswith(f"{NOT_KEPT}{warning}") for message in messages), messages
    return [sum(kernel.stats.cache_misses.values()), sum(kernel.stats.cache_hits.values())]


def environment(cache, **variables):
    return os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(REPOSITORY)} | variables


def call_in_process(cache, command=(), warning="", **variables):
    """Call a kernel of the package in a new process; return misses, hits and its results."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [*command, sys.executable, "-c", CALL],
            env=environment(cache, **variables),
            cwd=empty,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    lines = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert len(lines) == bool(warning), done.stderr
    assert all(f"{NOT_KEPT}{warning}" in line for line in lines)
    result = json.loads(done.stdout)
    return result[:2], result[2:]


def files(cache):
    """All files in a cache."""
    return sorted(path for path in Path(cache).rglob("*") if not path.is_dir())


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache that contains the package's kernel, and the results of that kernel."""
    cache = tmp_path_factory.mktemp("kept") / "cache"
    counts, expected = call_in_process(cache)
    assert counts == COMPILED
    return cache, expected


@pytest.fixture
def copied(kept, tmp_path):
    """A copy of that cache, and the results of the kernel."""
    return shutil.copytree(kept[0], tmp_path / "copied"), kept[1]


def test_found_by_the_next_process(copied):
    cache, expected = copied
    before = [path.stat().st_mtime_ns for path in files(cache)]
    assert call_in_process(cache) == (FOUND, expected)
    assert [path.stat().st_mtime_ns for path in files(cache)] == before
    (file,) = files(cache)
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_recompiled_when_asked(stored):
    assert call(recompile=True) == [1, 1]


def overwrite(data, start):
    noise = random.Random(1).randbytes(1000)
    return data[:start] + noise + data[start + len(noise) :]


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "start": lambda data: overwrite(data, 0),
    "machine code": lambda data: overwrite(data, max(0, data.find(b"\x7fELF")) + 64),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_compiled_again(stored, damage):
    for file in files(stored):
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert call() == COMPILED
    assert call() == FOUND


def damaged(whole, numbers, many):
    """Versions of a file with changed bits, changed parts and missing parts."""
    for _ in range(3 * many):
        flipped = bytearray(whole)
        flipped[numbers.choice([numbers.randrange(1000), numbers.randrange(len(whole))])] ^= (
            1 << numbers.randrange(8)
        )
        yield bytes(flipped)
    for _ in range(many):
        start, count = numbers.randrange(len(whole)), numbers.choice([1, 16, 512, 4096])
        yield whole[:start]
        yield whole[:start] + numbers.randbytes(count) + whole[start + count :]
        yield whole[:start] + whole[start + count :]


@pytest.mark.parametrize("many", [10, pytest.param(700, marks=pytest.mark.nightly)])
def test_any_damage(stored, many):
    (file,) = files(stored)
    whole = file.read_bytes()
    cases = set(damaged(whole, random.Random(5), many)) - {whole}
    assert len(cases) > 5 * many
    for case in sorted(cases):
        file.write_bytes(case)
        assert call() == COMPILED
        assert call() == FOUND


@pytest.mark.parametrize("thing", ["folder", "link", "pipe"])
def test_something_else_in_its_place(stored, thing):
    for file in files(stored):
        aside = file.rename(file.with_name("aside"))
        if thing == "folder":
            file.mkdir()
        elif thing == "link":
            file.symlink_to(aside)
        else:
            os.mkfifo(file)
    if thing == "folder":
        assert call(warning=file.parent) == COMPILED
    else:
        assert call() == COMPILED
        assert call() == FOUND


@pytest.mark.skipif("x86" not in os.uname().machine, reason="processors of x86")
def test_of_another_processor(copied):
    """A kernel for another processor isn't used, even if its file has this processor's name."""
    cache, expected = copied
    other = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    (ours,) = files(cache)
    # This kernel computes as many vectors as the processor needs, so the results may differ.
    stats, theirs = call_in_process(cache, **other)
    assert stats == COMPILED
    assert call_in_process(cache, **other) == (FOUND, theirs)
    assert call_in_process(cache) == (FOUND, expected)
    (file,) = set(files(cache)) - {ours}
    file.replace(ours)
    assert call_in_process(cache) == (COMPILED, expected)


@pytest.mark.parametrize("changed", ["engine/cpu/simd.py", "fast_convolution.py"])
def test_another_version_of_the_package(copied, tmp_path, changed):
    """Both versions store separate kernels in the same folder."""
    cache, expected = copied
    other = tmp_path / "other"
    shutil.copytree(
        REPOSITORY / "oobleck_stream",
        other / "oobleck_stream",
        ignore=shutil.ignore_patterns("__pycache__", "data"),
    )
    with (other / "oobleck_stream" / changed).open("a") as file:
        file.write("# changed\n")
    assert call_in_process(cache, PYTHONPATH=str(other)) == (COMPILED, expected)
    assert call_in_process(cache, PYTHONPATH=str(other)) == (FOUND, expected)
    assert call_in_process(cache) == (FOUND, expected)


# Folders of other users


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.parametrize("mode", [0o1777, 0o770])
def test_a_folder_that_others_may_write_to(stored, mode):
    folder = files(stored)[0].parent
    folder.chmod(mode)
    before = [path.read_bytes() for path in files(stored)]
    assert call(warning=f"{folder} can be written by other users") == COMPILED
    assert [path.read_bytes() for path in files(stored)] == before


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_a_file_that_others_may_write_to(stored):
    for file in files(stored):
        file.chmod(0o666)
    assert call() == COMPILED
    assert call() == FOUND


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_of_another_user(stored):
    for file in files(stored):
        os.chown(file, 12345, 12345)
    assert call() == COMPILED
    assert call() == FOUND
    folder = files(stored)[0].parent
    os.chown(folder, 12345, 12345)
    assert call(warning=f"{folder} belongs to another user") == COMPILED


# Folders that can't be written


def test_a_full_disk(cache):
    with file_size_limit(5000):
        assert call(warning=cache) == COMPILED
    assert not files(cache)


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "OOBLECK_STREAM_CACHE"])
def test_a_folder_that_can_not_be_made(tmp_path, monkeypatch, variable):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    monkeypatch.setattr(config, "CACHE_DIR", str(folder) if variable == "NUMBA_CACHE_DIR" else "")
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", str(folder))
    assert call(warning=folder) == COMPILED


@pytest.mark.skipif(not ROOT or not shutil.which("unshare"), reason="needs root and unshare")
def test_nothing_can_be_written(kept, tmp_path):
    """A package on a read-only file system, and no home folder."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" || exit 77; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, str(REPOSITORY)]
    if subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted")
    nowhere = dict.fromkeys(["HOME", "XDG_CACHE_HOME"], "/proc/nowhere")
    nowhere["OOBLECK_STREAM_CACHE"] = ""
    result = call_in_process("", command=command, warning="/proc/nowhere", **nowhere)
    assert result == (COMPILED, kept[1])


def test_an_unknown_home_folder(cache, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", "~no-such-user/cache")
    assert call(warning="the home folder is unknown") == COMPILED


def test_the_cache_folder(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", str(cache))
    assert call() == COMPILED
    assert call() == FOUND
    assert [file.parent for file in files(cache)] == [cache / "kernels"]
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", "off")
    assert call() == COMPILED
    assert [file.parent for file in files(tmp_path)] == [cache / "kernels"]


@pytest.mark.parametrize("asked", ["off", "~no-such-user/cache", ""])
def test_compiling_once_is_reported_only_where_kernels_are_kept(monkeypatch, capsys, asked):
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("OOBLECK_STREAM_CACHE", asked)
    with report_compiling():
        assert njit(lambda number: number + 1)(1) == 2
    expected = "compiling kernels\n" if asked else "compiling kernels (once)\n"
    assert capsys.readouterr().err == expected


# Several processes


def test_processes_that_compile_at_once(kept, tmp_path):
    cache = tmp_path / "cache"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CALL],
            env=environment(cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in started:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out)[2:] == kept[1]
    assert len(files(cache)) == 1
    assert call_in_process(cache) == (FOUND, kept[1])


def test_killed_while_it_writes(cache):
    """A leftover file isn't used and is removed later, as are kernels not used for a long time."""
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os._exit(9)
        try:
            call()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = files(cache)
    assert call() == COMPILED
    assert call() == FOUND
    (other,) = set(files(cache)) - {left}
    assert left.exists()
    month = time.time() - 31 * 24 * 3600
    os.utime(left, (month, month))
    os.utime(other, (month, month))
    assert call() == FOUND
    assert other.stat().st_mtime > month + 3600
    old = other.with_name(f"old{other.suffix}")
    shutil.copy(other, old)
    os.utime(old, (month / 2, month / 2))
    other.write_bytes(b"")
    assert call() == COMPILED
    assert files(cache) == [other]


# Whole networks

FORK = """
import os, signal, sys, threading, numpy as np
sys.path.insert(0, sys.argv[1])
import oobleck_stream as ob
from networks import model_of, random_latents, small
from numba.core import event
from oobleck_stream.engine.cpu import interpreter
compiling = threading.Event()
class Listener(event.Listener):
    def on_start(self, _): compiling.set()
    def on_end(self, _): pass
event.register("numba:compile", Listener())
config = small("ezaudio", 5)
model, latents = model_of(config), random_latents(config, 9)
sounds = []
thread = threading.Thread(target=lambda: sounds.append(model.decode(latents)))
thread.start()
assert compiling.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(60)
    decoder = ob.StreamingDecoder(model, threads=2)
    parts = [decoder.push(latents), decoder.flush()]
    np.save(sys.argv[2], np.concatenate(parts))
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
np.testing.assert_array_equal(np.load(sys.argv[2]), sounds[0])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_compiles(tmp_path):
    """The child is able to decode."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(Path(__file__).parent), str(tmp_path / "child.npy")],
        env=environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_command_on_a_full_disk(tmp_path):
    path, target = tmp_path / "a.npy", tmp_path / "a.wav"
    np.save(path, np.zeros((3, 24), np.float32))
    command = [sys.executable, "-m", "oobleck_stream", "decode", path, "-o", target]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 50; exec "$@"', "sh", *command, "--model", "tiny"],
        env=environment(tmp_path / "cache", PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "kernels" in line]
    assert told[0].startswith("compiling kernels")
    assert told[1].startswith(f"{NOT_KEPT}{tmp_path / 'cache'}")
    assert len(told) == 2
    assert target.stat().st_size > 44
