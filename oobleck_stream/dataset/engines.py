"""Runs tasks in this process, in a local cluster of processes, or on a Dask cluster."""

from __future__ import annotations

import logging
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any, Protocol

from oobleck_stream.dataset.job import Job
from oobleck_stream.dataset.tasks import Result, Task
from oobleck_stream.decoder import StreamingDecoder
from oobleck_stream.encoder import StreamingEncoder
from oobleck_stream.errors import InputError

ALLOWED_DEATHS = 3
"""The outcome of a task is `WorkerDied` when this number of workers have died while running it. A
scheduler that was started by another program has its own limit.
"""

CONNECT_SECONDS = 10
"""How many seconds a scheduler may take to answer."""

WIDTH_SECONDS = 5.0
"""Interval in seconds at which the scheduler is asked for its workers."""

START_SECONDS = 120.0
"""How many seconds a local cluster may be without any worker."""

Outcome = Result | BaseException
Run = Callable[[Task], Result]


class WorkerDied(Exception):  # noqa: N818
    """Too many workers have died while running the same task."""


class Engine(Protocol):
    """Runs tasks. Only one thread may call its methods."""

    def width(self) -> int:
        """Return the number of tasks that can run at the same time. It may change during a run.

        Raises
        ------
        OSError
            If the connection to the workers is lost, or if no worker of a local cluster starts.
        """

    def submit(self, task: Task) -> None:
        """Start a task, or put it into a queue."""

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Wait for at most `seconds` until a task ends. Return the ended tasks and their outcomes.

        If too many workers died while running a task, its outcome is `WorkerDied`.

        Raises
        ------
        OSError
            If the connection to the workers is lost.
        """


class InProcess:
    """Runs each task in this process, as soon as it is submitted."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ended: list[tuple[Task, Outcome]] = []

    def width(self) -> int:
        """Return 0, because no workers run tasks. This process runs one task at a time."""
        return 0

    def submit(self, task: Task) -> None:
        """Run a task."""
        try:
            self._ended.append((task, self._run(task)))
        except Exception as error:
            self._ended.append((task, error))

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Return the tasks that were run since the last call, and their outcomes."""
        ended, self._ended = self._ended, []
        return ended


class DaskEngine:
    """Runs tasks on the workers of a Dask client.

    Parameters
    ----------
    client : distributed.Client
    run : callable
        A function that takes a task and returns its result. It must be picklable.
    workers : int, optional
        Number of workers to keep running in a local cluster. This is needed because Dask restarts a
        killed worker, but not a worker that is killed while it starts.
    """

    def __init__(self, client: Any, run: Run, workers: int | None = None) -> None:
        from distributed import KilledWorker

        self._client, self._run, self._workers = client, run, workers
        self._killed: type[Any] = KilledWorker
        self._futures: dict[Any, Task] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._width, self._asked = 0, time.monotonic() - WIDTH_SECONDS
        self._missing = -WIDTH_SECONDS

    def width(self) -> int:
        """Return the total number of threads of all workers."""
        now = time.monotonic()
        if now - self._asked >= WIDTH_SECONDS and self._client.status == "running":
            with self._connected():
                self._width = sum(self._client.nthreads().values())
            if self._workers is not None:
                _restore(self._client.cluster, self._workers)
                # If this process was stopped for a while, the workers need time to come back.
                passed = min(now - self._asked, 2 * WIDTH_SECONDS)
                self._missing = 0.0 if self._width else self._missing + passed
                if self._missing > START_SECONDS:
                    raise OSError(f"no worker has been running for {START_SECONDS:g} s")
            self._asked = now
        return self._width

    def submit(self, task: Task) -> None:
        """Send a task to the scheduler."""
        future = self._client.submit(self._run, task, pure=False)
        self._futures[future] = task
        future.add_done_callback(self._ended.put)

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """As `Engine.wait`."""
        ended = []
        try:
            ended.append(self._ended.get(timeout=seconds))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        if self._client.status not in ("running", "newly-created"):
            raise self._lost()
        return [(self._futures.pop(future), self._outcome(future)) for future in ended]

    def _outcome(self, future: Any) -> Outcome:
        try:
            # If the worker has just died, the result is lost. Dask then runs the task once more,
            # which may end with a different error.
            with self._connected():
                result: Result = future.result()
        except self._killed as error:
            return WorkerDied(f"its task ended {error.allowed_failures + 1} workers")
        except Exception as error:
            lost = future.status == "cancelled"
            return OSError("the scheduler has lost a task") if lost else error
        return result

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """If the connection is lost in the block, raise an ``OSError`` that names the scheduler."""
        from distributed.comm import CommClosedError

        try:
            yield
        except CommClosedError as error:
            raise self._lost() from error

    def _lost(self) -> OSError:
        return OSError(f"the connection to the scheduler {self._client} was lost")


def _restore(cluster: Any, workers: int) -> None:
    """Replace the workers that died while they started, which Dask does not restart."""
    from distributed.core import Status

    def discard() -> None:
        for name, nanny in list(cluster.workers.items()):
            if nanny.status in (Status.failed, Status.closed):
                del cluster.workers[name]

    cluster.loop.add_callback(discard)
    cluster.scale(workers)


def require_dask() -> None:
    """Raise an `InputError` if Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise InputError(
            "several workers need Dask: pip install 'oobleck_stream[dask]' "
            "(or use --workers 0, which works in this process)"
        ) from None


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """Start a scheduler in this process and `workers` worker processes, and yield a client.

    Each worker runs one task at a time, which uses as many threads as its job specifies.
    """
    require_dask()
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.worker.preload": [
            *dask.config.get("distributed.worker.preload", []),
            "oobleck_stream.dataset.interrupts",
        ],
        "distributed.scheduler.allowed-failures": ALLOWED_DEATHS - 1,
        # Outputs go to files, so nothing in the workers' memory is worth spilling to the disk.
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        # The profiles of an hour take about 40 MB in each worker.
        "distributed.worker.profile.enabled": False,
    }
    with (
        dask.config.set(settings),
        # Start no workers yet. If a worker died now, the start of the cluster would fail.
        LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        if hasattr(signal, "pthread_sigmask"):
            # Workers inherit the mask, so Ctrl-C does not interrupt them while they start. Later
            # they ignore it, see `oobleck_stream.dataset.interrupts`. The resource tracker of
            # multiprocessing is started first, because its start unblocks the signal.
            resource_tracker.ensure_running()
            cluster.loop.add_callback(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGINT})
        cluster.scale(workers)
        yield client


@contextmanager
def remote_cluster(address: str) -> Iterator[Any]:
    """Connect to a scheduler and yield a client."""
    require_dask()
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"{address}: no Dask scheduler answers there: {error}") from error
    with client:
        yield client


def warm_hosts(client: Any, job: Job) -> None:
    """Load the model on one worker of each machine, which fills the machine's caches.

    Otherwise, all workers of a machine would fold and compile at the same time.
    """
    hosts: dict[str, str] = {}
    for address, info in client.scheduler_info(n_workers=-1)["workers"].items():
        hosts.setdefault(info["host"], address)
    with suppress(OSError):  # A worker that has just died is not needed for this.
        client.run(warm, job, workers=list(hosts.values()))


def warm(job: Job) -> None:
    """Load the model of a job, and compile the code that it needs unless the code is cached."""
    # Dask calls this function and the tasks in different threads. `coding.py` keeps a stream for
    # each thread that runs tasks. It is not used here, because a stream of this thread would take
    # memory until the worker ends.
    model = job.network
    if job.settings.direction == "encode":
        encoder = StreamingEncoder(model, job.threads)
        encoder.push([[0.0] * model.channels] * model.hop)
        encoder.flush()
    else:
        decoder = StreamingDecoder(model, job.threads)
        decoder.push([[0.0] * model.latent_dim])
        decoder.flush()


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
