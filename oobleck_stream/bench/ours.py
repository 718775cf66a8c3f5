"""The cases of this decoder: pushes and full batches, each with and without epilogues."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oobleck_stream.bench.limits import Limits
from oobleck_stream.bench.rounds import Case
from oobleck_stream.bench.start import random_latents
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.model import Model
from oobleck_stream.network import multiplications

Facts = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """The task of decoding `frames` frames, in a push of a running stream or as a whole piece.

    Parameters
    ----------
    model : Model
    frames : int
    threads : int
    whole : bool
        Whether to time `Model.decode` instead of a push.
    pairing : int
        If this is 2, `frames` pushes of one frame are timed together, in a decoder that pairs them.
    """

    model: Model
    frames: int
    threads: int
    whole: bool = False
    pairing: int = 1

    def case(self) -> Case:
        """Return the case. A first call has then already allocated memory and planned."""
        model, latents = self.model, random_latents(self.model, self.frames)
        if self.whole:
            model.decode(latents, threads=self.threads)
            return Case.of(lambda: model.decode(latents, threads=self.threads))
        decoder = StreamingDecoder(model, self.threads, pairing=self.pairing)
        pieces = [latents] if self.pairing == 1 else list(latents)

        def push() -> None:
            for piece in pieces:
                decoder.push(piece)

        while decoder.frames_in <= 2 * model.context:
            push()
        return Case.of(push)

    def facts(self, case: Case, peak: float) -> Facts:
        """Return the figures of a case. `peak` is the machine's peak in operations per second."""
        operations = 2 * multiplications(self.model.decoder.layers) * self.frames
        budget = self.frames / self.model.config.frame_rate
        rate = operations / case.median
        return {
            "frames": self.frames,
            "threads": self.threads,
            "calls": len(case.times),
            "median_seconds": case.median,
            "p99_seconds": case.quantile(0.99),
            "max_seconds": case.quantile(1),
            "spread": (case.quantile(0.75) - case.quantile(0.25)) / case.median,
            "gflops": rate / 1e9,
            "share_of_peak": rate / peak if self.model.backend == "cpu" else None,
            "real_time_factor": case.median / budget,
            "late_share": float(np.mean(np.array(case.times) > budget)),
        }


class Ours:
    """All cases of this decoder.

    Parameters
    ----------
    model : Model
    threads : int
    pushes : sequence of int
        Frames of the pushes.
    batch : int
        Frames of the full batch.
    """

    def __init__(self, model: Model, threads: int, pushes: Sequence[int], batch: int) -> None:
        bare = products_only(model)
        works = [Work(model, frames, threads) for frames in pushes]
        works.append(Work(model, batch, threads, whole=True))
        self._timed = [
            (work, work.case(), dataclasses.replace(work, model=bare).case()) for work in works
        ]
        self._paired = Work(model, 2, threads, pairing=2)
        self._paired_case = self._paired.case()
        self._single = Work(model, batch, 1, whole=True)
        self._single_case = self._single.case() if threads > 1 else None

    @property
    def cases(self) -> list[Case]:
        """All cases, in the order in which they are timed."""
        cases = [case for _, whole, bare in self._timed for case in (whole, bare)]
        cases.append(self._paired_case)
        return cases + ([self._single_case] if self._single_case else [])

    @property
    def push_medians(self) -> dict[int, float]:
        """The median seconds of each push, keyed by the push's number of frames."""
        return {work.frames: case.median for work, case, _ in self._timed[:-1]}

    @property
    def batch_median(self) -> float:
        """Median seconds of the full batch."""
        return self._timed[-1][1].median

    def facts(self, limits: Limits) -> Facts:
        """Return the figures of all cases, and the threads' speed-up."""
        rows = [
            work.facts(case, limits.peak(work.threads))
            | {"epilogue_share": 1 - bare.median / case.median}
            for work, case, bare in self._timed
        ]
        facts: Facts = {"pushes": rows[:-1], "batch": rows[-1]}
        facts["paired"] = self._paired.facts(self._paired_case, limits.peak(self._paired.threads))
        facts["one_thread"] = facts["threads_ratio"] = None
        if self._single_case:
            facts["one_thread"] = self._single.facts(self._single_case, limits.peak(1))
            facts["threads_ratio"] = self._single_case.median / self.batch_median
        return facts


def products_only(model: Model) -> Model:
    """Return a model with identity epilogues: it has no Snake, no residual addition and no tanh.

    The layers are otherwise unchanged and read the same packed weights, so each product has the
    same size, order and memory traffic. The bias stays, because it is only one addition to a
    register that is stored anyway. The samples are meaningless. Only the time is of interest.
    """
    network = model.decoder
    layers = tuple(
        dataclasses.replace(layer, snake=None, residual=False, tanh=False)
        for layer in network.layers
    )
    return dataclasses.replace(model, decoder=dataclasses.replace(network, layers=layers))
