"""Where a conversion goes: which files a target is, and how they are put in their place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from oobleck_stream.checkpoints.json_text import parse_json, read_text
from oobleck_stream.checkpoints.packed_file import PACKED_SUFFIX
from oobleck_stream.checkpoints.sharded import INDEX_SUFFIX
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.atomic import (
    atomic_file,
    file_destination,
    private_folder,
    sync_file,
    sync_folder,
)

Kind = Literal["safetensors", "packed", "sharded", "diffusers", "stable-audio-tools", "protobuf"]

FOLDER_FILES: Mapping[Kind, re.Pattern[str]] = {
    "diffusers": re.compile(r"config\.json|diffusion_pytorch_model\.safetensors"),
    "stable-audio-tools": re.compile(r"model_config\.json|model\.safetensors"),
    "protobuf": re.compile(r"\.config\.json|weights-\d+\.pb"),
}
"""The kinds of target that are folders, and the files that theirs have."""


@dataclass(frozen=True)
class Target:
    """A path and what shall be there.

    Parameters
    ----------
    path : Path
        The file, the index of a sharded checkpoint, or the folder.
    kind : str
    """

    path: Path
    kind: Kind


def target_of(path: Path, to: Kind | None = None) -> Target:
    """What a target is, by its name; a folder by what is asked for.

    Raises
    ------
    CheckpointError
        When the name is a file's and a kind of folder is asked for, or it is neither's.
    """
    name = path.name.lower()
    kind: Kind | None = None
    if name.endswith(INDEX_SUFFIX):
        kind = "sharded"
    elif name.endswith(PACKED_SUFFIX):
        kind = "packed"
    elif name.endswith(".safetensors"):
        kind = "safetensors"
    if kind is not None and to is not None:
        raise CheckpointError(path, f"is the name of a file; --to {to} makes a folder")
    if kind is None and to is None:
        raise CheckpointError(
            path,
            f"a name ending in .safetensors, {PACKED_SUFFIX} or {INDEX_SUFFIX} was expected; for a "
            f"folder, one of {', '.join(f'--to {kind}' for kind in FOLDER_FILES)}",
        )
    found = kind or to
    assert found is not None
    return Target(path, found)


def check_target(
    target: Target, shards: Sequence[str], sources: Sequence[Path], force: bool
) -> None:
    """Refuse a target that can't be replaced.

    Parameters
    ----------
    target : Target
    shards : sequence of str
        Names of the files that will be written beside the target; empty unless it is an index.
    sources : sequence of Path
        Files that must stay as they are.
    force : bool
        Whether to replace what is there.

    Raises
    ------
    CheckpointError
        When something is there, the target is one of the sources, or its parent is no folder.
    """
    path = target.path
    originals = {Path(os.path.realpath(source)) for source in sources}
    if target.kind in FOLDER_FILES:
        real = Path(os.path.realpath(path))
        if real in originals or any(real in original.parents for original in originals):
            raise CheckpointError(path, "is where the checkpoint itself lies")
        _check_folder(target, force)
    else:
        for name in (*shards, path.name):
            _check_file(path.parent / name, originals, force)
    parent = path.absolute().parent
    if not parent.is_dir():
        raise CheckpointError(path, f"can't be written: there is no folder {parent}")


def _check_file(file: Path, originals: set[Path], force: bool) -> None:
    """Only a file that is none of the sources may be replaced."""
    if Path(os.path.realpath(file)) in originals:
        raise CheckpointError(file, "is a file of the checkpoint itself")
    if file.is_dir():
        raise CheckpointError(file, "is a folder; a file was expected")
    if os.path.lexists(file) and not force:
        raise CheckpointError(file, "is there already (--force replaces it)")


def _check_folder(target: Target, force: bool) -> None:
    """Only what this kind of target would write may be replaced."""
    path = target.path
    if not path.exists():
        return
    if not path.is_dir():
        raise CheckpointError(path, "is no folder; a folder was expected")
    inside = sorted(entry.name for entry in path.iterdir())
    strangers = [name for name in inside if not FOLDER_FILES[target.kind].fullmatch(name)]
    if strangers:
        raise CheckpointError(
            path, f"is a folder with other things in it, such as {strangers[0]}: not replaced"
        )
    if inside and not force:
        raise CheckpointError(path, "is there already (--force replaces it)")


@contextmanager
def replaced_shards(
    index: Path, shards: Sequence[str], sources: Sequence[Path]
) -> Iterator[tuple[Path, BinaryIO]]:
    """Write shards and their index; they replace the old ones at the end of the block.

    If the block raises, everything is as before. Only a failure while files are being renamed can
    leave neither the old checkpoint nor the new one: then there are shards and no index, never an
    index over shards of another checkpoint.

    Parameters
    ----------
    index : Path
        A symbolic link to an index is written through; the shards lie beside the link, where
        readers look for them.
    shards : sequence of str
        The names that will be written.
    sources : sequence of Path
        Files that must stay as they are.

    Yields
    ------
    folder : Path
        Where to write the shards, with `new_file`.
    index : BinaryIO
        Where to write the index.

    Raises
    ------
    OSError
        When they can't be written.
    """
    place = index.absolute().parent
    with atomic_file(index) as index_file, private_folder(place / index.name) as folder:
        yield folder, index_file
        sync_file(index_file)
        originals = {os.path.realpath(source) for source in sources}
        stale = _shards_named_in(index) - set(shards)
        file_destination(index).unlink(missing_ok=True)
        sync_folder(place)
        for name in shards:
            os.replace(folder / name, place / name)
        for name in stale:
            if os.path.realpath(place / name) not in originals:
                (place / name).unlink(missing_ok=True)
        sync_folder(place)


def _shards_named_in(index: Path) -> set[str]:
    """The shards of an index that have names as they are given here; none where it is damaged."""
    if not index.name.endswith(INDEX_SUFFIX) or not index.is_file():
        return set()
    try:
        places = parse_json(index, read_text(index))["weight_map"].values()
    except (CheckpointError, AttributeError, KeyError, TypeError):
        return set()
    stem = re.escape(index.name.removesuffix(INDEX_SUFFIX))
    shard = re.compile(rf"{stem}-\d+-of-\d+\.safetensors")
    return {name for name in places if isinstance(name, str) and shard.fullmatch(name)}
