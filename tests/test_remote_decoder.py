"""`RemoteDecoder`: the contract of `StreamingDecoder` over the network, and its manners."""

from __future__ import annotations

import numpy as np
import pytest
from contract import (
    Subject,
    check_cuts,
    check_future,
    check_interleaved,
    check_reset,
    check_restore,
    check_two_threads,
    cuts,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import GEOMETRIES, model_of, random_latents, small
from tcp_proxy import Proxy

import oobleck_stream as ob
from oobleck_stream.server.serving import BackgroundServer


@pytest.fixture(scope="module")
def models():
    return {name: model_of(small(name)) for name in GEOMETRIES}


@pytest.fixture(scope="module", params=GEOMETRIES)
def server(request, models):
    with BackgroundServer(models[request.param], slots=8) as server:
        yield server


@pytest.fixture
def subject(server):
    model = server.hub.model
    return Subject(
        make=lambda _: ob.RemoteDecoder(server.url),
        whole=lambda latents: model.decode(latents, threads=1),
        due=lambda frames: max(0, frames * model.hop - model.latency),
        rows=random_latents(model.config, 40),
    )


@settings(max_examples=8)
@given(data=st.data())
def test_cuts(subject, data):
    length = data.draw(st.integers(0, 32))
    check_cuts(subject, length, data.draw(cuts(length)), 1)


def test_reset(subject):
    check_reset(subject, 15, 14)


@pytest.mark.parametrize("at", [0, 3, 16])
def test_restore(subject, at):
    check_restore(subject, 18, at)


def test_interleaved(subject):
    check_interleaved(subject, 14)


def test_two_threads(subject):
    check_two_threads(subject, 16, repeats=3)


@pytest.mark.parametrize("at", [11, 20])
def test_nothing_from_the_future(subject, at):
    check_future(subject, 26, at, 50.0)
