"""The instrument's frames, its OSC messages, and how admission counts."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
from live_client import LiveClient
from networks import model_of, random_latents, small
from websockets.exceptions import InvalidStatus

from oobleck_stream.multi_stream_decoder import MultiStreamDecoder
from oobleck_stream.server import seats, serving, ticks
from oobleck_stream.server.admission import BLOCK_SAMPLES, Load, PushTimes
from oobleck_stream.server.instrument import Bank, Instrument, Settings, weights_of
from oobleck_stream.server.osc import control
from oobleck_stream.server.serving import BackgroundServer

PIECES = {
    name: np.random.default_rng(number).standard_normal((50 + number, 4)).astype(np.float32)
    for number, name in enumerate(("a", "b", "c"))
}


@pytest.fixture
def bank():
    return Bank.of(PIECES)


def test_on_a_point_only_its_piece_is_heard(bank):
    for name, piece in PIECES.items():
        instrument = Instrument(bank, 100.0)
        x, y = bank.points[name]
        instrument.settings = Settings(x, y)
        instrument.take(len(piece))
        np.testing.assert_array_equal(instrument.take(20), piece[:20])


def test_weights(bank):
    for x, y in ((0.5, 0.5), (0.0, 1.0), (0.3, 0.31)):
        weights = weights_of(Settings(x, y), bank)
        assert weights.sum() == pytest.approx(1)
        distances = [np.hypot(px - x, py - y) for px, py in bank.points.values()]
        assert np.argmax(weights) == np.argmin(distances)
    fixed = Settings().changed({"weights": {"b": 3, "c": 1}})
    np.testing.assert_allclose(weights_of(fixed, bank), [0, 0.75, 0.25])
    assert fixed.changed({"x": 0.1}).weights is None


def test_a_change_is_a_ramp(bank):
    instrument = Instrument(bank, 100.0)
    instrument.settings = Settings(*bank.points["a"], freeze=True)
    instrument.take(10)
    before = instrument.take(1)
    instrument.settings = instrument.settings.changed({"offset": {"1": 3.0}})
    moved = instrument.take(10) - before
    lengths = np.linalg.norm(moved, axis=1)
    assert (np.diff(lengths[:5]) > 0).all()
    np.testing.assert_allclose(lengths[5:], 3 * np.linalg.norm(bank.directions[0]), rtol=1e-4)


@pytest.mark.parametrize(("speed", "expected"), [(2.0, 2), (-1.0, -1), (0.0, 0)])
def test_speed(bank, speed, expected):
    instrument = Instrument(bank, 100.0)
    instrument.settings = Settings(*bank.points["a"], speed=speed)
    frames = instrument.take(20)[10:]
    positions = expected * np.arange(10, 20) % len(PIECES["a"])
    np.testing.assert_array_equal(frames, PIECES["a"][positions])


def test_directions_are_where_the_latents_vary(bank):
    wide = {"one": PIECES["a"] * np.array([1, 10, 1, 1], np.float32)}
    first = Bank.of(wide).directions[0]
    assert np.argmax(np.abs(first)) == 1
    assert first[1] > 0


@pytest.mark.parametrize(
    ("address", "arguments", "fields"),
    [
        ("/x", (0.25,), {"x": 0.25}),
        ("/speed", (-1,), {"speed": -1.0}),
        ("/freeze", (1,), {"freeze": True}),
        ("/offset", (2, 0.5), {"offset": {"2": 0.5}}),
        ("/weight", ("b", 2), {"weights": {"a": 1.0, "b": 2.0}}),
    ],
)
def test_osc_messages(address, arguments, fields):
    assert control(address, arguments, {"a": 1.0}) == fields


@pytest.mark.parametrize(
    ("address", "arguments"),
    [
        ("/x", ()),
        ("/x", ("a",)),
        ("/x", (2.0,)),
        ("/weight", (1,)),
        ("/y", (float("nan"),)),
        ("/z", (1,)),
    ],
)
def test_wrong_osc_messages(address, arguments):
    with pytest.raises(ValueError, match=r"expected|addresses"):
        control(address, arguments, {})


def test_osc_moves_the_instrument():
    udp = pytest.importorskip("pythonosc.udp_client")
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = model_of(small("ezaudio"))
    pieces = {name: random_latents(model.config, 60) for name in ("a", "b")}
    with (
        BackgroundServer(model, pieces, slots=2, osc=port) as server,
        LiveClient(server.url) as client,
    ):
        client.open("instrument")
        sender = udp.SimpleUDPClient("127.0.0.1", port)
        for address, arguments in (
            ("/x", 0.75),
            ("/offset", [2, 1.5]),
            ("/x", "wrong"),
            ("/no", 1),
        ):
            sender.send_message(address, arguments)
        sender.send_message("/freeze", 1)
        while not client.told.get("set_at", {}).get("freeze"):
            client.receive()
        assert client.told["set_at"]["x"] == 0.75
        assert client.told["set_at"]["offset"] == {"2": 1.5}
        sender.send_message("/pause", [])
        client.wait("pause")


# Admission


def test_admission():
    load = Load(0.05, PushTimes([1, 2, 4], [0.02, 0.03, 0.044]), PushTimes([1], [0.034]))
    assert load.expected(3) == pytest.approx(0.037)
    assert load.expected(8) == pytest.approx(0.088)
    assert load.expected(1, early=1) == pytest.approx(0.054)
    assert load.capacity(64) == 3  # 85 % of real time, when the server starts
    assert load.admits(4)  # all of real time, while it runs
    assert not load.admits(5)
    assert load.affords_early(0, 1)
    assert not load.affords_early(1, 1)
    for _ in range(100):
        load.measured(1, 0, 0.04)
    assert load.ratio == pytest.approx(2, rel=0.01)
    assert load.admits(1)
    assert not load.admits(2)
    assert not load.affords_early(0, 1)


def test_too_slow_a_machine_plays_one():
    load = Load(0.05, PushTimes([1], [0.5]))
    assert load.capacity(64) == 1


class Busy(MultiStreamDecoder):
    """A decoder whose pushes take 29 % of real time per stream, and more near the beginning.

    They only seem to: they advance the clock with which the server times its ticks.
    """

    seconds = 0.0

    def push(self, frames, active=None):
        pushed = np.flatnonzero(np.ones(self.streams) if active is None else active)
        young = sum(self.frames_in[number] < 2 * self.model.context for number in pushed)
        Busy.seconds += BLOCK_SAMPLES / self.samplerate * (0.29 * len(pushed) + 0.4 * young)
        return super().push(frames, active)


def test_all_slots_can_be_used(monkeypatch):
    """As many clients as the server says that it decodes: none is refused or parked.

    Not even if ticks are a little slower than the pushes at the start, or sessions have just begun.
    """
    model = model_of(small("ezaudio"))
    block = BLOCK_SAMPLES / model.samplerate
    load = Load(block, PushTimes([1, 3], [0.28 * block, 0.84 * block]))
    slots = load.capacity(64)
    assert slots == 3
    monkeypatch.setattr(seats, "MultiStreamDecoder", Busy)
    monkeypatch.setattr(serving, "measure_load", lambda *_: (load, slots))
    monkeypatch.setattr(ticks, "time", SimpleNamespace(perf_counter=lambda: Busy.seconds))
    with ExitStack() as stack:
        pieces = {"a": random_latents(model.config, 600)}
        server = stack.enter_context(BackgroundServer(model, pieces))
        clients = [stack.enter_context(LiveClient(server.url)) for _ in range(slots)]
        for client, samples in zip(clients, (20 * BLOCK_SAMPLES, 1, 1), strict=True):
            client.send("open", source="a", loop=True)
            client.wait_samples(samples)
        for _ in range(20):
            for client in clients:
                client.wait_samples(client.got + BLOCK_SAMPLES)
        assert [client.told.get("error") for client in clients] == [None] * slots
        with pytest.raises(InvalidStatus):
            LiveClient(server.url, "/v1/session")


class SlowMachine(Load):
    """Its times are not corrected by what is measured."""

    def measured(self, exact: int, early: int, seconds: float) -> None:
        pass


def test_the_newest_is_parked_when_the_machine_becomes_slow():
    model = model_of(small("ezaudio"))
    with (
        BackgroundServer(model, {"a": random_latents(model.config, 60)}, slots=2) as server,
        LiveClient(server.url) as first,
        LiveClient(server.url) as second,
    ):
        first.open("a", loop=True)
        second.open("a", loop=True)
        server.hub.load = SlowMachine(1.0, PushTimes([1, 2], [0.6, 1.2]))
        start = time.monotonic()
        assert second.close_code() == 1013
        assert second.told["error"]["code"] == "overloaded"
        assert time.monotonic() - start > 1
        first.wait_samples(first.got + 1000)
        server.hub.load = Load.unlimited(model)
        with LiveClient(server.url) as third:
            third.send("resume", session=second.told["ready"]["session"], have=second.got)
            third.got = third.wait("ready")["resumed_at"]
            third.wait_samples(third.got + 100)
