"""`encode` of sound files of every kind does what it says, or ends in one line."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from command_line import run_command
from corpus import FORMATS, make_input

import oobleck_stream as ob

DEFAULT, ALL = 48, 1000
OLD = b"what was there before"


def problem_with(number: int, folder, capfd) -> str | None:
    """Encode the input with a number; return what is wrong with the outcome, if anything."""
    given = make_input(number, folder)
    output = folder / f"{number}.npy"
    if number % 2 == 0:
        output.write_bytes(OLD)
    capfd.readouterr()
    done = run_command("encode", given.path, output, "--model", "tiny")
    printed = capfd.readouterr()
    lines = [line for line in done.stderr.splitlines() if line != "compiling kernels (once)"]
    wrong = problem_with_outcome(given, output, done, lines)
    if done.stdout or printed.out or printed.err:
        wrong = f"a library printed: {done.stdout}{printed.out}{printed.err}"
    output.unlink(missing_ok=True)
    given.path.unlink()
    for path in folder.iterdir():
        wrong = f"left behind: {path.name}"
        path.unlink()
    return wrong and f"{given}: {wrong}: {lines}"


def problem_with_outcome(given, output, done, lines) -> str | None:
    if not lines or not all(line.startswith(f"{given.path}: ") for line in lines[:-1]):
        return "unexpected lines"
    if done.returncode == 0:
        return problem_with_success(given, output, lines)
    content = output.read_bytes() if output.exists() else None
    if content not in (None, OLD):
        return "a refusal changed the output"
    return problem_with_refusal(given, lines) if done.returncode == 2 else "wrong exit code"


def problem_with_success(given, output, lines) -> str | None:
    if given.damage not in ("", "lies", "cut off"):
        return f"accepted in spite of: {given.damage}"
    if given.damage == "cut off" and given.format.noticed:
        return "that it was cut off is not said"
    if given.channels > 2:
        return "has too many channels"
    model = ob.load("tiny")
    latents = np.load(output)
    match = re.fullmatch(r"(\d+) frames of 24, ([\d.]+) s, .* x real time", lines[-1][
        len(f"{output}: ") :
    ])  # fmt: skip
    if match is None or not np.isfinite(latents).all():
        return "the message or the latents are wrong"
    length = given.samples * model.samplerate / given.rate
    if latents.shape != (int(match[1]), 24):
        return f"latents of shape {latents.shape}"
    padding = given.format.padding * model.samplerate / given.rate
    least = 1 if given.damage == "cut off" else math.ceil((length - 1) / model.hop)
    if not least <= len(latents) <= math.ceil((length + 1 + padding) / model.hop):
        return f"{len(latents)} frames for {length} samples"
    if abs(float(match[2]) - len(latents) * model.hop / model.samplerate) > 0.06:
        return "the duration is wrong"
    notes = " ".join(lines[:-1])
    if ("mono on all 2 channels" in notes) != (given.channels == 1):
        return "the message about channels is wrong"
    resampled = f"resampled from {given.rate} to 44100 Hz" in notes
    if resampled != (given.rate != 44100) and given.format.codec not in ("OPUS", "libopus"):
        return "the message about the rate is wrong"
    return None


def problem_with_refusal(given, lines) -> str | None:
    if not lines[-1].startswith(f"oobleck_stream: {given.path}: "):
        return "the message does not name the file"
    # A codec may lose the only samples.
    few = "|no samples" if given.format.codec == "aac" and given.samples < 3 else ""
    reasons = {
        "": rf"has 6 channels; 2 were expected{few}",
        "lies": r"has 6 channels|holds no samples",
        "cut off": r"cut off|ends after|not a sound file|no samples|is empty|has 6 channels",
        "no samples": r"no samples|not a sound file|is empty",
        "not finite": rf"sample {given.bad_sample} is not|has 6 channels",
        "garbage": r"not a sound file|damaged|no samples",
        "no bytes": r"is empty",
    }
    if re.search(reasons[given.damage], lines[-1]) is None:
        return "the message does not say why"
    if given.damage in ("", "lies") and "channels" in lines[-1] and given.channels <= 2:
        return "refused for its channels"
    return None


@pytest.mark.parametrize("number", range(DEFAULT))
def test_an_input_is_encoded_or_refused_in_a_line(tmp_path, capfd, number):
    assert problem_with(number, tmp_path, capfd) is None


@pytest.mark.nightly
def test_a_thousand_inputs(tmp_path, capfd):
    problems = [problem_with(number, tmp_path, capfd) for number in range(DEFAULT, ALL)]
    assert [problem for problem in problems if problem] == []


def test_the_corpus_is_mixed(tmp_path):
    inputs = [make_input(number, tmp_path) for number in range(4 * DEFAULT)]
    assert {given.format.name for given in inputs} >= {"FLOAT.wav", "VORBIS.ogg", "OPUS.opus"}
    assert {given.channels for given in inputs} == {1, 2, 6}
    assert {given.rate for given in inputs} >= {8000, 44100, 48000, 192000}
    assert len({given.damage for given in inputs}) == 7
    assert sum(not given.damage for given in inputs) > len(inputs) // 2
    assert len(FORMATS) < DEFAULT
