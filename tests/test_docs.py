"""The documentation is true: its examples run, and what it names exists."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from sound_server import sound_server

import oobleck_stream as ob
from oobleck_stream.commands import NAMES

__all__ = ["sound_server"]

HERE = Path(__file__).parent
ROOT = HERE.parent
READMES = {
    "README.md": [ROOT],
    "oobleck_stream/README.md": [ROOT / "oobleck_stream", ROOT],
    "oobleck_stream/files/README.md": [ROOT / "oobleck_stream"],
    "oobleck_stream/server/README.md": [
        ROOT / "oobleck_stream/server",
        ROOT / "oobleck_stream",
        ROOT,
    ],
    "oobleck_stream/dataset/README.md": [
        ROOT / "oobleck_stream/dataset",
        ROOT / "oobleck_stream",
        ROOT,
    ],
    "tests/README.md": [HERE, ROOT],
    "demos/README.md": [ROOT / "demos", ROOT],
}
"""The documents, and the folders that their paths are relative to."""

MAX_WIDTH = 110
MAX_LINES = {"README.md": 130}

DATA = [name for name in ob.__all__ if isinstance(getattr(ob, name), dict)]
"""Public names without a docstring at run time."""

PLAYING = ["PlaybackError", "Player", "play"]
"""Names whose examples need a sound card."""

SILENT = [name for name in ob.__all__ if name not in DATA and name not in PLAYING]


def examples(name):
    """The examples in the docstring of a public name."""
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(ob, name), name, globs={})
    return found


def run_examples(test):
    """Run a docstring's examples: their number, and a text that is empty if all succeeded."""
    output = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=output.append)
    return results.attempted, "".join(output)


@functools.cache
def text_of(readme):
    return (ROOT / readme).read_text(encoding="utf-8")


def blocks(readme, language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(readme), re.DOTALL | re.MULTILINE)


def code_spans(readme):
    """The inline code of a document, each on one line."""
    prose = re.sub(r"^```.*?^```$", "", text_of(readme), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


@functools.cache
def names_defined_in(path):
    """Functions, classes, and assigned names of a module, nested ones too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def located(readme, path):
    """A path in a document as a path here; None if it doesn't exist."""
    return next((base / path for base in READMES[readme] if (base / path).exists()), None)


# Docstrings


@pytest.mark.parametrize("name", SILENT)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attempted, failures = run_examples(examples(name))
    assert attempted > 0
    assert failures == ""


@pytest.mark.sound
@pytest.mark.parametrize("name", PLAYING)
def test_examples_that_play(name, sound_server, tmp_path):
    """In a process whose sound card is the private server."""
    script = f"import test_docs; print(*test_docs.run_examples(test_docs.examples({name!r})))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=sound_server.environment | {"PYTHONPATH": f"{ROOT}:{HERE}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    attempted, failures = done.stdout.split(" ", 1)
    assert int(attempted) > 0
    assert failures == "\n"


def test_examples_of_the_package():
    (found,) = doctest.DocTestFinder(recurse=False).find(ob, "oobleck_stream", globs={})
    assert run_examples(found) == (4, "")


def test_all_examples_run():
    """None is skipped, and they use the names that have no docstring."""
    sources = "\n".join(examples(name).docstring for name in SILENT + PLAYING)
    assert "+SKIP" not in sources
    for name in DATA:
        assert f"ob.{name}" in sources


# READMEs


@pytest.mark.parametrize("readme", READMES)
def test_python_blocks(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in blocks(readme, "python"):
        exec(compile(source, readme, "exec"), {})


def test_the_readme_shows_the_library():
    assert "decoder.push(frame)" in "".join(blocks("README.md", "python"))


def commands_in(readme):
    """The `oobleck_stream` commands of a document, as lists of words."""
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines()]
    for line in [*lines, *code_spans(readme)]:
        for part in re.split(r"\||&&", line):
            words = shlex.split(part, comments=True)
            if len(words) > 1 and words[0].rpartition("/")[2] == "oobleck_stream":
                yield words[1:]


@pytest.mark.parametrize("readme", READMES)
def test_commands_exist(readme):
    for words in commands_in(readme):
        assert words[0] in NAMES, words
        name = words[0].replace("-", "_")
        command = getattr(importlib.import_module(f"oobleck_stream.commands.{name}"), name)
        rest = words[1:]
        while isinstance(command, click.Group) and not rest[0].startswith("-"):
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        options = {"--help", *(option for one in command.params for option in one.opts)}
        assert {word for word in rest if word.startswith("-") and word != "-"} <= options, words


def test_which_commands_take_a_model():
    assert "All of these but `demo` and `convert` take `--model`" in text_of("README.md")
    (shown,) = (block for block in blocks("README.md", "sh") if "song.wav" in block)
    for name in re.findall(r"^oobleck_stream (\w+)", shown, re.MULTILINE):
        command = getattr(importlib.import_module(f"oobleck_stream.commands.{name}"), name)
        takes_a_model = any("--model" in option.opts for option in command.params)
        assert takes_a_model == (name not in ("demo", "convert")), name


def test_the_readme_shows_commands():
    assert {"decode", "play", "convert"} <= {words[0] for words in commands_in("README.md")}


@pytest.mark.parametrize("readme", READMES)
def test_files_and_names_exist(readme):
    for span in code_spans(readme):
        match = re.fullmatch(r"([\w./-]+\.(?:py|npz|proto|md))(?:: ([\w.]+))?", span)
        if match is None or "NAME" in match[1]:
            continue
        path = located(readme, match[1])
        assert path is not None, f"{readme} names {match[1]}, which does not exist"
        for name in match[2].split(".") if match[2] else ():
            assert name in names_defined_in(path), f"{readme} names {span}, which does not exist"


@pytest.mark.parametrize("readme", READMES)
def test_files_in_figures_exist(readme):
    for figure in blocks(readme, "text"):
        for path in re.findall(r"[\w/]+\.py\b", figure):
            assert located(readme, path) is not None, path


@pytest.mark.parametrize("readme", READMES)
def test_public_names_exist(readme):
    for span in code_spans(readme):
        for name in re.findall(r"\bob\.(\w+)", span):
            assert name in ob.__all__, span


def test_the_map_names_what_it_explains():
    """Guards the pattern of the test above against a document that is written differently."""
    assert (
        sum(": " in span and ".py" in span for span in code_spans("oobleck_stream/README.md")) > 30
    )


@pytest.mark.parametrize("readme", READMES)
def test_links_lead_somewhere(readme):
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(readme)):
        if "://" not in target:
            assert ((ROOT / readme).parent / target).exists(), target


@pytest.mark.parametrize("readme", READMES)
def test_size(readme):
    lines = text_of(readme).splitlines()
    assert [line for line in lines if len(line) > MAX_WIDTH] == []
    assert len(lines) <= MAX_LINES.get(readme, 250)


def test_every_test_file_is_listed():
    listed = {Path(span).name for span in code_spans("tests/README.md")}
    assert {path.name for path in HERE.rglob("test_*.py")} <= listed


def test_every_marker_is_listed(request):
    markers = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("markers = [")[1]
    for marker in re.findall(r'^    "(\w+):', markers.split("]")[0], re.MULTILINE):
        assert f"| `{marker}` |" in text_of("tests/README.md")


def test_the_test_command_is_found_by_the_check():
    found = re.findall(r"^python3 -m venv .* -m pytest$", text_of("README.md"), re.MULTILINE)
    assert len(found) == 1
