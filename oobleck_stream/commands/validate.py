"""`oobleck_stream validate`: compare a network with a reference, and save what it computes.

One command compares and saves, because both need the same forward pass. Each stage is computed
once, and is written and compared before the next stage replaces it in memory.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.options import (
    config_option,
    json_option,
    layout_option,
    model_for_latents_option,
    plot_option,
    require_matplotlib,
    threads_option,
)
from oobleck_stream.commands.values import finite, seconds_or

if TYPE_CHECKING:
    from oobleck_stream.arrays import FloatArray
    from oobleck_stream.files.axis_order import AxisOrder
    from oobleck_stream.model import Model
    from oobleck_stream.validation.check import Reference, Validation
    from oobleck_stream.validation.comparison import RealArray
    from oobleck_stream.validation.folder import Format
    from oobleck_stream.validation.stages import Half

PEERS = ("torch", "diffusers", "stable-audio-tools")
TOLERANCES = {"decoder": 0.05, "encoder": 0.01}
AUDIO_SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".mp3",
    ".aif",
    ".aiff",
    ".opus",
    ".w64",
    ".rf64",
    ".caf",
    ".au",
    ".m4a",
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".aac",
)
FAILED = 1


@click.command()
@click.argument("piece", metavar="INPUT", shell_complete=files)
@click.argument("reference", required=False, shell_complete=files)
@model_for_latents_option
@config_option
@click.option(
    "--half",
    type=click.Choice(["decoder", "encoder"]),
    help="Which half to validate. [default: encoder if INPUT is an audio file, else decoder]",
)
@click.option(
    "--peer",
    type=click.Choice(PEERS),
    help="Run this implementation in float64 as the reference (needs the extra peers).",
)
@click.option("--layers", is_flag=True, help="Compare each stage. REFERENCE is then a folder.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    callback=finite,
    help="Maximum absolute difference. [default: 0.05 for the decoder, 0.01 for the encoder]",
)
@click.option(
    "--align",
    metavar="SECONDS",
    callback=seconds_or(),
    help="Shift REFERENCE by at most this many seconds to the best match, and compare only the "
    "overlap. REFERENCE may then have a different length.",
)
@layout_option
@click.option("--no-pad", is_flag=True, help="Do not pad the audio to a whole number of frames.")
@click.option(
    "--save",
    metavar="FOLDER",
    shell_complete=files,
    help="Write the output to a file in FOLDER; with --layers, one file for each stage.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "bin"]),
    default="npy",
    show_default=True,
    help="Format of the files that --save writes.",
)
@json_option
@plot_option
@threads_option
def validate(
    piece: str,
    reference: str | None,
    model: str | None,
    config: str | None,
    half: Half | None,
    peer: str | None,
    layers: bool,
    tolerance: float | None,
    align: float | None,
    layout: AxisOrder | None,
    no_pad: bool,
    save: str | None,
    form: Format,
    as_json: bool,
    plot: str | None,
    threads: int | None,
) -> None:
    """Compare a network's output for INPUT with REFERENCE.

    The exit status is 1 if the two differ by more than the tolerance.

    For the decoder, INPUT is a file of latents. For the encoder, INPUT is an audio file, or, with
    --half encoder, an .npy or .bin file of samples. REFERENCE is the expected output: an .npy file
    with either order of axes, a .bin file, or an audio file. For the encoder, REFERENCE contains
    the means and scales, or only the means (the latents). --peer runs another implementation, whose
    output takes the place of REFERENCE.

    --layers compares the activations after the input convolution, after each block, after the last
    Snake, and at the output. REFERENCE is then a folder of .npy or .bin files. Their names are
    input_conv, block_1, block_2, ..., final_snake and output; some of them may be missing. --save
    writes such a folder, and needs no reference.
    """
    half = half or ("encoder" if Path(piece).suffix.lower() in AUDIO_SUFFIXES else "decoder")
    if reference and peer:
        raise click.UsageError("REFERENCE and --peer are two references: one was expected")
    if not (reference or peer or save):
        raise click.UsageError("REFERENCE, --peer or --save was expected")
    if reference and layers and Path(reference).is_file():
        raise click.UsageError(f"{reference}: with --layers a folder was expected")
    if align is not None and layers:
        raise click.UsageError("--align compares the output alone, without --layers")
    if no_pad and half == "decoder":
        raise click.UsageError("--no-pad applies only to the encoder")
    if plot:
        _check_plot(plot, bool(reference or peer))

    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.commands.progress import counted
    from oobleck_stream.validation.check import check_stages
    from oobleck_stream.validation.folder import new_folder, saved
    from oobleck_stream.validation.plot import COLUMNS
    from oobleck_stream.validation.stages import (
        half_of,
        layer_outputs,
        means_alone,
        stages,
        whole_output,
    )

    network, source, rows = _opened(piece, model, config, half, layout, no_pad)
    outputs = (layer_outputs if layers else whole_output)(network, rows, half, threads)
    expected: Reference = _no_reference
    means = False
    if peer:
        expected = _peer(peer, source, network, half, rows, layers)
    elif reference:
        any_length = align is not None
        expected, means = _files(
            Path(reference), network, half, len(rows), layers, layout, any_length
        )
    if tolerance is None:
        tolerance = TOLERANCES[half]
    rate = network.samplerate if half == "decoder" else network.config.frame_rate
    most = None if align is None else round(align * rate)
    with contextlib.ExitStack() as stack:
        if layers:
            count = len(stages(half_of(network, half).layers))
            outputs = stack.enter_context(counted(outputs, count, "stages"))
        if save:
            outputs = saved(outputs, stack.enter_context(new_folder(Path(save))), form)
        if means:
            outputs = means_alone(outputs, network.config.latent_scale)
        warm_kernels()
        result = check_stages(outputs, expected, tolerance, COLUMNS if plot else None, most)
    if save:
        click.echo(f"{save}: written", err=True)
    if not (reference or peer):
        return
    about = {
        "model": network.name,
        "half": half,
        "input": piece,
        "reference": reference or peer or "",
    }
    _report(result, tolerance, about, as_json)
    if plot:
        from oobleck_stream.validation.plot import write_plot

        samples = len(rows) if half == "encoder" else network.decoded_length(len(rows))
        title = f"{half} of {network.name} beside {reference or peer}"
        write_plot(result, Path(plot), tolerance, samples / network.samplerate, title)
    if not result.passed:
        click.get_current_context().exit(FAILED)


def _opened(
    piece: str,
    model: str | None,
    config: str | None,
    half: Half,
    layout: AxisOrder | None,
    no_pad: bool,
) -> tuple[Model, str, FloatArray]:
    """Return the model, the source from which it was loaded, and the whole input.

    The input is latents (frames, latent_dim) or audio (samples, channels), float32.
    """
    from oobleck_stream.commands.choice import BUNDLED, chosen_model
    from oobleck_stream.commands.encode import audio_blocks
    from oobleck_stream.files.sources import open_audio, open_latents
    from oobleck_stream.loading import load
    from oobleck_stream.validation.inputs import audio_from_npy, concatenate, pad_to_hop

    latents = open_latents(piece) if half == "decoder" else None
    source = model or (latents and latents.metadata.get("model")) or BUNDLED
    network = load(source, config=config) if config else chosen_model(model, latents)
    if latents is not None:
        return network, source, concatenate(latents.blocks(network.latent_dim, layout))
    if Path(piece).suffix.lower() == ".npy":
        audio = audio_from_npy(Path(piece), network.channels, layout)
    else:
        audio = concatenate(audio_blocks(network, open_audio(piece)))
    return network, source, audio if no_pad else pad_to_hop(audio, network.hop)


def _no_reference(visit: object) -> None:
    """A reference that has no stages, so nothing is compared."""


def _peer(
    peer: str, source: str, network: Model, half: Half, rows: FloatArray, layers: bool
) -> Reference:
    """Return another implementation as the reference.

    The other implementation gets the parameters as the checkpoint stores them. If the source stores
    no such parameters, the other implementation gets the folded parameters of `network`, and a
    message says so.
    """
    from oobleck_stream.validation.peers import peer_reference
    from oobleck_stream.validation.tensors import tensors_for_peer

    tensors, stored = tensors_for_peer(source, network, half)
    if not stored:
        click.echo(f"{peer} gets the folded parameters: {network.name} stores no others", err=True)
    return peer_reference(peer, network.config, half, tensors, rows, layers)


def _files(
    path: Path,
    network: Model,
    half: Half,
    rows: int,
    layers: bool,
    layout: AxisOrder | None,
    any_length: bool,
) -> tuple[Reference, bool]:
    """Return a stored reference, and whether its encoder output contains only the means."""
    from oobleck_stream.validation.folder import read_references, visiting
    from oobleck_stream.validation.stages import OUTPUT, half_of, stage_shapes

    shapes = stage_shapes(half_of(network, half).layers, rows)
    means_dim = network.latent_dim if half == "encoder" else None
    references: dict[str, RealArray] = read_references(
        path, shapes, layout, means_dim, layers, any_length
    )
    means = OUTPUT in references and references[OUTPUT].shape[1] == means_dim
    return visiting(references), means


def _report(result: Validation, tolerance: float, about: dict[str, str], as_json: bool) -> None:
    from oobleck_stream.validation.report import report_facts, report_lines

    if as_json:
        click.echo(json.dumps(about | report_facts(result, tolerance), indent=2, allow_nan=False))
        return
    for line in report_lines(result, tolerance):
        click.echo(line)


def _check_plot(path: str, compared: bool) -> None:
    """Refuse a plot that can't be drawn, before work that may take minutes."""
    from oobleck_stream.validation.plot import SUFFIXES

    if not compared:
        raise click.UsageError("--plot draws differences: REFERENCE or --peer was expected")
    if Path(path).suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"--plot: a name ending in {', '.join(SUFFIXES)} was expected")
    require_matplotlib()
