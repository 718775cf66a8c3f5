"""Fixtures of the tests of data sets: a small network, and inputs for it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from data_sets import write_latents, write_model, write_sounds

import oobleck_stream as ob


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def network(model):
    return ob.load(model)


@pytest.fixture
def tmp_path(tmp_path):
    """In memory, if that is possible, because all outputs are flushed to the disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def sounds(tmp_path):
    return write_sounds(tmp_path / "sounds", 6)


@pytest.fixture
def latents(tmp_path):
    return write_latents(tmp_path / "latents", 6)
