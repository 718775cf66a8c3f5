"""`oobleck_stream convert`: write a checkpoint in another container."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from oobleck_stream.commands.completion import models
from oobleck_stream.commands.options import config_option, json_option

if TYPE_CHECKING:
    from oobleck_stream.conversion.planning import Conversion, ConversionOptions, WeightNorm
    from oobleck_stream.conversion.targets import Kind, Target
    from oobleck_stream.conversion.writing import Writing

MAX_SHOWN = 8
"""If more than this many tensors are dropped, groups of them are listed instead of their names."""

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Parse a number of bytes, such as 500MB."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+) ?([KMG]?)B?", value.upper())
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"a size such as 500MB was expected, not {value!r}")
    return int(match[1]) * UNITS[match[2]]


@click.command()
@click.argument("source", shell_complete=models)
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["diffusers", "stable-audio-tools", "protobuf"]),
    help="Write TARGET as a folder in this format.",
)
@click.option(
    "--half",
    type=click.Choice(["decoder", "both"]),
    help="Which half of the autoencoder to keep. [default: all that SOURCE has]",
)
@click.option(
    "--weight-norm",
    type=click.Choice(["keep", "fold"]),
    help="Keep weight norm as it is stored, or fold it into the weights. [default: keep]",
)
@click.option(
    "--dtype",
    type=click.Choice(["keep", "float32", "float16", "bfloat16"]),
    help="dtype of the stored weights. [default: keep]",
)
@config_option
@click.option(
    "--shard-size", metavar="BYTES", callback=_size, help="Maximum size of a shard. [default: 2GB]"
)
@click.option("--force", is_flag=True, help="Replace TARGET if it already exists.")
@json_option
def convert(
    source: str,
    target: Path,
    to: Kind | None,
    half: Literal["decoder", "both"] | None,
    weight_norm: WeightNorm | None,
    dtype: str | None,
    config: str | None,
    shard_size: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint SOURCE to TARGET.

    SOURCE is anything that --model accepts in other commands or, if PyTorch is installed, a .ckpt,
    .pt, .pth or .bin file of PyTorch.

    TARGET is one of

    \b
      NAME.safetensors             all tensors, with the config in the metadata
      NAME.packed.safetensors      only the decoder, packed for the kernels
      NAME.safetensors.index.json  an index, and shards beside it
      FOLDER                       a folder in the format of --to

    The command prints which tensors were kept, dropped and renamed. Without options, TARGET and
    SOURCE decode latents to bit-identical audio.
    """
    from oobleck_stream.config import PRESETS
    from oobleck_stream.conversion.planning import plan_conversion
    from oobleck_stream.conversion.targets import target_of
    from oobleck_stream.conversion.writing import SHARD_BYTES, Writing
    from oobleck_stream.loading import open_checkpoint

    destination = target_of(target, to)
    if shard_size is not None and destination.kind != "sharded":
        raise click.UsageError("--shard-size requires a TARGET ending in .safetensors.index.json")
    options = _options(destination, half, weight_norm, dtype)
    network = None if config is None else PRESETS[config]
    conversion = plan_conversion(*open_checkpoint(source, network), options)
    writing = Writing(destination, shard_size or SHARD_BYTES, force, source)
    _write(conversion, writing, sum(tensor.size_in_bytes for tensor in conversion.tensors))
    facts = _facts(conversion, writing)
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(facts)))


def _options(
    target: Target,
    half: Literal["decoder", "both"] | None,
    weight_norm: WeightNorm | None,
    dtype: str | None,
) -> ConversionOptions:
    """Return the conversion's options. Raise `click.UsageError` if they don't suit the target."""
    from oobleck_stream.conversion.planning import ConversionOptions
    from oobleck_stream.formats.dtypes import code_of

    encoder = None if half is None else half == "both"
    if target.kind == "packed":
        if encoder or weight_norm == "keep" or dtype not in (None, "keep", "float32"):
            raise click.UsageError(
                "a .packed.safetensors file is always a folded decoder in float32"
            )
        return ConversionOptions(encoder=False)
    if target.kind == "protobuf" and dtype in ("float16", "bfloat16"):
        raise click.UsageError(
            f"protobuf can't store {dtype}: --dtype keep or float32 was expected"
        )
    return ConversionOptions(
        encoder=encoder,
        weight_norm=weight_norm or "keep",
        dtype=code_of(dtype or "keep"),
        naming="diffusers" if target.kind == "diffusers" else "stable-audio-tools",
        widen=target.kind == "protobuf",
    )


def _write(conversion: Conversion, writing: Writing, size: int) -> None:
    """Write the target, with a progress bar if standard error is a terminal."""
    from tqdm import tqdm

    from oobleck_stream.conversion.writing import write_conversion

    with tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        write_conversion(conversion, writing, bar.update)


def _facts(conversion: Conversion, writing: Writing) -> dict[str, Any]:
    """Return the facts about the conversion that are printed."""
    from oobleck_stream.conversion.writing import missing_for_library
    from oobleck_stream.formats.dtypes import BITS, FLOATS

    packed = writing.target.kind == "packed"
    numbers = {}
    for (before, after), count in conversion.dtypes.items():
        after = "F32" if packed else after
        rule = FLOATS[before].name
        if after != before:
            rounded = BITS[after] <= BITS[before]
            rule += f" -> {FLOATS[after].name}" + (" (rounded)" if rounded else "")
        numbers[rule] = count
    return {
        "target": str(writing.target.path),
        "kind": writing.target.kind,
        "kept": conversion.kept,
        "numbers": numbers,
        "dropped": conversion.dropped,
        "renamed": () if packed else conversion.renamed,
        "notes": (*conversion.notes, *missing_for_library(conversion, writing.target)),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    """Format the facts as lines of text."""
    kept = " and ".join(f"{count} of the {half}" for half, count in facts["kept"].items())
    numbers = ", ".join(f"{count} {rule}" for rule, count in facts["numbers"].items())
    return [
        f"{facts['target']}: {facts['kind']}",
        f"kept       {kept}",
        f"dropped    {_dropped(facts['dropped'])}",
        *(f"renamed    {rule}" for rule in facts["renamed"] or ["none"]),
        f"numbers    {numbers}",
        *(f"note       {note}" for note in facts["notes"]),
    ]


def _dropped(names: tuple[str, ...]) -> str:
    """Format the dropped tensors: their names, or counts by prefix if there are many."""
    from collections import Counter

    if len(names) <= MAX_SHOWN:
        return ", ".join(names) or "none"
    for depth in (2, 1):
        groups = Counter(".".join(name.split(".")[:depth]) for name in names)
        if len(groups) <= MAX_SHOWN // 2:
            break
    shown = [f"{group}.* ({count})" for group, count in groups.most_common(MAX_SHOWN)]
    more = len(groups) - len(shown)
    return f"{len(names)}: " + ", ".join(shown) + (f" and {more} more groups" if more else "")
