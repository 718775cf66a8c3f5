"""`oobleck_stream dataset`: encode and decode many files, on one machine or many."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from oobleck_stream.commands.options import backend_option, model_option

if TYPE_CHECKING:
    from oobleck_stream.dataset import Progress, Report

_layout_option = click.option(
    "--layout",
    type=click.Choice(["files", "webdataset", "parquet"]),
    default="files",
    show_default=True,
    help="Layout of OUT. 'files' writes a file per item, or for latents an .npy and a .json file, "
    "as stable-audio-tools reads them. 'webdataset' and 'parquet' write several items per file. "
    "Parquet needs pip install 'oobleck_stream[parquet]'.",
)


def _share(_: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Parse a share such as 3/16 into (3, 16)."""
    if value is None:
        return None
    number, _slash, count = value.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise click.BadParameter(f"a share like 3/16 was expected, not {value!r}", param=parameter)
    return int(number), int(count)


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that control how the work is done."""
    options = (
        click.option(
            "--shard-items",
            metavar="N",
            type=click.IntRange(1),
            default=1000,
            show_default=True,
            help="Approximate number of inputs in each webdataset or parquet file.",
        ),
        click.option(
            "--workers",
            metavar="N",
            type=click.IntRange(0),
            help="Number of processes on this machine; with 0, the work is done in the command's "
            "own process. [default: cores divided by --threads]",
        ),
        click.option(
            "--threads",
            metavar="N",
            type=click.IntRange(1, 256),
            default=1,
            show_default=True,
            help="Threads of each process.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Use the workers of this Dask scheduler, for example tcp://10.0.0.1:8786.",
        ),
        click.option(
            "--shard",
            "share",
            metavar="I/N",
            callback=_share,
            help="Process only the I-th of N shares of the inputs, for instance in a Slurm array. "
            "When all shares are done, run the command once without --shard to finish.",
        ),
        click.option(
            "--unit",
            metavar="SECONDS",
            type=click.FloatRange(0, min_open=True),
            default=60.0,
            show_default=True,
            help="Split longer inputs into tasks of this length. This does not change the output.",
        ),
        click.option("--strict", is_flag=True, help="Stop at the first input that fails."),
        click.option(
            "--json", "as_json", is_flag=True, help="Print JSON lines: progress, then a summary."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(short_help="Encode or decode many files, on one machine or many.")
def dataset() -> None:
    """Encode or decode many files, on one machine or many.

    IN is a folder, which is searched recursively; a list (.txt or .lst with a path in each line,
    .jsonl with objects that have a "path"); a glob pattern in quotes; one file; or an address such
    as s3://bucket/folder (needs the extra fsspec and the package for the protocol). OUT is a folder
    or such an address.

    A repeated command does only what is missing or has changed, so run the same command again to
    continue after any interruption. An output appears only when it is complete. OUT/manifest.jsonl
    has a line for each item, with its hashes and conversions, or with the error.

    Several processes need the extra dask. Exit status: 0 if all inputs are done, 1 if some failed
    or an output could not be written.
    """


@dataset.command()
@click.argument("source", metavar="IN")
@click.argument("out")
@model_option
@_layout_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="dtype of the stored latents.",
)
@click.option(
    "--sample",
    is_flag=True,
    help="Draw the latents from their distributions instead of taking the means.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0),
    help="Random seed for --sample; the noise also depends on the name of each input. [default: 0]",
)
@click.option(
    "--crop",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Encode only the first SECONDS of each input. [default: all of it]",
)
@click.option(
    "--split",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Cut each input into items of this length. The last item may be shorter. [default: one "
    "item]",
)
@click.option(
    "--pad",
    is_flag=True,
    help="Append silence to the audio before encoding, up to the length of --crop, or up to a "
    "multiple of --split.",
)
@_run_options
def encode(seed: int | None, as_json: bool, **options: Any) -> int:
    """Encode the audio files of IN to latents in OUT.

    Audio is resampled to the network's sample rate. Mono is copied to all channels of the network,
    and stereo is averaged for a mono network; other numbers of channels are refused. Nothing is
    normalized. The last frame is padded with zeros. --crop and --split cut the latents, not the
    audio, so the frames are the same as without these options. The manifest says how each input was
    converted, cropped and padded.
    """
    if seed is not None and not options["sample"]:
        raise click.UsageError("--seed requires --sample")
    if options["crop"] is not None and options["split"] is not None:
        raise click.UsageError("--crop and --split can't be combined")
    if options["pad"] and options["crop"] is None and options["split"] is None:
        raise click.UsageError("--pad requires --crop or --split")
    from oobleck_stream.dataset import encode as run

    return _run(functools.partial(run, seed=seed or 0), as_json, options)


@dataset.command()
@click.argument("source", metavar="IN")
@click.argument("out")
@model_option
@_layout_option
@click.option(
    "--audio",
    type=click.Choice(["wav", "flac"]),
    default="wav",
    show_default=True,
    help="Format of the audio.",
)
@click.option(
    "--bits",
    type=click.Choice(["16", "24", "float"]),
    default="16",
    show_default=True,
    help="Sample format. The format float (only for wav) is exact and never clips.",
)
@click.option(
    "--order",
    type=click.Choice(["tc", "ct"]),
    help="Order of the axes of the latents, needed if a shape fits both orders: tc is (frames, "
    "latent size), ct is (latent size, frames), as `dataset encode` writes them.",
)
@backend_option
@_run_options
def decode(as_json: bool, **options: Any) -> int:
    """Decode the latents of IN (.npy, .npz, .safetensors, .bin) to audio files in OUT."""
    if options["audio"] == "flac" and options["bits"] == "float":
        raise click.UsageError("--bits float requires --audio wav")
    from oobleck_stream.commands.choice import resolve_backend
    from oobleck_stream.dataset import decode as run

    options["backend"] = resolve_backend(options["backend"])
    return _run(run, as_json, options)


def _run(run: Callable[..., Report], as_json: bool, options: dict[str, Any]) -> int:
    """Run with a display of the progress; print the summary and return the exit status."""
    from oobleck_stream.commands.choice import BUNDLED
    from oobleck_stream.commands.compiling import report_compiling

    options["model"] = options["model"] or BUNDLED
    shown: _JsonLines | _Display = _JsonLines() if as_json else _Display()
    with shown, report_compiling():
        report = run(progress=shown.tell, on_cluster=shown.cluster, **options)
    shown.summary(report, options["out"])
    return 1 if report.failed else 0


class _Display:
    """A progress bar and messages on standard error."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            unit="B",
            unit_scale=True,
            disable=None,
            leave=False,
            bar_format="{l_bar}{bar}| {n_fmt}B of {total_fmt}B [{postfix}]",
        )

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def cluster(self, link: str) -> None:
        """Print the address of the dashboard."""
        import importlib.util

        missing = importlib.util.find_spec("bokeh") is None
        hint = " (its pages need bokeh: pip install bokeh)" if missing else ""
        self._bar.write(f"dashboard: {link}{hint}", file=sys.stderr)

    def tell(self, progress: Progress) -> None:
        """Display the progress, and print the error of each input that failed."""
        status = progress.status
        for line in progress.failures:
            self._bar.write(line.error, file=sys.stderr)
        left = progress.seconds_left
        self._bar.total = max(1, status.total_bytes)
        self._bar.n = min(status.bytes, status.total_bytes)
        self._bar.set_postfix_str(
            f"{status.done + status.failed} of {status.inputs} inputs, {status.failed} failed, "
            f"{progress.speed:.1f} x real time, {progress.workers} workers, "
            + ("?" if left is None else self._bar.format_interval(left))
            + " left"
        )

    def summary(self, report: Report, out: str) -> None:
        """Print what was done."""
        speed = report.seconds / max(1e-9, report.wall_seconds)
        gone = f", {report.gone} older items have no input any more" if report.gone else ""
        click.echo(
            f"{out}: {report.done} of {report.inputs} inputs done, {report.kept} were done before, "
            f"{len(report.failed)} failed{gone}; {report.seconds:.1f} s, {speed:.1f} x real time",
            err=True,
        )


class _JsonLines:
    """JSON lines on standard output."""

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cluster(self, link: str) -> None:
        """Print the address of the dashboard."""
        self._print("cluster", dashboard=link)

    def tell(self, progress: Progress) -> None:
        """Print the error of each input that failed, then the progress."""
        for line in progress.failures:
            self._print("failed", source=line.source, status=line.status, error=line.error)
        self._print(
            "progress",
            **dataclasses.asdict(progress.status),
            wall_seconds=round(progress.wall_seconds, 3),
            speed=round(progress.speed, 3),
            seconds_left=progress.seconds_left,
            workers=progress.workers,
        )

    def summary(self, report: Report, out: str) -> None:
        """Print what was done."""
        values = dataclasses.asdict(report) | {"failed": len(report.failed)}
        self._print("summary", out=out, **values)

    def _print(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}))
