"""`oobleck_stream serve`: decode live for browsers and programs."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oobleck_stream.commands.completion import files
from oobleck_stream.commands.options import (
    backend_option,
    layout_option,
    look_ahead_option,
    model_for_latents_option,
    threads_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from oobleck_stream.files.axis_order import AxisOrder
    from oobleck_stream.files.latents_reader import LatentFile
    from oobleck_stream.model import Model
    from oobleck_stream.server.serving import Serving

DEFAULT_PORT = 8765
MODULES = ("starlette", "uvicorn", "websockets", "prometheus_client")


@click.command()
@click.argument("latents", nargs=-1, shell_complete=files)
@model_for_latents_option
@layout_option
@threads_option
@backend_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. 0.0.0.0 means all addresses of this machine.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on. 0 means any free port.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Number of streams to decode at once. [default: as many as this machine can decode in "
    "real time, measured at the start]",
)
@click.option(
    "--load",
    type=click.FloatRange(0.05, 1.0),
    default=0.85,
    show_default=True,
    help="Maximum share of real time for decoding all streams, at the speed measured at the start. "
    "Without effect if --slots is given.",
)
@look_ahead_option("25%; for the page's instrument and clients that ask for early sound")
@click.option(
    "--token",
    metavar="TOKEN|none",
    default="auto",
    help="Secret that clients must send. [default: none if --host is a local address, else a new "
    "random secret]",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Another site whose pages may use the server, or the server's public address behind a "
    "proxy, such as https://example.com. This option may be repeated.",
)
@click.option(
    "--tls-cert", type=click.Path(exists=True, dir_okay=False), help="Certificate for https."
)
@click.option(
    "--tls-key", type=click.Path(exists=True, dir_okay=False), help="Key of the certificate."
)
@click.option(
    "--osc",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="UDP port for OSC messages that control the page's instrument (needs the extra osc).",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the address and /v1/info as JSON.")
def serve(
    latents: tuple[str, ...],
    model: str | None,
    layout: AxisOrder | None,
    threads: int | None,
    backend: str,
    host: str,
    port: int,
    slots: int | None,
    load: float,
    look_ahead: Callable[[Model], int] | None,
    token: str,
    origins: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    osc: int | None,
    open_page: bool,
    as_json: bool,
) -> None:
    """Serve a web page that plays LATENTS live, and a decoding API.

    Without LATENTS, the bundled pieces are served if the network is tiny. With another network, the
    server only decodes what clients send. The page's help, /help, describes the interface for
    programs. Ctrl-C ends the server.
    """
    require_extras(osc)
    if (tls_key is None) != (tls_cert is None):
        raise click.UsageError("--tls-cert and --tls-key are used together")
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s]+/?", origin):
            raise click.BadParameter(
                f"an address like https://example.com was expected, not {origin}",
                param_hint="--allow-origin",
            )
    from oobleck_stream.commands.choice import chosen_model
    from oobleck_stream.commands.compiling import warm_kernels
    from oobleck_stream.files.latents_reader import read_latents
    from oobleck_stream.server.serving import EARLY_SHARE, Options, Serving, serve_forever

    files = [read_latents(name) for name in latents]
    network = chosen_model(model, files[0] if files else None, backend)
    pieces = named_pieces(files, network, layout)
    warm_kernels(as_json, network.backend)
    early = round(EARLY_SHARE * network.latency) if look_ahead is None else look_ahead(network)
    options = Options(
        host=host,
        port=port,
        slots=slots,
        load=load,
        threads=threads,
        look_ahead=early,
        token=None if token == "none" else token,
        origins=origins,
        certificate=tls_cert,
        key=tls_key,
        osc=osc,
    )
    serving = Serving.of(network, pieces, options)
    serve_forever(serving, lambda: announce(serving, open_page, as_json))


def require_extras(osc: int | None) -> None:
    """Raise `click.UsageError` if a package that the server needs is not installed."""
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise click.UsageError(
            f"serve needs {', '.join(missing)}: pip install 'oobleck_stream[web]'"
        )
    if osc is not None and importlib.util.find_spec("pythonosc") is None:
        raise click.UsageError("--osc needs python-osc: pip install 'oobleck_stream[osc]'")


def named_pieces(
    files: list[LatentFile], model: Model, layout: AxisOrder | None
) -> dict[str, npt.NDArray[Any]]:
    """Return the frames of each file, keyed by the name that clients use.

    If there are no files and the model is ``tiny``, the bundled pieces are returned.
    """
    from oobleck_stream.commands.choice import BUNDLED
    from oobleck_stream.pieces import PIECES, piece
    from oobleck_stream.server.protocol import INSTRUMENT, PUSH

    if not files and model.name == BUNDLED:
        return {name: piece(name) for name in PIECES}
    pieces: dict[str, npt.NDArray[Any]] = {}
    for file in files:
        stem = re.sub(r"[^\w.\- ]", "_", Path(file.name).stem)[:56] or "piece"
        name, number = stem, 2
        while name in pieces or name in (PUSH, INSTRUMENT):
            name, number = f"{stem}-{number}", number + 1
        pieces[name] = file.frames(model.latent_dim, layout)
    return pieces


def announce(serving: Serving, open_page: bool, as_json: bool) -> None:
    """Print the address and how many streams can be decoded. Open the page if requested."""
    import webbrowser

    from oobleck_stream.server.info import server_info

    hub = serving.hub
    info = server_info(hub)
    if as_json:
        click.echo(json.dumps({"url": serving.url, **info}))
    else:
        names = ", ".join(hub.pieces) or "none; clients send their latents"
        click.echo(f"open {serving.url}")
        click.echo(
            f"{hub.model.name}: {hub.model.samplerate} Hz; pieces: {names}; "
            f"{len(hub.seats.sessions)} streams at once; Ctrl-C ends the server",
            err=True,
        )
        share = hub.load.share(1)
        if share > 1:
            click.echo(
                f"this machine needs {share:.1f} s for a second of sound: one stream is decoded, "
                "with gaps",
                err=True,
            )
    if open_page:
        webbrowser.open(serving.url)
