"""Times the server with real clients over loopback: capacity, first sound, and gaps."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import numpy as np

from oobleck_stream.bench.rounds import take_turn
from oobleck_stream.bench.start import random_latents
from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder
from oobleck_stream.server.admission import block_frames
from oobleck_stream.server.protocol import SUBPROTOCOL

Facts = dict[str, Any]

REPORT_SECONDS = 0.1
"""Interval in seconds at which a client reports what it has heard."""

PIECE_SECONDS = 30.0
KNOCKS = 20
PLAIN_SECONDS = 2.0

MAX_UNSTEADY = 16
"""Pushes after which a stream's pushes no longer need to be planned."""


@dataclass
class Listener:
    """A client that plays a piece in real time.

    Attributes
    ----------
    first_sound : float
        Seconds from the start of the connection to the first samples.
    gaps : int
        How often samples were late.
    missing : float
        The longest gap in seconds.
    refused : bool
        Whether the server refused the client, or disconnected it because of overload.
    """

    ahead: float
    first_sound: float = 0.0
    gaps: int = 0
    missing: float = 0.0
    refused: bool = False
    got: int = 0
    ready: dict[str, Any] = field(default_factory=dict)

    async def play(self, address: str, source: str, seconds: float) -> None:
        """Open a session and play its sound until `seconds` after connecting."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed
        from websockets.typing import Subprotocol

        start = time.perf_counter()
        async with connect(
            address,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            max_size=None,
            open_timeout=60,
        ) as socket:
            opening = {"type": "open", "source": source, "ahead": self.ahead, "loop": True}
            await socket.send(json.dumps(opening))
            clock = asyncio.create_task(self._hear(socket, start, seconds))
            try:
                async for message in socket:
                    if clock.done():
                        break
                    if isinstance(message, str):
                        told = json.loads(message)
                        self.ready = told if told["type"] == "ready" else self.ready
                        self.refused = self.refused or told["type"] == "error"
                        continue
                    count = int.from_bytes(message[4:8], "little")
                    self.got = int.from_bytes(message[8:16], "little") + count
                    self.first_sound = self.first_sound or time.perf_counter() - start
            except ConnectionClosed:
                self.refused = True
            finally:
                clock.cancel()

    async def _hear(self, socket: Any, start: float, seconds: float) -> None:
        """Wait until the buffer is half full, then play at the sample rate."""
        while not self.ready or self.got < self.ahead / 2 * self.ready["info"]["samplerate"]:
            await asyncio.sleep(0.002)
        rate = self.ready["info"]["samplerate"]
        began, stopped = time.perf_counter(), 0.0
        while (now := time.perf_counter()) - start < seconds:
            due = (now - began - stopped) * rate
            if due > self.got:
                late = (due - self.got) / rate
                self.gaps += 1
                self.missing = max(self.missing, late)
                stopped += late
            heard = max(0, min(self.got, int(due)))
            await socket.send(json.dumps({"type": "heard", "sample": heard}))
            await asyncio.sleep(REPORT_SECONDS)


@asynccontextmanager
async def running_server(arguments: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
    """Run `oobleck_stream serve` during the block. Yield the JSON object that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "oobleck_stream", "serve", "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            raise RuntimeError("the server did not start")
        yield json.loads(line)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def _knock(address: str) -> float | None:
    """Return the seconds until a full server has refused a connection. None if it accepts."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    start = time.perf_counter()
    try:
        async with connect(address):
            return None
    except InvalidStatus:
        return time.perf_counter() - start


async def _listen(address: str, seconds: float) -> int:
    """Listen to shared sound for `seconds`, and return the number of bytes received."""
    host, _, port = address.partition("//")[2].strip("/").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v1/listen/piece.wav HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    end, count = time.perf_counter() + seconds, 0
    while (left := end - time.perf_counter()) > 0:
        try:
            count += len(await asyncio.wait_for(reader.read(1 << 16), left))
        except asyncio.TimeoutError:
            break
    writer.close()
    return count


def _ticks(url: str) -> tuple[float, int, int]:
    """Return the seconds and the number of the ticks so far, and the frames decoded in them."""
    with urlopen(f"{url}v1/metrics") as answer:
        lines = dict(
            line.rsplit(" ", 1)
            for line in answer.read().decode().splitlines()
            if not line.startswith("#")
        )
    name = "oobleck_stream_tick_seconds_"
    frames = int(float(lines["oobleck_stream_decoded_frames_total"]))
    return float(lines[f"{name}sum"]), int(float(lines[f"{name}count"])), frames


def plain_tick(model: Model, slots: int, streams: int, threads: int | None) -> float:
    """Return the median time in seconds of pushing a block to `streams` of `slots` streams."""
    block = block_frames(model)
    decoder = MultiStreamDecoder(model, slots, threads)
    latents = np.repeat(random_latents(model, slots)[:, None], block, axis=1)
    active = np.arange(slots) < streams
    for _ in range(-(-(model.context + 2) // block) + MAX_UNSTEADY):
        decoder.push(latents, active)
    return float(np.median(take_turn(lambda: decoder.push(latents, active), PLAIN_SECONDS)))


async def _measure(
    arguments: Sequence[str], sessions: int | None, listeners: int, ahead: float, seconds: float
) -> Facts:
    async with running_server(arguments) as server:
        url = server["url"]
        address = url.replace("http", "ws", 1) + "v1/session"
        alone = Listener(ahead)
        await alone.play(address, "piece", min(3.0, seconds))
        count = min(sessions or server["slots"], server["slots"])
        before = _ticks(url)
        crowd = [Listener(ahead) for _ in range(count)]
        playing = [asyncio.create_task(one.play(address, "piece", seconds)) for one in crowd]
        await asyncio.sleep(min(2.0, seconds / 2))
        knocks: list[float] = []
        if count == server["slots"]:
            tried = [await _knock(address) for _ in range(KNOCKS)]
            knocks = [taken for taken in tried if taken is not None]
        await asyncio.gather(*playing)
        after = _ticks(url)
        heard = await asyncio.gather(*[_listen(url, min(5.0, seconds)) for _ in range(listeners)])
        spent, ticks, frames = (late - soon for late, soon in zip(after, before, strict=True))
        rate = server["samplerate"] * server["channels"] * 4 * min(5.0, seconds)
        return {
            "network": server["model"],
            "slots": server["slots"],
            "sessions": count,
            "seconds": seconds,
            "ahead": ahead,
            "first_sound_alone": alone.first_sound,
            "first_sound_worst": max(one.first_sound for one in crowd),
            "parked": sum(one.refused for one in crowd),
            "gaps": sum(one.gaps for one in crowd),
            "longest_gap": max(one.missing for one in crowd),
            "tick": spent / max(1, ticks),
            "ticks": ticks,
            "frames_per_tick": frames / max(1, ticks),
            "refusal_worst": max(knocks, default=None),
            "listeners": listeners,
            "listeners_whole": sum(size >= 0.9 * rate for size in heard),
        }


def serve_facts(
    model: Model,
    arguments: Sequence[str],
    sessions: int | None,
    listeners: int,
    ahead: float,
    seconds: float,
    threads: int | None,
) -> Facts:
    """Measure a server in a process of its own.

    Parameters
    ----------
    model : Model
        The network that the server uses.
    arguments : sequence of str
        The arguments of `oobleck_stream serve`. They contain one file of latents, named ``piece``
        without its suffix, and options.
    sessions : int or None
        Number of clients that play at the same time. By default, as many as the server admits.
    listeners : int
        Number of clients of ``/v1/listen``, which listen afterwards.
    ahead : float
        Seconds of sound that a client buffers.
    seconds : float
        Duration for which the clients play.
    threads : int or None

    Returns
    -------
    dict
        Times in seconds. ``tick`` is the mean time of a push by the server. ``plain_tick`` is the
        time of a push without a server, for as many streams as the server's pushes had on average.
    """
    facts = asyncio.run(_measure(arguments, sessions, listeners, ahead, seconds))
    block = block_frames(model)
    facts["sessions_per_tick"] = streams = max(1, round(facts["frames_per_tick"] / block))
    facts["plain_tick"] = plain_tick(model, facts["slots"], streams, threads)
    facts["block_seconds"] = block * model.hop / model.samplerate
    return facts


def serve_lines(facts: Facts) -> list[str]:
    """Format the figures for people."""
    refused, plain = facts["refusal_worst"], 1e3 * facts["plain_tick"]
    knocks = "- (the server was not full)" if refused is None else f"{1e3 * refused:.0f} ms"
    return [
        f"network    {facts['network']}; {facts['sessions']} sessions of the {facts['slots']} that "
        f"are admitted, for {facts['seconds']:g} s, buffer {facts['ahead']:g} s",
        f"first      sound after {facts['first_sound_alone']:.2f} s alone, "
        f"{facts['first_sound_worst']:.2f} s for the last of all at once",
        f"gaps       {facts['gaps']}, the longest {1e3 * facts['longest_gap']:.0f} ms; "
        f"{facts['parked']} sessions parked because of overload",
        f"ticks      {facts['ticks']}, on average for {facts['sessions_per_tick']} sessions and "
        f"{1e3 * facts['tick']:.2f} ms; such a push without a server {plain:.2f} ms, "
        f"a block {1e3 * facts['block_seconds']:.1f} ms",
        f"refusal    of one more within {knocks}",
        f"listeners  {facts['listeners_whole']} of {facts['listeners']} had all sound",
    ]
