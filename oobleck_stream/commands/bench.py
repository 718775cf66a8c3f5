"""`oobleck_stream bench`: measure how fast this machine decodes and encodes."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from oobleck_stream.commands.bench_dataset import dataset
from oobleck_stream.commands.completion import models
from oobleck_stream.commands.options import (
    backend_option,
    json_option,
    look_ahead_option,
    plot_option,
    require_matplotlib,
    threads_option,
)
from oobleck_stream.commands.values import counts, finite
from oobleck_stream.config import PRESETS

if TYPE_CHECKING:
    from oobleck_stream.model import Model
    from oobleck_stream.validation.stages import Half

DEFAULT_PRESET = "stable-audio-open-1.0"
DEFAULT_COMMAND = "run"


class _DefaultGroup(click.Group):
    """A group that runs `DEFAULT_COMMAND` if the first argument is missing or is an option."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        asks_for_help = arguments[:1] and arguments[0] in self.get_help_option_names(context)
        completes = context.resilient_parsing
        if not (asks_for_help or completes) and (not arguments or arguments[0].startswith("-")):
            arguments = [DEFAULT_COMMAND, *arguments]
        return super().parse_args(context, arguments)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)  # in the order of definition, not in alphabetical order


@click.group(
    cls=_DefaultGroup,
    subcommand_metavar="[COMMAND] [ARGS]...",
    short_help="Measure how fast this machine decodes and encodes.",
)
def bench() -> None:
    """Measure how fast this machine decodes and encodes.

    Without COMMAND, `run` is used: `bench --seconds 10` means `bench run --seconds 10`.

    Every command except `play`, `serve` and `dataset` measures its cases in turn, in at least three
    rounds, so that other load on the machine affects all cases alike. RTF, the real-time factor, is
    seconds of computing per second of audio.
    """


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --preset, --model and --width, and pass the chosen model as `network`."""

    @click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        metavar="PRESET",
        help=f"Use this geometry, with random weights. [default: {DEFAULT_PRESET}]",
    )
    @click.option(
        "--model",
        metavar="MODEL",
        shell_complete=models,
        help="Use this model, named as for `decode`.",
    )
    @click.option(
        "--width",
        metavar="N",
        type=click.IntRange(1),
        help="Number of channels of the level at the audio's sample rate. The other levels have "
        "multiples of this number. [default: as in the preset]",
    )
    @functools.wraps(command)
    def with_network(
        preset: str | None, model: str | None, width: int | None, **options: Any
    ) -> None:
        if model and (preset or width):
            raise click.UsageError("--model can't be combined with --preset or --width")
        command(network=_Network(model, preset or DEFAULT_PRESET, width), **options)

    return with_network


@dataclasses.dataclass(frozen=True)
class _Network:
    """The model to measure: a checkpoint, or a preset with random weights."""

    model: str | None
    preset: str
    width: int | None

    def load(self, backend: str = "cpu") -> Model:
        from oobleck_stream.loading import load
        from oobleck_stream.random_weights import random_model

        if self.model is not None:
            return load(self.model, backend=backend)
        if self.width is None:
            return random_model(self.preset, backend=backend)
        config = PRESETS[self.preset].replace(channels=self.width)
        name = f"random {self.preset} of width {self.width}"
        return dataclasses.replace(random_model(config, backend=backend), name=name)


_seconds_option = click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    callback=finite,
    help="Approximate duration of the measurement.",
)
_pushes_option = click.option(
    "--pushes",
    metavar="N,N,...",
    callback=counts,
    default="1,4,16",
    show_default=True,
    help="Measure pushes of these numbers of frames.",
)
_batch_option = click.option(
    "--batch",
    metavar="N",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Number of frames in the batch, all of which are processed at once.",
)


def _rounds_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the commands that measure pushes and batches."""
    options = (_model_options, _pushes_option, _batch_option, threads_option)
    for option in reversed((*options, _seconds_option, json_option, plot_option)):
        command = option(command)
    return command


@bench.command()
@_rounds_options
@backend_option
def run(backend: str, plot: str | None, **options: Any) -> None:
    """Measure pushes and batches, and this machine's limits.

    The limits are the cores' peak rate of fused multiply-adds and the memory's read bandwidth.
    """
    if backend != "cpu" and plot:
        raise click.UsageError(f"--plot needs --backend cpu, not {backend}")
    _measure_rounds(backend=backend, plot=plot, **options)


@bench.command()
@_rounds_options
def layers(**options: Any) -> None:
    """Measure everything that `run` measures, and the time of each layer."""
    _measure_rounds(layers=True, **options)


@bench.command()
@_rounds_options
def peers(**options: Any) -> None:
    """Measure everything that `run` measures, and other runtimes (needs the extra peers).

    The other runtimes are PyTorch (with diffusers), ONNX Runtime and OpenVINO. Those that are not
    installed are skipped.
    """
    _measure_rounds(peers=True, **options)


@bench.command()
@_rounds_options
def encoder(**options: Any) -> None:
    """Measure encoding, and other runtimes (needs the extra peers).

    A push of N frames consists of the audio of N frames. The streaming encoder encodes only this
    audio, but the other runtimes also have to encode the context on both sides of it. The batch is
    a whole piece, which is encoded at once. The machine's limits are measured as by `run`, and the
    other runtimes are those of `peers`.
    """
    _measure_rounds(half="encoder", peers=True, **options)


def _measure_rounds(
    network: _Network,
    pushes: list[int],
    batch: int,
    threads: int | None,
    seconds: float,
    as_json: bool,
    plot: str | None,
    backend: str = "cpu",
    layers: bool = False,
    peers: bool = False,
    half: Half = "decoder",
) -> None:
    if plot:
        require_matplotlib()
    from oobleck_stream.bench.report import report_lines
    from oobleck_stream.bench.run import run_benchmark
    from oobleck_stream.commands.choice import resolve_backend
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.engine.backends import default_threads

    backend = resolve_backend(backend)
    facts = run_benchmark(
        functools.partial(network.load, backend),
        functools.partial(warm_kernels, backend=backend),
        threads or default_threads(),
        pushes,
        batch,
        seconds,
        layers=layers,
        peers=peers,
        half=half,
    )
    _print(facts, report_lines, as_json)
    if plot:
        from oobleck_stream.bench.plot import write_plot

        write_plot(facts, plot)


@bench.command()
@click.option(
    "--counts",
    "stream_counts",
    metavar="N,N,...",
    callback=counts,
    default="1,4,16",
    show_default=True,
    help="Measure these numbers of streams.",
)
@_model_options
@threads_option
@backend_option
@_seconds_option
@json_option
def streams(
    network: _Network,
    stream_counts: list[int],
    threads: int | None,
    backend: str,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure how many streams one decoder can decode in real time.

    Each push has one frame for every stream.
    """
    from oobleck_stream.bench.streams import stream_facts, stream_lines
    from oobleck_stream.commands.choice import resolve_backend
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.engine.backends import default_threads

    backend = resolve_backend(backend)
    warm_kernels(backend=backend)
    model = network.load(backend)
    facts = stream_facts(model, threads or default_threads(), stream_counts, seconds)
    _print(facts, stream_lines, as_json)


@bench.command()
@_model_options
@threads_option
@backend_option
@look_ahead_option("none: random frames are played")
@_seconds_option
@json_option
def play(
    network: _Network,
    threads: int | None,
    backend: str,
    look_ahead: Callable[[Model], int] | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Play random frames live, and measure delays and gaps.

    The frames are played on the default audio device for --seconds. If PulseAudio's parec is
    installed, the time from the request to the first sound is measured too.

    With --look-ahead, the command instead changes the latents during playback, and measures the
    time from each change to the first changed sample that parec records.
    """
    from oobleck_stream.bench.playing import play_facts, play_lines
    from oobleck_stream.bench.reaction import reaction_facts, reaction_lines
    from oobleck_stream.commands.choice import resolve_backend
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.engine.backends import default_threads

    backend = resolve_backend(backend)
    warm_kernels(backend=backend)
    model, threads = network.load(backend), threads or default_threads()
    if look_ahead is not None:
        facts = reaction_facts(model, threads, seconds, look_ahead(model))
        _print(facts, reaction_lines, as_json)
        return
    _print(play_facts(model, threads, seconds), play_lines, as_json)


@bench.command("look-ahead")
@_model_options
@threads_option
@look_ahead_option("10, 25 and 50%")
@_seconds_option
@json_option
def look_ahead(
    network: _Network,
    threads: int | None,
    look_ahead: Callable[[Model], int] | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure the time of one-frame pushes with a shorter look-ahead.

    Pushes with 10, 25 and 50 % of the network's look-ahead, or only with the given --look-ahead,
    are compared with exact pushes. For the loss of quality, see `oobleck_stream look-ahead`.
    """
    from oobleck_stream.bench.look_ahead import cost_facts, cost_lines
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.engine.backends import default_threads

    warm_kernels()
    model = network.load()
    samples = [round(share * model.latency) for share in (0.1, 0.25, 0.5)]
    if look_ahead is not None:
        samples = [look_ahead(model)]
    _print(cost_facts(model, samples, threads or default_threads(), seconds), cost_lines, as_json)


@bench.command()
@click.option(
    "--model",
    metavar="MODEL",
    default="tiny",
    show_default=True,
    help="Network, as for `decode`.",
)
@click.option(
    "--sessions",
    metavar="N",
    type=click.IntRange(1),
    help="Number of clients that play at once. [default: as many as the server admits]",
)
@click.option(
    "--slots",
    metavar="N",
    type=click.IntRange(1),
    help="As for `serve`. [default: as many as this machine can decode in real time]",
)
@click.option(
    "--listeners",
    metavar="N",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Number of clients that listen to one shared session, after the other measurements.",
)
@click.option(
    "--buffer",
    metavar="SECONDS",
    type=click.FloatRange(0.05, 5.0),
    default=0.3,
    show_default=True,
    help="Duration of sound that each client buffers.",
)
@threads_option
@_seconds_option
@json_option
def serve(
    model: str,
    sessions: int | None,
    slots: int | None,
    listeners: int,
    buffer: float,
    threads: int | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure the server with real clients on this machine (needs the extra web).

    The command starts `oobleck_stream serve` in a separate process. It measures the time to the
    first sound, the gaps in the sound, and how quickly a full server refuses a new client. It also
    measures the server's ticks, the pushes in these ticks, and the same pushes without a server. A
    tick decodes one block of sound for every client that needs one.
    """
    import tempfile
    from pathlib import Path

    import numpy as np

    from oobleck_stream.bench.serving import PIECE_SECONDS, serve_facts, serve_lines
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.commands.serve import require_extras
    from oobleck_stream.loading import load

    require_extras(None)
    warm_kernels()
    network = load(model)
    frames = round(PIECE_SECONDS * network.config.frame_rate)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "piece.npy")
        noise = np.random.default_rng(0).standard_normal((frames, network.latent_dim), np.float32)
        np.save(file, noise)
        arguments = [file, "--model", model, "--layout", "tc"]
        for name, value in (("--slots", slots), ("--threads", threads)):
            arguments += [] if value is None else [name, str(value)]
        facts = serve_facts(network, arguments, sessions, listeners, buffer, seconds, threads)
    _print(facts, serve_lines, as_json)


@bench.command()
@click.option(
    "--width",
    metavar="N",
    type=click.IntRange(1),
    help="Channels of the level at the audio's sample rate. [default: as in the preset]",
)
@threads_option
@_seconds_option
@json_option
def components(width: int | None, threads: int | None, seconds: float, as_json: bool) -> None:
    """Check and measure each component of oobleck-65536x.

    The components are the layers and blocks of the preset oobleck-65536x, in which a latent frame
    becomes 65,536 samples. They have random weights. Each component is compared with a plain
    float64 implementation, and then measured.
    """
    from oobleck_stream.bench.component_report import component_lines
    from oobleck_stream.bench.component_times import run_components
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.engine.backends import default_threads

    facts = run_components(warm_kernels, threads or default_threads(), seconds, width)
    _print(facts, component_lines, as_json)


bench.add_command(dataset)


def _print(
    facts: dict[str, Any], lines: Callable[[dict[str, Any]], Iterable[str]], as_json: bool
) -> None:
    """Print the results as JSON, or as lines of text."""
    for line in [json.dumps(facts, indent=2)] if as_json else lines(facts):
        click.echo(line)
