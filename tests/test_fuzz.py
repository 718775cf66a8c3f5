"""Damaged files of every kind end in a load or in one line: no crash, no hang, no huge memory.

The default run draws five hundred cases, and a hundred conversions; ``pytest -m nightly`` forty
times as many. What a failing case was made of stays in the folder that its message names.
"""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
from fuzz_files import CHECKPOINTS, LATENT_FILES, OTHERS
from fuzzing import convert, load_and_use, outcome, read_all, read_pipe, read_sound
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutations

ROUNDS = [1, pytest.param(40, marks=pytest.mark.nightly)]


def fuzz(tmp_path, files, use, cases):
    """Use files as they are, and then as many mutations of them."""
    outcomes = Counter()

    def used(files, choice):
        folder = tmp_path / f"case-{outcomes.total()}"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        try:
            end = outcome(lambda folder, most: use(folder, most, choice), folder)
        except BaseException:
            outcomes["failed"] += 1
            raise
        outcomes[end] += 1
        shutil.rmtree(folder, ignore_errors=True)

    used(files, 0)
    assert outcomes["loaded"]
    settings(max_examples=cases)(given(mutations(files, OTHERS), st.integers(0, 99))(used))()
    print(f"{outcomes.total()} cases: {dict(outcomes)}")
    assert outcomes.total() > cases
    assert outcomes["refused"] >= cases // 2


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_checkpoints(tmp_path, kind, rounds):
    fuzz(tmp_path, CHECKPOINTS[kind], load_and_use, 60 * rounds)


@pytest.mark.parametrize("name", LATENT_FILES)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_latents(tmp_path, name, rounds):
    fuzz(tmp_path, {name: LATENT_FILES[name]}, read_all, 30 * rounds)


@pytest.mark.parametrize(("name", "read"), [("a.npy", read_pipe), ("a.bin", read_sound)])
@pytest.mark.parametrize("rounds", ROUNDS)
def test_pipes_and_sound(tmp_path, name, read, rounds):
    fuzz(tmp_path, {name: LATENT_FILES[name]}, read, 20 * rounds)


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_conversions(tmp_path, kind, rounds):
    fuzz(tmp_path, CHECKPOINTS[kind], convert, 10 * rounds)
