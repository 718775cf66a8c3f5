"""Times the server with real clients over loopback: capacity, first sound, and gaps."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.request import urlopen

import numpy as np

from oobleck_stream.bench.rounds import Case, run_rounds
from oobleck_stream.bench.start import random_latents
from oobleck_stream.errors import InputError
from oobleck_stream.model import Model
from oobleck_stream.multi_stream_decoder import MultiStreamDecoder
from oobleck_stream.server.admission import block_frames, settling_frames
from oobleck_stream.server.protocol import SUBPROTOCOL

Facts = dict[str, Any]

REPORT_SECONDS = 0.1
"""Interval in seconds at which a client reports what it has heard."""

PIECE_SECONDS = 30.0
KNOCKS = 20
PLAIN_SECONDS = 6.0

MAX_UNSTEADY = 16
"""Maximum number of pushes after which a stream's pushes no longer need to be planned."""

COMPARED = 4
"""Maximum number of stream counts for which pushes are compared. The most frequent are chosen."""

PUSHES = ("push", "paced_push", "plain_push")


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
        Whether the server refused the client because it was full.
    parked : bool
        Whether the server disconnected the client because of overload.
    """

    ahead: float
    first_sound: float = 0.0
    gaps: int = 0
    missing: float = 0.0
    refused: bool = False
    parked: bool = False
    got: int = 0
    ready: dict[str, Any] = field(default_factory=dict)

    async def play(self, address: str, source: str, seconds: float) -> None:
        """Open a session and play its sound until `seconds` after connecting."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidStatus
        from websockets.typing import Subprotocol

        start = time.perf_counter()
        try:
            socket = await connect(
                address,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                max_size=None,
                open_timeout=60,
            )
        except InvalidStatus:
            self.refused = True
            return
        async with socket:
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
                        self.refused = self.refused or told.get("code") == "busy"
                        self.parked = self.parked or told.get("code") == "overloaded"
                        continue
                    count = int.from_bytes(message[4:8], "little")
                    self.got = int.from_bytes(message[8:16], "little") + count
                    self.first_sound = self.first_sound or time.perf_counter() - start
            except ConnectionClosed:
                if not (self.refused or self.parked):
                    raise
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


@dataclass(frozen=True)
class Spent:
    """The time that a server has spent on decoding so far.

    A tick decodes one block for every session that needs one. A push is steady if it decodes one
    block for streams whose pushes always take equally long.

    Attributes
    ----------
    ticks : int
        Number of ticks.
    seconds : float
        Total time of these ticks, in seconds.
    pushing : float
        Total time of the pushes in these ticks, in seconds.
    steady : dict of int to (float, float)
        The total time in seconds and the number of steady pushes of exact sound, keyed by the
        number of streams in the push.
    """

    ticks: int
    seconds: float
    pushing: float
    steady: Mapping[int, tuple[float, float]]

    @classmethod
    def of(cls, url: str) -> Spent:
        """Read the times from the metrics of the server at `url`."""
        from prometheus_client.parser import text_string_to_metric_families

        with urlopen(f"{url}v1/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
        tick, push = "oobleck_stream_tick_seconds", "oobleck_stream_push_seconds"
        values = {sample.name: sample.value for sample in samples}
        sums, counts = (
            {
                int(sample.labels["streams"]): sample.value
                for sample in samples
                if sample.name == f"{push}_{kind}"
                and (sample.labels["steady"], sample.labels["sound"]) == ("yes", "exact")
            }
            for kind in ("sum", "count")
        )
        pushing = sum(sample.value for sample in samples if sample.name == f"{push}_sum")
        steady = {streams: (sums[streams], counts[streams]) for streams in sums}
        return cls(int(values[f"{tick}_count"]), values[f"{tick}_sum"], pushing, steady)

    def since(self, before: Spent) -> Spent:
        """Return what the server has spent since the earlier reading `before`."""
        steady = {}
        for streams, (seconds, count) in self.steady.items():
            old_seconds, old_count = before.steady.get(streams, (0.0, 0.0))
            if count > old_count:
                steady[streams] = seconds - old_seconds, count - old_count
        return Spent(
            self.ticks - before.ticks,
            self.seconds - before.seconds,
            self.pushing - before.pushing,
            steady,
        )


def compare_pushes(
    model: Model, slots: int, spent: Spent, pause: float, threads: int | None
) -> Facts:
    """Compare a server's steady pushes with the same pushes without a server.

    Without a server, pushes are timed in two ways: without pauses, and with a pause of `pause`
    seconds before each push, because a server pauses between its ticks. After a pause, other
    programs have used the caches, and the threads have to be woken up.

    Returns
    -------
    dict
        ``push`` is the mean time of the server's pushes in seconds. Of the pushes without a server,
        ``plain_push`` is the mean time without pauses, and ``paced_push`` with pauses. All three
        means are weighted by how often each number of streams occurred in the server.
        ``push_streams`` lists these numbers of streams.
    """
    block = block_frames(model)
    decoder = MultiStreamDecoder(model, slots, threads)
    latents = np.repeat(random_latents(model, slots)[:, None], block, axis=1)
    for _ in range(-(-settling_frames(model) // block) + MAX_UNSTEADY):
        decoder.push(latents)
    counts = sorted(spent.steady, key=lambda streams: -spent.steady[streams][1])[:COMPARED]
    plain, paced = {}, {}
    for streams in counts:
        push = partial(decoder.push, latents, np.arange(slots) < streams)
        plain[streams], paced[streams] = Case.of(push), Case(partial(_paced_turn, push, pause))
    run_rounds([*plain.values(), *paced.values()], PLAIN_SECONDS)
    total = sum(spent.steady[streams][1] for streams in counts)
    weights = {streams: spent.steady[streams][1] / max(1, total) for streams in counts}
    seconds = {streams: taken / count for streams, (taken, count) in spent.steady.items()}
    return {
        "push_streams": sorted(counts),
        "push": sum(weights[streams] * seconds[streams] for streams in counts),
        "plain_push": sum(weights[streams] * plain[streams].mean for streams in counts),
        "paced_push": sum(weights[streams] * paced[streams].mean for streams in counts),
    }


def _paced_turn(push: Callable[[], object], pause: float, seconds: float) -> list[float]:
    """Time pushes, at least one, with a pause before each, for about `seconds`."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        time.sleep(pause)
        start = time.perf_counter()
        push()
        times.append(time.perf_counter() - start)
    return times


async def _measure(
    arguments: Sequence[str], sessions: int | None, listeners: int, ahead: float, seconds: float
) -> tuple[Facts, Spent]:
    async with running_server(arguments) as server:
        url = server["url"]
        address = url.replace("http", "ws", 1) + "v1/session"
        count = sessions or server["slots"]
        if count > server["slots"]:
            raise InputError(f"{count} sessions, but the server admits {server['slots']}")
        alone = Listener(ahead)
        await alone.play(address, "piece", min(3.0, seconds))
        before, busy = Spent.of(url), time.process_time()
        crowd = [Listener(ahead) for _ in range(count)]
        playing = [asyncio.create_task(one.play(address, "piece", seconds)) for one in crowd]
        await asyncio.sleep(min(2.0, seconds / 2))
        knocks: list[float] = []
        if count == server["slots"]:
            tried = [await _knock(address) for _ in range(KNOCKS)]
            knocks = [taken for taken in tried if taken is not None]
        await asyncio.gather(*playing)
        spent, busy = Spent.of(url).since(before), time.process_time() - busy
        heard = await asyncio.gather(*[_listen(url, min(5.0, seconds)) for _ in range(listeners)])
        rate = server["samplerate"] * server["channels"] * 4 * min(5.0, seconds)
        facts = {
            "network": server["model"],
            "slots": server["slots"],
            "sessions": count,
            "seconds": seconds,
            "ahead": ahead,
            "first_sound_alone": alone.first_sound,
            "first_sound_worst": max(one.first_sound for one in crowd),
            "refused": sum(one.refused for one in crowd),
            "parked": sum(one.parked for one in crowd),
            "gaps": sum(one.gaps for one in crowd),
            "longest_gap": max(one.missing for one in crowd),
            "ticks": spent.ticks,
            "tick": spent.seconds / max(1, spent.ticks),
            "tick_pushes": spent.pushing / max(1, spent.ticks),
            "clients_busy": busy / seconds,
            "refusal_worst": max(knocks, default=None),
            "listeners": listeners,
            "listeners_whole": sum(size >= 0.9 * rate for size in heard),
        }
        return facts, spent


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
        The arguments of `oobleck_stream serve`: options, and the path of one file of latents. The
        file's name without suffix must be ``piece``, as in ``piece.npy``.
    sessions : int or None
        Number of clients that play at the same time. None means as many as the server admits.
    listeners : int
        Number of clients of ``/v1/listen``. They listen after the other clients have finished.
    ahead : float
        Seconds of sound that a client buffers.
    seconds : float
        Duration for which the clients play.
    threads : int or None

    Returns
    -------
    dict
        Times in seconds. ``tick`` is the mean time of a tick, and ``tick_pushes`` is the mean time
        of all pushes in a tick. ``clients_busy`` is the processor time of the clients per second.
        For the other times of pushes, see `compare_pushes`.

    Raises
    ------
    InputError
        If the server admits fewer than `sessions` clients, or if `seconds` is too short.
    """
    facts, spent = asyncio.run(_measure(arguments, sessions, listeners, ahead, seconds))
    if not spent.steady:
        raise InputError(f"{seconds:g} s are too short: no push of the server was steady")
    pause = max(0.0, seconds / max(1, spent.ticks) - facts["tick"])
    facts |= compare_pushes(model, facts["slots"], spent, pause, threads)
    facts["block_seconds"] = block_frames(model) * model.hop / model.samplerate
    return facts


def serve_lines(facts: Facts) -> list[str]:
    """Format the figures as lines of text."""
    refused = facts["refusal_worst"]
    ms = {name: f"{1e3 * facts[name]:.2f} ms" for name in ("tick", "tick_pushes", *PUSHES)}
    around = f"{1e3 * (facts['tick'] - facts['tick_pushes']):.2f} ms"
    streams = ", ".join(map(str, facts["push_streams"]))
    knocks = "- (the server was not full)" if refused is None else f"{1e3 * refused:.0f} ms"
    return [
        f"network    {facts['network']}; {facts['sessions']} sessions of the {facts['slots']} that "
        f"are admitted, for {facts['seconds']:g} s, buffer {facts['ahead']:g} s",
        f"first      sound after {facts['first_sound_alone']:.2f} s alone, "
        f"{facts['first_sound_worst']:.2f} s for the last of all at once",
        f"gaps       {facts['gaps']}, the longest {1e3 * facts['longest_gap']:.0f} ms; "
        f"{facts['refused']} sessions refused, {facts['parked']} parked because of overload",
        f"ticks      {facts['ticks']}, on average {ms['tick']}: pushes {ms['tick_pushes']}, all "
        f"else {around}; a block {1e3 * facts['block_seconds']:.1f} ms",
        f"pushes     to {streams} streams {ms['push']}; without a server {ms['paced_push']} at the "
        f"ticks' pace, {ms['plain_push']} without pauses",
        f"clients    took {100 * facts['clients_busy']:.0f} % of a core",
        f"refusal    of one more within {knocks}",
        f"listeners  {facts['listeners_whole']} of {facts['listeners']} had all sound",
    ]
