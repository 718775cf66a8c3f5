"""Infers and checks the target of a conversion, and replaces the target's shards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from oobleck_stream.checkpoints.packed_file import PACKED_SUFFIX
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.atomic import (
    atomic_file,
    file_destination,
    private_folder,
    sync_file,
    sync_folder,
)
from oobleck_stream.formats.json_text import parse_json, read_text
from oobleck_stream.formats.sharded import INDEX_SUFFIX

Kind = Literal["safetensors", "packed", "sharded", "diffusers", "stable-audio-tools", "protobuf"]

FOLDER_FILES: Mapping[Kind, re.Pattern[str]] = {
    "diffusers": re.compile(r"config\.json|diffusion_pytorch_model\.safetensors"),
    "stable-audio-tools": re.compile(r"model_config\.json|model\.safetensors"),
    "protobuf": re.compile(r"\.config\.json|weights-\d+\.pb"),
}
"""The kinds of target that are folders, and the names of the files that each folder contains."""


@dataclass(frozen=True)
class Target:
    """A path, and the kind of target to write there.

    Parameters
    ----------
    path : Path
        The file, the index of a sharded checkpoint, or the folder.
    kind : str
    """

    path: Path
    kind: Kind


def target_of(path: Path, to: Kind | None = None) -> Target:
    """Infer the kind of a target from its name. If the target is a folder, `to` is its kind.

    Raises
    ------
    CheckpointError
        If `to` is given and the name is that of a file, or if `to` is None and the name is not that
        of a file.
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
        raise CheckpointError(path, f"is the name of a file; --to {to} writes a folder")
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
        Names of the files that will be written beside the target. Empty unless the target is an
        index.
    sources : sequence of Path
        Files that must stay as they are.
    force : bool
        Whether to replace an existing target.

    Raises
    ------
    CheckpointError
        If the target exists and may not be replaced, if it is one of the sources, or if its parent
        folder does not exist.
    """
    path = target.path
    originals = {Path(os.path.realpath(source)) for source in sources}
    if target.kind in FOLDER_FILES:
        real = Path(os.path.realpath(path))
        if real in originals or any(real in original.parents for original in originals):
            raise CheckpointError(path, "contains the checkpoint itself")
        _check_folder(target, force)
    else:
        for name in (*shards, path.name):
            _check_file(path.parent / name, originals, force)
    parent = path.absolute().parent
    if not parent.is_dir():
        raise CheckpointError(path, f"can't be written: there is no folder {parent}")


def _check_file(file: Path, originals: set[Path], force: bool) -> None:
    """Refuse a file that belongs to the sources, is not a regular file, or may not be replaced."""
    if Path(os.path.realpath(file)) in originals:
        raise CheckpointError(file, "is a file of the checkpoint itself")
    if file.is_dir():
        raise CheckpointError(file, "is a folder; a file was expected")
    if file.exists() and not file.is_file():
        raise CheckpointError(file, "is not a regular file: not replaced")
    if os.path.lexists(file) and not force:
        raise CheckpointError(file, "already exists (--force replaces it)")


def _check_folder(target: Target, force: bool) -> None:
    """Refuse a path that is not a folder, has other files in it, or may not be replaced."""
    path = target.path
    if not path.exists():
        return
    if not path.is_dir():
        raise CheckpointError(path, "is not a folder; a folder was expected")
    inside = sorted(entry.name for entry in path.iterdir())
    others = [name for name in inside if not FOLDER_FILES[target.kind].fullmatch(name)]
    if others:
        raise CheckpointError(
            path, f"is a folder with other files in it, such as {others[0]}: not replaced"
        )
    if inside and not force:
        raise CheckpointError(path, "already exists (--force replaces it)")


@contextmanager
def atomic_shards(
    index: Path, shards: Sequence[str], sources: Sequence[Path]
) -> Iterator[tuple[Path, BinaryIO]]:
    """Write shards and their index, which replace the old files at the end of the block.

    If an exception ends the block, the old files are unchanged. Replacing several files is not
    atomic. The old index is removed first. An interruption between the renames can therefore leave
    shards without an index, but never an index with the wrong shards.

    Parameters
    ----------
    index : Path
        The path of the index. If it is a symbolic link, the link's target is written, but the
        shards are stored beside the link, where readers look for them.
    shards : sequence of str
        Names of the shards.
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
        If the files can't be written.
    """
    parent = index.absolute().parent
    with atomic_file(index) as index_file, private_folder(parent / index.name) as folder:
        yield folder, index_file
        sync_file(index_file)
        originals = {os.path.realpath(source) for source in sources}
        stale = _shards_named_in(index) - set(shards)
        file_destination(index).unlink(missing_ok=True)
        sync_folder(parent)
        for name in shards:
            os.replace(folder / name, parent / name)
        for name in stale:
            if os.path.realpath(parent / name) not in originals:
                (parent / name).unlink(missing_ok=True)
        sync_folder(parent)


def _shards_named_in(index: Path) -> set[str]:
    """Return the shards that an index lists, if their names follow this package's pattern.

    The result is empty if the index can't be read.
    """
    if not index.name.endswith(INDEX_SUFFIX) or not index.is_file():
        return set()
    try:
        names = parse_json(index, read_text(index))["weight_map"].values()
    except (CheckpointError, AttributeError, KeyError, TypeError):
        return set()
    stem = re.escape(index.name.removesuffix(INDEX_SUFFIX))
    shard = re.compile(rf"{stem}-\d+-of-\d+\.safetensors")
    return {name for name in names if isinstance(name, str) and shard.fullmatch(name)}
