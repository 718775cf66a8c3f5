"""Measures the encoding of data sets on a local cluster: speed, overhead, resuming, and memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from oobleck_stream.dataset.api import encode, plan_encode
from oobleck_stream.dataset.engines import DaskEngine, local_cluster
from oobleck_stream.dataset.plan import Plan
from oobleck_stream.dataset.running import execute
from oobleck_stream.dataset.tasks import Batch, Result, Task
from oobleck_stream.loading import load
from oobleck_stream.memory import peak_memory
from oobleck_stream.model import Model

Facts = dict[str, Any]

SHORTEST, LONGEST = 1.0, 8.0
"""Lengths in seconds of the shortest and the longest file. All lengths are spread evenly on a
logarithmic scale."""

EMPTY_TASKS = 1000


def dataset_facts(
    model: str, files: int, workers: int, items: int, hours: float, folder: str | None = None
) -> Facts:
    """Measure the encoding of data sets.

    Parameters
    ----------
    model : str
        As for `oobleck_stream.load`.
    files : int
        Number of files of mixed lengths.
    workers : int
        Number of workers in the largest cluster. Each worker has one thread. One process with this
        number of threads is measured too.
    items : int
        Number of inputs in the data set for the repeated run, in which everything is already done.
    hours : float
        Length in hours of the long file, for which the memory is measured.
    folder : str, optional
        Where a temporary folder for the files is created. By default, as for `tempfile`.

    Returns
    -------
    dict
        Times in seconds, memory in bytes.
    """
    network = load(model)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        sound = write_files(place / "sounds", network, files)
        facts: Facts = {
            "network": network.name,
            "files": files,
            "workers": workers,
            "sound": sound,
            "weights": network.encoder.data.nbytes,
        }
        # Compile the kernels and fill the caches before anything is timed.
        encode(write_one(place / "one.wav", network, 1.0), place / "warm", model, workers=0)
        facts["one_process"] = [
            {"threads": threads, "seconds": one_process(place, model, threads)}
            for threads in sorted({1, workers})
        ]
        facts["strong"], facts["weak"] = scaling(place, model, network, files, workers)
        facts["task"] = empty_task_seconds(place, model, workers)
        facts["items"] = items
        facts["resume"] = resume_seconds(place, model, network, items)
        facts["hours"] = hours
        facts["long"] = long_file(place, model, network, hours, workers)
    return facts


def write_files(folder: Path, network: Model, files: int, seed: int = 0) -> float:
    """Write noise to files of mixed lengths, and return their total length in seconds."""
    folder.mkdir(parents=True)
    generator, total = np.random.default_rng(seed), 0.0
    lengths = np.geomspace(SHORTEST, LONGEST, files)
    for number in generator.permutation(files):
        write_one(folder / f"{number:05d}.wav", network, float(lengths[number]))
        total += float(lengths[number])
    return total


def write_one(path: Path, network: Model, seconds: float) -> Path:
    """Write a file of noise, block by block."""
    left = max(1, round(seconds * network.samplerate))
    noise = np.random.default_rng(1).standard_normal((min(left, 2**18), network.channels))
    samples = (0.2 * noise).astype(np.float32)
    kind = "RF64" if left * network.channels * 2 > 2**31 else "WAV"
    with soundfile.SoundFile(
        path, "w", network.samplerate, network.channels, "PCM_16", format=kind
    ) as file:
        while left:
            block = samples[: min(left, len(samples))]
            file.write(block)
            left -= len(block)
    return path


def one_process(place: Path, model: str, threads: int) -> float:
    """Return the seconds that a run in this process takes."""
    out = place / f"one process, {threads} threads"
    return encode(place / "sounds", out, model, workers=0, threads=threads).wall_seconds


def scaling(
    place: Path, model: str, network: Model, files: int, workers: int
) -> tuple[list[Facts], list[Facts]]:
    """Time runs with 1, 2, 4... workers. Return the times for strong and for weak scaling.

    For strong scaling, every run encodes the same files. For weak scaling, the number of files
    grows with the number of workers.
    """
    strong, weak = [], []
    count = 1
    counts = []
    while count < workers:
        counts.append(count)
        count *= 2
    for count in [*counts, workers]:
        share = place / f"share {count}"
        sound = 0.0
        for number in range(count):
            part = max(1, files // workers)
            sound += write_files(share / f"{number}", network, part, number)
        with local_cluster(count) as client:
            client.wait_for_workers(count)
            encode(place / "one.wav", place / f"warm {count}", model, client=client)
            client.run(warm_up, model)
            report = encode(place / "sounds", place / f"strong {count}", model, client=client)
            strong.append({"workers": count, "seconds": report.wall_seconds})
            report = encode(share, place / f"weak {count}", model, client=client)
            weak.append({"workers": count, "seconds": report.wall_seconds, "sound": sound})
    return strong, weak


def warm_up(model: str) -> None:
    """Load the kernels in a worker, so that the first task does not have to load them."""
    network = load(model)
    network.encode(np.zeros((network.hop, network.channels), np.float32), threads=1)


def nothing(task: Task) -> Result:
    """A task that does nothing."""
    return Result()


class _Empty(Plan):
    """A plan whose tasks do nothing."""

    def tasks(self) -> Iterator[Task]:
        """Return `EMPTY_TASKS` tasks without inputs."""
        return (Batch(()) for _ in range(EMPTY_TASKS))


def empty_task_seconds(place: Path, model: str, workers: int) -> float:
    """Return the seconds per task for sending it to a worker and fetching its result."""
    job = plan_encode(place / "one.wav", place / "warm", model).job
    with local_cluster(workers) as client:
        client.wait_for_workers(workers)
        report = execute(_Empty(job, ()), DaskEngine(client, nothing, workers))
    return report.wall_seconds / EMPTY_TASKS


def resume_seconds(place: Path, model: str, network: Model, items: int) -> float:
    """Return the seconds that a repeated run takes if everything is already done."""
    folder = place / "items"
    folder.mkdir()
    content = write_one(place / "short.wav", network, 2 / network.config.frame_rate).read_bytes()
    for number in range(items):
        inside = folder / f"{number // 1000}"
        inside.mkdir(exist_ok=True)
        (inside / f"{number}.wav").write_bytes(content)
    encode(folder, place / "items encoded", model, workers=0)
    start = time.perf_counter()
    report = encode(folder, place / "items encoded", model)
    assert report.kept == items
    return time.perf_counter() - start


def long_file(place: Path, model: str, network: Model, hours: float, workers: int) -> Facts:
    """Encode a long file in parts, and return the time and the peak memory.

    The peak memory is that of the largest worker, and that of this process, which runs the
    scheduler.
    """
    path = write_one(place / "long.wav", network, 3600 * hours)
    with local_cluster(workers) as client:
        client.wait_for_workers(workers)
        report = encode(path, place / "long encoded", model, client=client)
        peaks = client.run(peak_memory)
    return {
        "seconds": report.wall_seconds,
        "worker_peak": max((peak for peak in peaks.values() if peak), default=None),
        "own_peak": peak_memory(),
    }


def dataset_lines(facts: Facts) -> list[str]:
    """Format the figures as lines of text."""
    sound, lines = facts["sound"], []
    best = facts["one_process"][-1]["seconds"]
    lines.append(
        f"network    {facts['network']}; {facts['files']} files of {SHORTEST:g} to {LONGEST:g} s, "
        f"{sound:.0f} s in all"
    )
    for run in facts["one_process"]:
        lines.append(
            f"process    one of {run['threads']} threads: {run['seconds']:.1f} s, "
            f"{sound / run['seconds']:.1f} x real time"
        )
    for run in facts["strong"]:
        lines.append(
            f"strong     {run['workers']} workers: {run['seconds']:.1f} s, "
            f"{sound / run['seconds']:.1f} x real time, {best / run['seconds']:.2f} of the "
            f"throughput of one process with {facts['workers']} threads"
        )
    for run in facts["weak"]:
        lines.append(
            f"weak       {run['workers']} workers, {run['sound']:.0f} s of sound: "
            f"{run['seconds']:.1f} s, {run['sound'] / run['seconds']:.1f} x real time"
        )
    lines += [
        f"task       {1e3 * facts['task']:.2f} ms for sending an empty one and taking its result",
        f"resume     {facts['resume']:.2f} s for {facts['items']} items that are all done",
    ]
    long = facts["long"]
    if long["worker_peak"] is not None:
        lines.append(
            f"memory     a file of {facts['hours']:g} h in {long['seconds']:.0f} s: at most "
            f"{long['worker_peak'] / 1e6:.0f} MB in a worker, of which the weights are "
            f"{facts['weights'] / 1e6:.0f} MB; {long['own_peak'] / 1e6:.0f} MB in the process that "
            "runs the scheduler"
        )
    return lines
