"""Every way in which the package writes a file or a folder."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from command_line import run_command
from conversions import CONFIG, TARGETS, TENSORS
from networks import random_latents, random_tensors, write_folder
from small_disks import FILLER

import oobleck_stream as ob
from oobleck_stream.bench.plot import write_plot
from oobleck_stream.checkpoints.packed_file import write_packed
from oobleck_stream.files.audio_writer import AudioWriter
from oobleck_stream.files.latents_writer import LatentWriter
from oobleck_stream.formats.flat import write_flat
from oobleck_stream.formats.flat_writer import FlatWriter
from oobleck_stream.player.recorder import Recorder

CHUNK = 1000


@functools.cache
def sound(count, channels):
    samples = np.random.default_rng(1).standard_normal((count, channels)) * 0.1
    return samples.astype(np.float32)


@functools.cache
def inputs():
    """A folder with a model, latents and audio, as input of the commands."""
    folder = Path(tempfile.mkdtemp())
    write_folder(folder / "model", CONFIG, TENSORS)
    np.save(folder / "in.npy", random_latents(CONFIG, 1700))
    soundfile.write(folder / "in.wav", sound(8000, 2), CONFIG.samplerate, subtype="FLOAT")
    np.save(folder / "reference.npy", np.zeros((10198, 2), np.float32))
    return folder


@dataclass(frozen=True)
class Output:
    """An output: a file name, and a function that writes it.

    `write` takes a path and a length (in no particular unit); if it refuses, it raises or returns a
    message. `prepare` creates an older output at the path.
    """

    name: str
    write: object
    prepare: object = lambda path: path.write_bytes(b"old")

    def refusal(self, path, length=5001):
        """Write it; return the reason for a refusal in one line, or None."""
        try:
            return self.write(path, length)
        except (OSError, ValueError) as error:
            return str(error)


def pieces(samples):
    return [samples[first : first + CHUNK] for first in range(0, len(samples), CHUNK)]


def writer(kind, *options, channels=2):
    def write(path, length):
        if kind is AudioWriter:
            made = AudioWriter(path, 44100, channels, *options)
        else:
            made = kind(path, channels, *options)
        with made as opened:
            for piece in pieces(sound(length, channels)):
                opened.write(piece)

    return write


def recorded(path, length):
    recorder = Recorder(path, 44100, 2)
    recorder.take(sound(length, 2))
    recorder.close()


def packed(path, length):
    write_packed(path, ob.random_model(CONFIG))


def bench_plot(path, length):
    row = {"frames": 1, "real_time_factor": 0.5, "share_of_peak": 0.5}
    facts = {"pushes": [row], "batch": row, "peers": [], "threads": 2}
    write_plot(facts | {"network": {"name": "n"}, "machine": {"name": "m"}}, str(path))


def command(*arguments):
    """A command that reads IN, SOUND or REFERENCE and writes TARGET."""

    def write(path, length):
        there = inputs()
        known = {
            "TARGET": path,
            "IN": there / "in.npy",
            "SOUND": there / "in.wav",
            "REFERENCE": there / "reference.npy",
            "MODEL": there / "model",
        }
        done = run_command(*(known.get(argument, argument) for argument in arguments))
        lines = [x for x in done.stderr.splitlines() if x.startswith("oobleck_stream: ")]
        if not lines:
            assert done.returncode == (1 if "REFERENCE" in arguments else 0), done.stderr
            return None
        assert done.returncode in (1, 2)
        (line,) = lines
        return line

    return write


def conversion(name, *options):
    """A conversion that replaces an older one of another network."""

    def prepare(path):
        there = inputs()
        if not (there / "older").exists():
            write_folder(there / "older", CONFIG, random_tensors(CONFIG, 5))
        older = command("convert", str(there / "older"), "TARGET", *options, "--force")
        assert older(path, 0) is None

    return Output(name, command("convert", "MODEL", "TARGET", *options, "--force"), prepare)


WRITERS = {
    "wav 16": Output("a.wav", writer(AudioWriter, "16")),
    "wav 24": Output("a.wav", writer(AudioWriter, "24", channels=1)),
    "wav float": Output("a.wav", writer(AudioWriter, "float")),
    "rf64": Output("a.wav", writer(AudioWriter, "16", 2**31)),
    "flac 16": Output("a.flac", writer(AudioWriter, "16")),
    "flac 24": Output("a.flac", writer(AudioWriter, "24", channels=1)),
    "ogg": Output("a.ogg", writer(AudioWriter)),
    "opus": Output("a.opus", writer(AudioWriter)),
    "mp3": Output("a.mp3", writer(AudioWriter)),
    "npy": Output("a.npy", writer(LatentWriter)),
    "npy float16": Output("a.npy", writer(LatentWriter, "float16")),
    "bin": Output("a.bin", writer(FlatWriter)),
    "flat": Output("a.bin", lambda path, length: write_flat(path, sound(length, 2))),
}
"""Outputs that can have any length."""

OTHERS = {
    "recording wav": Output("a.wav", recorded),
    "recording flac": Output("a.flac", recorded),
    "packed": Output("a.packed.safetensors", packed),
    "bench --plot": Output("a.png", bench_plot),
    "decode wav": Output("a.wav", command("decode", "IN", "-o", "TARGET", "--model", "MODEL")),
    "decode flac": Output("a.flac", command("decode", "IN", "-o", "TARGET", "--model", "MODEL")),
    "decode ogg": Output("a.ogg", command("decode", "IN", "-o", "TARGET", "--model", "MODEL")),
    "decode bin": Output("a.bin", command("decode", "IN", "-o", "TARGET", "--model", "MODEL")),
    "encode npy": Output("a.npy", command("encode", "SOUND", "TARGET", "--model", "MODEL")),
    "encode bin": Output("a.bin", command("encode", "SOUND", "TARGET", "--model", "MODEL")),
    "roundtrip flac": Output("a.flac", command("roundtrip", "SOUND", "TARGET", "--model", "MODEL")),
    "validate --plot": Output(
        "a.png",
        command("validate", "IN", "REFERENCE", "--plot", "TARGET", "--model", "MODEL"),
    ),
}
for form in ("npy", "bin"):
    OTHERS[f"validate --save {form}"] = Output(
        "a",
        command(
            *("validate", "IN", "--layers", "--save", "TARGET", "--format", form),
            *("--model", "MODEL"),
        ),
        lambda path: path.mkdir(exist_ok=True),
    )
CONVERSIONS = {
    f"convert {kind}": conversion(name, *options)
    for kind, (name, *options) in {**TARGETS, "packed": ("a.packed.safetensors",)}.items()
}


def comparable(path):
    """The content of a file without the parts that differ each time it is written."""
    content = path.read_bytes()
    if content.startswith(b"OggS"):
        # The serial number of its stream is random.
        return len(content), soundfile.read(path)[0].tobytes()
    return content


def contents(folder):
    """All files in a folder with their contents, and all folders, without `FILLER`."""
    return {
        path.relative_to(folder).as_posix(): comparable(path) if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != FILLER
    }
