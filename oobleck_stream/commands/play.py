"""`oobleck_stream play`: decode latents and play them live."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.options import (
    backend_option,
    convolution_option,
    layout_option,
    length_option,
    look_ahead_option,
    model_for_latents_option,
    start_option,
    threads_option,
)
from oobleck_stream.commands.values import finite, repetitions, seconds_or

if TYPE_CHECKING:
    from oobleck_stream.config import Convolution
    from oobleck_stream.files.axis_order import AxisOrder
    from oobleck_stream.files.sources import Latents
    from oobleck_stream.model import Model
    from oobleck_stream.player.display import Display
    from oobleck_stream.player.keys import Keys
    from oobleck_stream.player.player import Player
    from oobleck_stream.player.tracks import Track

POLL_SECONDS = 0.1
"""Interval in seconds at which the keys are read and the display is updated."""


@click.command()
@click.argument("latents", nargs=-1, shell_complete=files)
@model_for_latents_option
@layout_option
@threads_option
@backend_option
@convolution_option
@start_option
@length_option
@click.option(
    "--loop",
    "rounds",
    metavar="TIMES|forever",
    default="1",
    show_default=True,
    callback=repetitions,
    help="Number of times to play everything.",
)
@click.option(
    "--seam",
    type=click.Choice(["restart", "blend"]),
    default="restart",
    show_default=True,
    help="With --loop, decode each repetition separately (restart), or decode all repetitions as "
    "one continuous piece (blend; only for one file).",
)
@click.option(
    "--volume",
    type=click.FloatRange(0, 200),
    default=100.0,
    show_default=True,
    callback=finite,
    help="Volume in per cent.",
)
@click.option(
    "--record",
    metavar="FILE",
    shell_complete=files,
    help="Also write the played audio to a .wav, .flac, .ogg, .opus or .mp3 file. With "
    "--look-ahead, the exact audio is written instead.",
)
@look_ahead_option("all of it")
@click.option(
    "--pairing",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="Number of frames that the network's deepest levels compute at once. With 2, latents that "
    "arrive frame by frame take less time to decode, and are heard one frame later.",
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="Number of the output device, or part of its name. [default: the system's device]",
)
@click.option("--list-devices", is_flag=True, help="List the output devices and exit.")
@click.option(
    "--latency",
    metavar="SECONDS|low|high",
    callback=seconds_or("low", "high"),
    help="Latency of the audio device. [default: 0.1, or 0.02 if --look-ahead is given]",
)
@click.option(
    "--buffer",
    metavar="SECONDS",
    callback=seconds_or(),
    help="Maximum duration of audio that is decoded ahead of playback. [default: 1, or if "
    "--look-ahead is given, 0.02 but at least one frame]",
)
@click.option(
    "--prebuffer",
    metavar="SECONDS|all",
    callback=seconds_or("all"),
    help="Duration of audio to decode before playback starts. 'all' decodes everything first, for "
    "machines that are too slow to decode in real time.",
)
@click.option("--quiet", is_flag=True, help="Print only errors.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the status as JSON, one object per line."
)
def play(
    latents: tuple[str, ...],
    model: str | None,
    layout: AxisOrder | None,
    threads: int | None,
    backend: str,
    convolution: Convolution | None,
    start: float,
    length: float | None,
    rounds: float,
    seam: Literal["restart", "blend"],
    volume: float,
    record: str | None,
    look_ahead: Callable[[Model], int] | None,
    pairing: int,
    device: str | None,
    list_devices: bool,
    latency: float | str | None,
    buffer: float | None,
    prebuffer: float | Literal["all"] | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Play LATENTS while decoding them.

    LATENTS are .npy, .npz, .safetensors or .bin files, or - for standard input, which may be an
    .npy stream or raw float32 frames.

    Keys: space pause, left/right 5 s, down/up 60 s, 9/0 volume, m mute, l loop, q quit, ? help.
    """
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.files.sources import STANDARD_INPUT, open_latents
    from oobleck_stream.player.device import find_device
    from oobleck_stream.player.display import display_for
    from oobleck_stream.player.keys import Keys
    from oobleck_stream.player.player import Player

    if list_devices:
        show_devices()
        return
    if not latents:
        raise click.UsageError("nothing to play: LATENTS were expected, or - for standard input")
    if pairing > 1 and look_ahead is not None:
        raise click.UsageError("--pairing 2 can't be combined with --look-ahead")
    sources = [open_latents(name) for name in latents]
    find_device(device)
    network = chosen_model(model, sources[0], backend, convolution)
    tracks = [track_of(source, network, layout, prebuffer == "all") for source in sources]
    if seam == "blend" and rounds > 1:
        tracks, rounds = [blended(sources, network, layout, rounds)], 1
    warm_kernels(quiet, network.backend)
    with (
        Player(
            tracks,
            network,
            device=device,
            look_ahead=None if look_ahead is None else look_ahead(network),
            pairing=pairing,
            latency=latency,
            buffer=buffer,
            prebuffer=prebuffer,
            start=start,
            length=length,
            rounds=rounds,
            volume=volume / 100,
            record=record,
            threads=threads,
        ) as player,
        display_for(quiet, as_json) as display,
        Keys(STANDARD_INPUT not in latents) as keys,
    ):
        run(player, keys, display)
    summarize(player, display)


def show_devices() -> None:
    """List the output devices; a star marks the default."""
    from oobleck_stream.player.device import output_devices

    for device in output_devices():
        star = "*" if device.is_default else " "
        click.echo(
            f"{star} {device.number:3d}  {device.name}  "
            f"({device.channels} channels, {device.samplerate} Hz)"
        )


def track_of(source: Latents, model: Model, layout: AxisOrder | None, read_all: bool) -> Track:
    """Return a track that plays a file or standard input.

    Parameters
    ----------
    source : Latents
    model : Model
    layout : str or None
        Order of the axes of the latents.
    read_all : bool
        Whether to read standard input to its end before playing, instead of playing frames as they
        arrive.
    """
    import numpy as np

    from oobleck_stream.files.latents_reader import LatentFile
    from oobleck_stream.player.tracks import LiveTrack, StoredTrack

    if isinstance(source, LatentFile):
        frames = source.frames(model.latent_dim, layout)
    elif read_all:
        frames = np.concatenate(list(source.blocks(model.latent_dim, layout)))
    else:
        return LiveTrack(source.blocks(model.latent_dim, layout), source.name)
    return StoredTrack(frames, model.decoded_length(len(frames)), source.name)


def blended(sources: list[Latents], model: Model, layout: AxisOrder | None, rounds: float) -> Track:
    """Return a track that repeats the latents of one file as one continuous piece."""
    from oobleck_stream.files.latents_reader import LatentFile
    from oobleck_stream.player.tracks import Repeated, StoredTrack

    source = sources[0]
    if len(sources) > 1 or not isinstance(source, LatentFile):
        raise click.UsageError("--seam blend: one file of latents was expected")
    frames = Repeated(source.frames(model.latent_dim, layout), rounds)
    length = None if math.isinf(rounds) else model.decoded_length(len(frames))
    return StoredTrack(frames, length, source.name)


def run(player: Player, keys: Keys, display: Display) -> None:
    """Play to the end, or until the key q is pressed."""
    import gc

    from oobleck_stream.player.controls import HELP, Quit, press
    from oobleck_stream.player.status import Status

    # A garbage collection holds the GIL. The objects created so far stay in use, so exclude them
    # from the collections during playback.
    gc.freeze()
    player.play()
    display.show_message(_opening(player))
    if keys:
        display.show_message(HELP)
    try:
        while not player.wait(0):
            for key in keys.read(POLL_SECONDS):
                message = press(key, player)
                if message:
                    display.show_message(message)
            display.show(Status.of(player))
    except Quit:
        return


def summarize(player: Player, display: Display) -> None:
    """Report gaps in the audio."""
    if player.underflows:
        display.show_message(
            f"decoding was late {player.underflows} times: {player.silent_seconds:.2f} s of "
            "silence inserted"
        )


def _opening(player: Player) -> str:
    """Return the line that names the tracks, the format and the device."""
    names = ", ".join(track.name for track in player.tracks)
    kind = {1: "mono", 2: "stereo"}.get(player.model.channels, f"{player.model.channels} channels")
    line = f"playing {names}: {player.model.samplerate} Hz {kind} on {player.device.name}"
    return line + (f", resampled to {player.samplerate} Hz" if player.resampled else "")
