"""Measures other runtimes (peers) with the same network, each in a process of its own.

The worker threads of these runtimes spin for a while after a call, which would slow down the next
measurement. So each process is stopped between its turns, because its threads can't spin then. This
lets each runtime keep its default settings. Windows has no signal that stops a process, so peers
are not measured there.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.bench.rounds import Case
from oobleck_stream.bench.task import Task
from oobleck_stream.config import OobleckConfig
from oobleck_stream.reference import FloatingArray
from oobleck_stream.validation.peers import refusal as library_refusal
from oobleck_stream.validation.stages import Half, half_of
from oobleck_stream.validation.tensors import packed_tensors

Facts = dict[str, Any]

NAMES = ("diffusers", "onnxruntime", "openvino")
MIN_NOISE = np.finfo(np.float64).tiny
"""Lower bound of a difference's power. JSON can't represent an infinite signal-to-noise ratio."""


def refusal(config: OobleckConfig, half: Half = "decoder") -> str | None:
    """Return why the peers can't be measured with `config` on this system. None if they can."""
    if not hasattr(signal, "SIGSTOP"):
        return "this system can't stop a process between its turns"
    if half == "decoder" and config.output_padding != OobleckConfig().output_padding:
        return f"diffusers' Oobleck decoder has no output_padding {config.output_padding}"
    return library_refusal("diffusers", config, half)


@dataclass
class PeerCase:
    """One way of using a peer.

    Parameters
    ----------
    mode : str
        ``"batch"`` computes a whole piece. ``"recompute"`` streams exactly, by computing the
        context again in every push. ``"no context"`` computes only the new frames, so it is not
        exact.
    frames : int
        New frames per call.
    first : int
        Index of the first frame computed.
    context : int
        Frames computed on each side of the new ones.
    case : Case
    """

    mode: str
    frames: int
    first: int
    context: int
    case: Case

    @property
    def computed(self) -> int:
        """Frames computed per call."""
        return self.frames + 2 * self.context


class Peer:
    """A peer, which runs in a process of its own, and its cases.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    setup : dict
        The first request to `oobleck_stream.bench.peer`, which describes what to build.
    log : Path
        File for the process's standard error.
    """

    def __init__(self, name: str, setup: Facts, log: Path) -> None:
        self.name = name
        self.cases: list[PeerCase] = []
        with log.open("w") as messages:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "oobleck_stream.bench.peer", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
            )
        answer = self._ask(setup)
        self.title = answer.get("title", name)
        self.problem = answer.get("problem")

    def add(self, mode: str, frames: int, first: int = 0, context: int = 0) -> None:
        """Add a case, and make a first call, so that the runtime compiles and allocates."""
        request = {"first": first, "frames": frames + 2 * context}

        def turn(seconds: float) -> list[float]:
            times: list[float] = self._ask(request | {"seconds": seconds})["times"]
            return times

        turn(0.0)
        self.cases.append(PeerCase(mode, frames, first, context, Case(turn)))

    def output(self, first: int, frames: int, file: Path) -> FloatArray:
        """Return the peer's output rows for some frames. The peer passes them in `file`."""
        self._ask({"first": first, "frames": frames, "output": str(file)})
        rows: FloatArray = np.load(file)
        return rows

    def _ask(self, request: Facts) -> Facts:
        """Let the process run until it has answered one request, and return the answer.

        Raises
        ------
        RuntimeError
            If the process has ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        if sys.platform != "win32":
            process.send_signal(signal.SIGCONT)
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended with code {process.wait()}")
        if sys.platform != "win32":
            process.send_signal(signal.SIGSTOP)
        answer: Facts = json.loads(line)
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def open_peers(
    task: Task, threads: int, pushes: Sequence[int], batch: int
) -> Iterator[PeerComparison]:
    """Start all peers one after another, and end their processes at the end of the block.

    Parameters
    ----------
    task : Task
    threads : int
    pushes : sequence of int
        The sizes of the pushes, in frames.
    batch : int
        Number of frames of the full batch.
    """
    context = task.context
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        rows = task.rows(max(batch, max(pushes) + 2 * context))
        np.save(folder / "rows.npy", rows)
        np.savez(folder / "weights.npz", **named_weights(task))  # type: ignore[arg-type]
        setup = {
            "config": dataclasses.asdict(task.model.config),
            "half": task.half,
            "weights": str(folder / "weights.npz"),
            "rows": str(folder / "rows.npy"),
            "frame_rows": task.rows_in,
            "threads": threads,
        }
        peers = []
        for name in NAMES:
            peer = stack.enter_context(Peer(name, setup, folder / f"{name}.log"))
            peers.append(peer)
            if peer.problem is None:
                peer.add("batch", batch)
                for frames in pushes:
                    peer.add("recompute", frames, context=context)
                for frames in pushes:
                    peer.add("no context", frames, first=context)
        yield PeerComparison(task, rows, peers, folder / "output.npy")


@dataclass(frozen=True)
class PeerComparison:
    """The running peers, and the task and the input that they share.

    Parameters
    ----------
    task : Task
    rows : (n, inputs) float32
    peers : list of Peer
    file : Path
        File through which the peers return their output.
    """

    task: Task
    rows: FloatArray
    peers: list[Peer]
    file: Path

    @property
    def cases(self) -> list[Case]:
        """All cases, in the order in which they are timed."""
        return [case.case for peer in self.peers for case in peer.cases]

    def facts(self, pushes: dict[int, float], batch: float) -> list[Facts]:
        """Return every peer's figures.

        Parameters
        ----------
        pushes : dict of int to float
            Median seconds of our pushes, keyed by the push's number of frames.
        batch : float
            Median seconds of our full batch.

        Returns
        -------
        list of dict
            One dict for each peer. Its entry ``rows`` is a list with a dict for each case. In such
            a dict, ``ratio`` is the peer's median time divided by our median time.
        """
        facts: list[Facts] = []
        for peer in self.peers:
            facts.append({"name": peer.name, "title": peer.title, "problem": peer.problem})
            facts[-1]["rows"] = [
                self._case_facts(peer, one, batch if one.mode == "batch" else pushes[one.frames])
                for one in peer.cases
            ]
        return facts

    def _case_facts(self, peer: Peer, one: PeerCase, ours: float) -> Facts:
        median = one.case.median
        return {
            "mode": one.mode,
            "frames": one.frames,
            "frames_computed": one.computed,
            "calls": len(one.case.times),
            "median_seconds": median,
            "real_time_factor": median * self.task.model.config.frame_rate / one.frames,
            "snr_db": self._signal_to_noise(peer, one),
            "ratio": median / ours,
        }

    def _signal_to_noise(self, peer: Peer, one: PeerCase) -> float:
        """Return the signal-to-noise ratio in dB. The noise is the peer's output minus ours."""
        size, first = self.task.rows_out, one.first + one.context
        given = peer.output(one.first, one.computed, self.file)[one.context * size :]
        piece = self.rows[: one.frames * self.task.rows_in] if one.mode == "batch" else self.rows
        right = self.task.whole(piece)[first * size : (first + one.frames) * size]
        length = min(len(given), len(right))
        power = np.mean(np.square(right, dtype=np.float64))
        noise = np.mean(np.square(given[:length].astype(np.float64) - right[:length]))
        return float(10 * np.log10(power / np.maximum(noise, MIN_NOISE)))


def named_weights(task: Task) -> dict[str, FloatingArray]:
    """Return the folded parameters, keyed by ``"INDEX.weight"`` and so on.

    The axes of the weights are in torch's order.
    """
    network, weights = half_of(task.model, task.half), dict[str, FloatingArray]()
    for index, (_, given) in enumerate(packed_tensors(network, task.model.config)):
        for part in ("weight", "bias", "alpha", "beta"):
            if getattr(given, part) is not None:
                weights[f"{index}.{part}"] = getattr(given, part)
    return weights
