"""Windows and macOS, as far as they can be simulated on Linux (`foreign_system.py`)."""

from __future__ import annotations

import io
import json
import ntpath
import os
import shutil
import signal
import socket
import subprocess
import sys
import types
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import soundfile
from command_line import run_command, run_process

import oobleck_stream as ob
from oobleck_stream.dataset.places import local_path
from oobleck_stream.dataset.sources import find_sources, safe_key
from oobleck_stream.errors import InputError
from oobleck_stream.player.display import StatusLine
from oobleck_stream.player.keys import Keys
from oobleck_stream.player.status import Status

HERE = Path(__file__).parent
ROOT = HERE.parent

COMMANDS = """
encode a.wav a.npy
decode a.npy -o b.wav --bits float
decode a.npy -o b.wav --bits float
decode a.npy -o b.bin
decode b.wav -o never.wav
validate a.npy b.wav
convert tiny whole.safetensors
convert whole.safetensors shards.safetensors.index.json --shard-size 300KB
convert tiny folder --to diffusers --half decoder
convert tiny folder --to diffusers --half decoder --force
convert tiny packed.packed.safetensors
decode a.npy -o c.wav --model packed.packed.safetensors
dataset encode one files --workers 0
dataset encode one shards --workers 0 --layout webdataset
dataset encode both shards --workers 0 --layout webdataset
dataset decode files sound --workers 0
info
"""

SYSTEMS = ("linux", "win32", "darwin")

STATUS = Status(0, 1, "a", 1.0, 2.0, False, False, False, False, 1.0, 0.5, 0.1, 0.0, 0, 0, 0.0)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="simulates others on Linux")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with an audio file and two inputs of a data set."""
    folder = tmp_path_factory.mktemp("inputs")
    np.save(folder / "latents.npy", ob.piece("keys")[:300])
    done = run_command("decode", folder / "latents.npy", "-o", folder / "a.wav", "--model", "tiny")
    assert done.returncode == 0
    for name in ("one/a.wav", "both/a.wav", "both/b.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(folder / "a.wav", folder / name)
    return folder


def run_commands(folder, system):
    """Run the commands; their exit codes, the files that are there then, and the messages."""
    done = subprocess.run(
        [sys.executable, HERE / "foreign_system.py", system],
        input=COMMANDS.strip(),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    asked = COMMANDS.strip().splitlines()
    codes = dict(line.split(" ", 1)[::-1] for line in done.stdout.splitlines() if line[2:] in asked)
    paths = (path for path in folder.rglob("*") if path.is_file())
    return codes, {str(path.relative_to(folder)): path.read_bytes() for path in paths}, done.stderr


@pytest.fixture(scope="module")
def results(inputs, tmp_path_factory):
    """What the commands do on each system; two processes run at a time."""
    folders = {system: tmp_path_factory.mktemp("systems") / system for system in SYSTEMS}
    for folder in folders.values():
        shutil.copytree(inputs, folder)
    with ThreadPoolExecutor(2) as pool:
        running = {system: pool.submit(run_commands, folders[system], system) for system in SYSTEMS}
    return {system: each.result() for system, each in running.items()}


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_commands_do_what_they_do_on_linux(results, system):
    codes, files, messages = results[system]
    assert "Traceback" not in messages
    assert codes.keys() == set(COMMANDS.strip().splitlines())
    assert codes == results["linux"][0], messages
    assert list(codes.values()).count("0") == len(codes) - 1
    assert files.keys() == results["linux"][1].keys()
    different = {name for name, content in files.items() if content != results["linux"][1][name]}
    assert different <= {"sound/manifest.jsonl"}  # It has the times of the inputs.


# Windows


def test_the_server_ends_after_an_interrupt(inputs):
    pytest.importorskip("oobleck_stream.server.serving")
    process = subprocess.Popen(
        [sys.executable, HERE / "foreign_system.py", "win32"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdin.write(b"serve --port 0 --json\n")
    process.stdin.close()
    url = json.loads(process.stdout.readline())["url"]
    body = (inputs / "latents.npy").read_bytes()
    with urllib.request.urlopen(f"{url}v1/decode", body, timeout=60) as answer:
        samples, _ = soundfile.read(io.BytesIO(answer.read()), dtype="float32")
    assert samples.shape == ob.load("tiny").decode(np.load(inputs / "latents.npy")).shape
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == b"0 serve --port 0 --json\n"
    assert process.wait(30) == 0


class FakeConsole(types.ModuleType):
    """The module `msvcrt`, with keys that were pressed before."""

    def __init__(self, *characters: str) -> None:
        super().__init__("msvcrt")
        self.waiting = list(characters)

    def kbhit(self) -> bool:
        return bool(self.waiting)

    def getwch(self) -> str:
        return self.waiting.pop(0)


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("q", ["q"]),
        (" 9\r", ["space", "9", "\r"]),
        ("\xe0H\xe0P\0K\0M", ["up", "down", "left", "right"]),
        ("\xe0", []),  # the letter
        ("\xe0Sm", ["m"]),  # the key Delete
        ("\u20acl\x1b", ["l"]),
        ("", []),
    ],
)
def test_keys_of_the_console(monkeypatch, typed, keys):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setitem(sys.modules, "msvcrt", FakeConsole(*typed))
    with Keys() as pressed:
        assert pressed
        assert pressed.read(0.02) == keys
        assert pressed.read(0.0) == []


def test_no_keys_where_standard_input_is_no_console(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: False))
    with Keys() as pressed:
        assert not pressed
        assert pressed.read(0.0) == []


def test_the_status_line_has_no_escape_sequences(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("COLUMNS", "40")
    with StatusLine() as display:
        display.show_message("playing")
        display.show(STATUS)
        display.show_message("volume 95%")
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    erased = "\r" + " " * 39 + "\r"
    assert shown == f"playing\n{erased}{STATUS.as_line(40)}{erased}volume 95%\n"


NAMES = [
    *("a/b.wav", "a:b", 'x<y>|"?*', "dot.", "space ", "...", "con", "CON.wav", "nul .x", "com1"),
    *("lpt\xb2.wav", "conin$", "console", "com0", "com10.wav", "tab\there", "http://x.org/a?b=1"),
    *("C:\\music\\a.wav", "..\\a.wav", ".hidden"),
]


def test_names_of_outputs_on_windows(monkeypatch):
    reserved = getattr(ntpath, "isreserved", lambda name: PureWindowsPath(name).is_reserved())
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "sep", "\\")
    for name in NAMES:
        key = safe_key(name)
        for part in key.split("/"):
            assert not reserved(part), name
            assert not set(part) & set('<>:"\\|?*\t'), name
            assert part == part.rstrip(". "), name
        path = PureWindowsPath("D:/out") / key
        assert path.is_relative_to("D:/out"), name
        assert path.as_posix() == f"D:/out/{key}"
    assert safe_key("C:\\music\\a.wav") == "C_/music/a.wav"


@pytest.mark.parametrize("system", ["linux", "win32", "darwin"])
def test_names_that_differ_in_case_only(monkeypatch, tmp_path, system):
    for name in ("a/x.wav", "b/X.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "platform", system)
    names = ["x.wav", "X.wav"]
    (tmp_path / "a" / "X.wav").touch()
    if system == "linux":
        assert len(find_sources(str(tmp_path / "a"), [".wav"])) == 2
        return
    with pytest.raises(InputError, match="the same name in the output") as caught:
        find_sources(str(tmp_path / "a"), [".wav"])
    assert all(name in str(caught.value) for name in names)


def test_files_as_urls(monkeypatch):
    assert local_path("file:///C:/a b.wav") == "/C:/a b.wav"
    monkeypatch.setattr(sys, "platform", "win32")
    assert local_path("file:///C:/a b.wav") == "C:/a b.wav"
    assert local_path("file://server/share") == "server/share"
    assert local_path("C:\\a.wav") == "C:\\a.wav"


def test_names_that_standard_output_can_not_encode(tmp_path):
    target = tmp_path / "\u65e5.safetensors"
    done = run_process("convert", "tiny", target, env={"PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0, done.stderr
    assert "\\u65e5.safetensors" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX only")
def test_names_that_are_not_utf_8(tmp_path):
    names = [os.fsdecode(name) for name in (b"\xff.npy", b"\xff.wav", b"\xfe.npy")]
    latents, sound, again = (tmp_path / name for name in names)
    np.save(latents, ob.piece("keys")[:20])
    for arguments in (("decode", latents, "-o", sound), ("encode", sound, again)):
        done = run_process(*arguments, "--model", "tiny")
        assert done.returncode == 0, done.stderr
    assert np.load(again).shape == (20, 24)


def test_a_port_is_not_shared_on_windows(monkeypatch):
    serving = pytest.importorskip("oobleck_stream.server.serving")
    for system in ("linux", "win32"):
        monkeypatch.setattr(sys, "platform", system)
        with serving._listen("127.0.0.1", 0) as listener:
            shared = listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            assert bool(shared) == (system == "linux")


@pytest.mark.nightly
@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_only_what_the_system_has_is_used(system, tmp_path):
    """Mypy knows which names of the standard library each system lacks."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--platform", system, "--cache-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
