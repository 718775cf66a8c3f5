"""`oobleck_stream convert`: a checkpoint in another container."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from oobleck_stream.conversion.planning import Conversion, WeightNorm, Wishes
    from oobleck_stream.conversion.targets import Kind, Target
    from oobleck_stream.conversion.writing import Writing

SHOWN = 8
"""Names of tensors that are told one by one; more are told by where they belong."""

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """For an option: a number of bytes, such as 500MB."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+) ?([KMG]?)B?", value.upper())
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"a size such as 500MB was expected, not {value!r}")
    return int(match[1]) * UNITS[match[2]]


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["diffusers", "stable-audio-tools", "protobuf"]),
    help="Make TARGET a folder in this form.",
)
@click.option(
    "--half",
    type=click.Choice(["decoder", "both"]),
    help="What to keep. [default: both where both are there]",
)
@click.option(
    "--weight-norm",
    type=click.Choice(["keep", "fold"]),
    help="Keep it apart where it is, or fold it into the weights. [default: keep]",
)
@click.option(
    "--dtype",
    type=click.Choice(["keep", *DTYPES]),
    help="Of the numbers in the file. [default: keep]",
)
@click.option("--config", metavar="PRESET", help="The network, whatever SOURCE says of it.")
@click.option(
    "--shard-size", metavar="BYTES", callback=_size, help="Of a shard at most. [default: 2GB]"
)
@click.option("--force", is_flag=True, help="Replace TARGET if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
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
    """Write the autoencoder of SOURCE into TARGET, tensor by tensor.

    SOURCE is whatever `--model` takes elsewhere, or a .ckpt, .pt, .pth or .bin file of torch
    (which then has to be installed). TARGET is a .safetensors file with its config inside; a
    .packed.safetensors file (the decoder, made ready for the kernels); a .safetensors.index.json
    with its shards; or a folder, in the form that --to names.
    """
    from oobleck_stream.checkpoints.stored_numbers import stored_bytes
    from oobleck_stream.config import preset
    from oobleck_stream.conversion.planning import plan_conversion
    from oobleck_stream.conversion.targets import target_of
    from oobleck_stream.conversion.writing import SHARD_BYTES, Writing
    from oobleck_stream.loading import open_checkpoint

    place = target_of(target, to)
    if shard_size is not None and place.kind != "sharded":
        raise click.UsageError("--shard-size is of use only for a .safetensors.index.json")
    wishes = _wishes(place, half, weight_norm, dtype)
    try:
        network = None if config is None else preset(config)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--config") from None
    conversion = plan_conversion(*open_checkpoint(source, network), wishes)
    writing = Writing(place, shard_size or SHARD_BYTES, force, source)
    _write(conversion, writing, sum(map(stored_bytes, conversion.tensors)))
    facts = _facts(conversion, writing)
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(facts)))


def _wishes(
    target: Target,
    half: Literal["decoder", "both"] | None,
    weight_norm: WeightNorm | None,
    dtype: str | None,
) -> Wishes:
    """What is asked for, or why it can't be."""
    from oobleck_stream.conversion.planning import Wishes

    encoder = None if half is None else half == "both"
    if target.kind == "packed":
        if encoder or weight_norm == "keep" or dtype not in (None, "keep", "float32"):
            raise click.UsageError("a packed network is a folded decoder in float32, nothing else")
        return Wishes(encoder=False)
    if target.kind == "protobuf" and dtype in ("float16", "bfloat16"):
        raise click.UsageError(f"protobuf has no {dtype}: --dtype keep or float32")
    return Wishes(
        encoder=encoder,
        weight_norm=weight_norm or "keep",
        dtype=DTYPES.get(dtype or "keep"),
        naming="diffusers" if target.kind == "diffusers" else "stable-audio-tools",
        widened=target.kind == "protobuf",
    )


def _write(conversion: Conversion, writing: Writing, size: int) -> None:
    """Write it, with a progress bar when standard error is a terminal."""
    from tqdm import tqdm

    from oobleck_stream.conversion.writing import write_conversion

    with tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        write_conversion(conversion, writing, bar.update)


def _facts(conversion: Conversion, writing: Writing) -> dict[str, Any]:
    """What was done."""
    from oobleck_stream.checkpoints.stored_numbers import DTYPE_BYTES, DTYPE_NAMES
    from oobleck_stream.conversion.writing import missed_by_others

    packed = writing.target.kind == "packed"
    numbers = {}
    for (before, after), count in conversion.dtypes.items():
        after = "F32" if packed else after
        rule = DTYPE_NAMES[before]
        if after != before:
            rounded = DTYPE_BYTES[after] <= DTYPE_BYTES[before]
            rule += f" -> {DTYPE_NAMES[after]}" + (" (rounded)" if rounded else "")
        numbers[rule] = count
    return {
        "target": str(writing.target.path),
        "kind": writing.target.kind,
        "kept": conversion.kept,
        "numbers": numbers,
        "dropped": conversion.dropped,
        "renamed": () if packed else conversion.renamed,
        "notes": (*conversion.notes, *missed_by_others(conversion, writing.target)),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    """For people."""
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
    """Names, or where they belong with a count each where there are many."""
    from collections import Counter

    if len(names) <= SHOWN:
        return ", ".join(names) or "none"
    for depth in (2, 1):
        groups = Counter(".".join(name.split(".")[:depth]) for name in names)
        if len(groups) <= SHOWN // 2:
            break
    shown = [f"{group}.* ({count})" for group, count in groups.most_common(SHOWN)]
    more = len(groups) - len(shown)
    return f"{len(names)}: " + ", ".join(shown) + (f" and {more} more groups" if more else "")
