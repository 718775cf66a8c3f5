"""Releases: what is built installs and runs in empty environments, and says what changed.

The nightly tests need the packages `build` and `twine`. They install into an environment of each
Python that is found as ``python3.10`` to ``python3.14``.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

import oobleck_stream as ob

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

PLATFORMS = {
    "Linux, x86-64": [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 26, 17)],
    "Linux, ARM": [f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 26, 17)],
    "Windows": ["win_amd64"],
    "macOS, ARM": [f"macosx_{version}_arm64" for version in ("14_0", "12_0", "11_0")],
}
"""The platform tags of wheels that the systems install."""

CHECK = """
import sys, numpy as np, oobleck_stream as ob
print(ob.__version__, ob.__file__)
model, latents = ob.load("tiny"), ob.piece("keys")[:100]
decoder = ob.StreamingDecoder(model)
chunks = [decoder.push(frame) for frame in latents] + [decoder.flush()]
np.save(sys.argv[1], np.concatenate(chunks))
"""


def run(*command, **options):
    """Run a command; what it prints to standard output."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# What a version says of itself


def test_the_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", ob.__version__)
    text = (ROOT / "oobleck_stream/README.md").read_text(encoding="utf-8")
    versions = re.findall(r"^- \*\*(\d+\.\d+\.\d+)\*\*", text.split("## Versions")[1], re.M)
    assert versions[0] == ob.__version__
    assert versions == sorted(versions, key=numbers, reverse=True)


def numbers(version):
    return tuple(map(int, version.split(".")))


# What is built


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source distribution, which `build` makes of the files that git knows."""
    for package in ("build", "twine"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    assert wheel.name == f"oobleck_stream-{ob.__version__}-py3-none-any.whl"
    assert source.name == f"oobleck_stream-{ob.__version__}.tar.gz"
    return {"wheel": wheel, "source": source}


@pytest.mark.nightly
def test_the_index_would_take_it(built):
    run(sys.executable, "-m", "twine", "check", "--strict", *built.values())


@pytest.mark.nightly
def test_all_files_of_the_package_are_in_it(built):
    known = run("git", "ls-files", "oobleck_stream", cwd=ROOT).splitlines()
    with zipfile.ZipFile(built["wheel"]) as archive:
        wheel = {name for name in archive.namelist() if name.startswith("oobleck_stream/")}
    with tarfile.open(built["source"]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert wheel == set(known)
    assert {name for name in names if name.startswith("oobleck_stream/")} == set(known)
    assert {"README.md", "LICENSE", "pyproject.toml", "tests/test_release.py"} <= set(names)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["wheel", "source"])
@pytest.mark.parametrize("python", PYTHONS)
def test_it_runs_in_an_empty_environment(built, python, kind, tmp_path):
    found = shutil.which(f"python{python}")
    # What pyenv leaves on the path can't run if pyenv has another version.
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
        pytest.skip(f"there is no python{python}")
    run(found, "-m", "venv", "--without-pip", tmp_path / "venv")
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    # No dependency may need a compiler.
    choice = ["--only-binary", ":all:", *(["--no-binary", "oobleck_stream"] * (kind == "source"))]
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    run(*pip, "install", "--quiet", *choice, built[kind])
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    here = functools.partial(run, cwd=tmp_path, env=variables)

    shown = here(programs / "oobleck_stream", "demo", "-o", "song.wav")
    assert "identical: yes" in shown
    here(programs / "oobleck_stream", "encode", "song.wav", "song.npy")
    here(programs / "oobleck_stream", "decode", "song.npy", "-o", "again.flac")
    assert soundfile.info(tmp_path / "again.flac").duration > 14

    version, place = here(programs / "python", "-c", CHECK, "samples.npy").split()
    assert version == ob.__version__
    assert Path(place).is_relative_to(tmp_path / "venv")
    expected = ob.load("tiny").decode(ob.piece("keys")[:100])
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), expected)


@pytest.mark.nightly
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_a_wheel(built, python, platform, tmp_path):
    tags = [word for tag in PLATFORMS[platform] for word in ("--platform", tag)]
    choice = ("--only-binary", ":all:", "--python-version", python, *tags)
    # Nothing is installed.
    run(
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
        *("--target", tmp_path, *choice, built["wheel"]),
    )
