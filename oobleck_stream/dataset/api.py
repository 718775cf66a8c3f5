"""Encodes and decodes data sets, for Python programs and for the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from oobleck_stream.dataset import engines
from oobleck_stream.dataset.job import Job, Layout, Settings, fingerprint
from oobleck_stream.dataset.places import is_remote
from oobleck_stream.dataset.plan import Plan, Report
from oobleck_stream.dataset.running import Progress, execute
from oobleck_stream.dataset.shards import require_packages
from oobleck_stream.dataset.sources import AUDIO_SUFFIXES, LATENT_SUFFIXES, find_sources
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.loading import load
from oobleck_stream.model import Model

UNIT_SECONDS = 60.0
"""The default of `unit`: the longest part of an input, in seconds, that a task processes."""

Address = str | os.PathLike[str]


def encode(
    source: Address,
    out: Address,
    model: Address = "tiny",
    *,
    layout: Layout = "files",
    dtype: Literal["float32", "float16"] = "float32",
    sample: bool = False,
    seed: int = 0,
    crop: float | None = None,
    split: float | None = None,
    pad: bool = False,
    shard_items: int = 1000,
    share: tuple[int, int] | None = None,
    unit: float = UNIT_SECONDS,
    threads: int = 1,
    workers: int | None = None,
    scheduler: str | None = None,
    client: Any = None,
    strict: bool = False,
    progress: Callable[[Progress], None] | None = None,
    on_cluster: Callable[[str], None] | None = None,
) -> Report:
    """Encode many audio files to latents.

    The latents of each input are bit-identical to those of `Model.encode`. A repeated run processes
    only inputs that are missing from the output or have changed.

    Parameters
    ----------
    source : str or path
        A folder (searched recursively), a list of paths (``.txt``, ``.lst`` or ``.jsonl``), a glob
        pattern, one audio file, or the fsspec address of one of these.
    out : str or path
        The output folder, or its fsspec address.
    model : str or path
        As for `oobleck_stream.load`. Each machine loads it for itself.
    layout : {"files", "webdataset", "parquet"}
        ``files`` is stable-audio-tools' layout: an ``.npy`` and a ``.json`` file for each item.
        The other layouts have several items in a file.
    dtype : {"float32", "float16"}
        The dtype of the stored latents.
    sample, seed
        As for `Model.encode`. The noise of each input depends on `seed` and on the input's name.
    crop : float, optional
        Encode only the first `crop` seconds of each input. By default, encode all of it.
    split : float, optional
        Cut each input into items that are this long, in seconds. The last item may be shorter.
        `split` and `crop` can't be combined. Both are rounded to whole frames. They cut the latents
        and not the sound, so each frame is the same as if the whole input were kept.
    pad : bool
        Whether items that are shorter than `crop` or `split` are padded with silence.
    shard_items : int
        Approximate number of inputs per file, in layouts with several items in a file.
    share : (int, int), optional
        With ``(i, n)``, process only the i-th of n shares of the inputs, counted from 1. When all
        shares have been processed, a run without `share` completes the output, for example by
        writing the manifest.
    unit : float
        Longest part of an input, in seconds, that one task encodes. It has no effect on the output.
    threads : int
        Threads of each task.
    workers : int, optional
        Number of worker processes on this machine. The default is the number of cores divided by
        `threads`. With 0, this process does the work itself.
    scheduler : str, optional
        The address of a Dask scheduler, whose workers are used instead.
    client : distributed.Client, optional
        A connection to a Dask cluster that is used instead.
    strict : bool
        Whether the first input that fails ends the run.
    progress : callable, optional
        Called with a `Progress` about twice a second.
    on_cluster : callable, optional
        Called with the address of Dask's dashboard.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If there are no inputs, if the output folder was begun with other settings, if a package is
        missing, or if no scheduler answers.
    CheckpointError
        If the model can't be loaded or has no encoder.
    ValueError
        If an argument is out of range.
    OSError
        If an output can't be written, or the connection to the scheduler is lost. Finished outputs
        are kept. Repeat the call to do the rest.
    """
    plan = plan_encode(
        source,
        out,
        model,
        layout=layout,
        dtype=dtype,
        sample=sample,
        seed=seed,
        crop=crop,
        split=split,
        pad=pad,
        shard_items=shard_items,
        share=share,
        unit=unit,
        threads=threads,
    )
    return run_plan(plan, workers, scheduler, client, strict, progress, on_cluster)


def decode(
    source: Address,
    out: Address,
    model: Address = "tiny",
    *,
    layout: Layout = "files",
    audio: Literal["wav", "flac"] = "wav",
    bits: Literal["16", "24", "float"] = "16",
    order: AxisOrder | None = None,
    shard_items: int = 1000,
    share: tuple[int, int] | None = None,
    unit: float = UNIT_SECONDS,
    threads: int = 1,
    backend: str = "cpu",
    workers: int | None = None,
    scheduler: str | None = None,
    client: Any = None,
    strict: bool = False,
    progress: Callable[[Progress], None] | None = None,
    on_cluster: Callable[[str], None] | None = None,
) -> Report:
    """Decode many files of latents to audio.

    The samples of each input are those of `Model.decode`, in the sample format of the file. A
    repeated run processes only inputs that are missing from the output or have changed.

    Parameters
    ----------
    source, out, model, layout, shard_items, share, unit, threads, workers, scheduler, client,
    strict, progress, on_cluster
        As for `encode`.
    audio : {"wav", "flac"}
        The format of the audio files.
    bits : {"16", "24", "float"}
        The sample format. FLAC does not support ``float``.
    order : {"tc", "ct"}, optional
        Axis order of the latents: (time, channels), or (channels, time) as `encode` writes them.
        This is needed only if an array's shape fits both orders.
    backend : str
        Where to decode, as for `oobleck_stream.load`.

    Returns
    -------
    Report

    Raises
    ------
    InputError, CheckpointError, ValueError, OSError
        As for `encode`.
    """
    plan = plan_decode(
        source,
        out,
        model,
        layout=layout,
        audio=audio,
        bits=bits,
        order=order,
        shard_items=shard_items,
        share=share,
        unit=unit,
        threads=threads,
        backend=backend,
    )
    return run_plan(plan, workers, scheduler, client, strict, progress, on_cluster)


def plan_encode(
    source: Address,
    out: Address,
    model: Address = "tiny",
    *,
    layout: Layout = "files",
    dtype: Literal["float32", "float16"] = "float32",
    sample: bool = False,
    seed: int = 0,
    crop: float | None = None,
    split: float | None = None,
    pad: bool = False,
    shard_items: int = 1000,
    share: tuple[int, int] | None = None,
    unit: float = UNIT_SECONDS,
    threads: int = 1,
) -> Plan:
    """Return the tasks of `encode`, for programs that run them themselves.

    Returns
    -------
    Plan

    Examples
    --------
    Run the tasks in a pool of processes, or with any other function like ``map``::

        plan = ob.dataset.plan_encode("music", "latents")
        with ProcessPoolExecutor() as pool:
            report = plan.rounds(lambda tasks: pool.map(plan.run, tasks))
    """
    if crop is not None and split is not None:
        raise ValueError("crop and split can't be combined")
    if pad and crop is None and split is None:
        raise ValueError("pad needs crop or split")
    network = load(model)
    settings = Settings(
        "encode",
        layout,
        fingerprint(network, "encode"),
        dtype=dtype,
        sample=sample,
        seed=seed if sample else 0,
        crop=_frames("crop", crop, network),
        split=_frames("split", split, network),
        pad=pad,
    )
    job = _job(out, model, settings, unit, threads, network)
    sources = find_sources(os.fspath(source), AUDIO_SUFFIXES, os.fspath(out))
    return Plan(job, sources, _positive("shard_items", shard_items), share)


def plan_decode(
    source: Address,
    out: Address,
    model: Address = "tiny",
    *,
    layout: Layout = "files",
    audio: Literal["wav", "flac"] = "wav",
    bits: Literal["16", "24", "float"] = "16",
    order: AxisOrder | None = None,
    shard_items: int = 1000,
    share: tuple[int, int] | None = None,
    unit: float = UNIT_SECONDS,
    threads: int = 1,
    backend: str = "cpu",
) -> Plan:
    """Return the tasks of `decode`, for programs that run them themselves. See `plan_encode`."""
    if audio == "flac" and bits == "float":
        raise ValueError("flac files have samples of 16 or 24 bits, not float")
    network = load(model, backend=backend)
    settings = Settings(
        "decode", layout, fingerprint(network, "decode"), audio=audio, bits=bits, order=order
    )
    job = _job(out, model, settings, unit, threads, network, backend)
    sources = find_sources(os.fspath(source), LATENT_SUFFIXES, os.fspath(out), strip=True)
    return Plan(job, sources, _positive("shard_items", shard_items), share)


def run_plan(
    plan: Plan,
    workers: int | None = None,
    scheduler: str | None = None,
    client: Any = None,
    strict: bool = False,
    progress: Callable[[Progress], None] | None = None,
    on_cluster: Callable[[str], None] | None = None,
) -> Report:
    """Run a plan and return the report. The other parameters are those of `encode`."""
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, not {workers}")
    count = None
    with ExitStack() as stack:
        if client is None and scheduler is not None:
            client = stack.enter_context(engines.remote_cluster(scheduler))
        elif client is None and workers != 0 and plan.status.inputs:
            engines.require_dask()
            # The first load on this machine fills the caches, which all workers then share.
            engines.warm(plan.job)
            count = workers or max(1, engines.default_workers() // plan.job.threads)
            client = stack.enter_context(engines.local_cluster(count))
        if client is None:
            return execute(plan, engines.InProcess(plan.run), strict, progress)
        if on_cluster is not None:
            on_cluster(client.dashboard_link)
        if count is None:
            engines.warm_hosts(client, plan.job)
        return execute(plan, engines.DaskEngine(client, plan.run, count), strict, progress)


def _job(
    out: Address,
    model: Address,
    settings: Settings,
    unit: float,
    threads: int,
    network: Model,
    backend: str = "cpu",
) -> Job:
    require_packages(settings.layout)
    frames = _frames("unit", unit, network)
    assert frames is not None
    return Job(
        _absolute(out),
        _absolute(model) if Path(model).exists() else os.fspath(model),
        settings,
        frames,
        _positive("threads", threads),
        backend,
    )


def _absolute(address: Address) -> str:
    """Return the address in a form that does not depend on the process's working folder."""
    text = os.fspath(address)
    return text if is_remote(text) else os.path.abspath(os.path.expanduser(text))


def _frames(name: str, seconds: float | None, model: Model) -> int | None:
    """Convert seconds to a whole number of frames, at least one."""
    if seconds is None:
        return None
    if not 0 < seconds < 1e9:
        raise ValueError(f"{name} must be a positive number of seconds, not {seconds}")
    return max(1, round(seconds * model.config.frame_rate))


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value
