"""Fixtures of the tests of data sets: a small network, and inputs for it."""

from __future__ import annotations

import pytest
from data_sets import write_latents, write_model, write_sounds
from small_disks import memory_folder

import oobleck_stream as ob


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def network(model):
    return ob.load(model)


@pytest.fixture
def tmp_path():
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def sounds(tmp_path):
    return write_sounds(tmp_path / "sounds", 6)


@pytest.fixture
def latents(tmp_path):
    return write_latents(tmp_path / "latents", 6)
