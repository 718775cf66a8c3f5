"""The target of a conversion: its kind, whether it may be replaced, and how shards are."""

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
"""The kinds of target that are folders, and the names of the files in them."""


@dataclass(frozen=True)
class Target:
    """A path, and what to write there.

    Parameters
    ----------
    path : Path
        The file, the index of a sharded checkpoint, or the folder.
    kind : str
    """

    path: Path
    kind: Kind


def target_of(path: Path, to: Kind | None = None) -> Target:
    """Infer the kind of a target from its name; `to` is the kind of a folder.

    Raises
    ------
    CheckpointError
        If the name is a file's although `to` is given, or is not a file's and `to` is None.
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
        Names of the files that will be written beside the target; empty unless it is an index.
    sources : sequence of Path
        Files that must stay as they are.
    force : bool
        Whether to replace an existing target.

    Raises
    ------
    CheckpointError
        If the target exists and may not be replaced, is one of the sources, or has no parent
        folder.
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
    """Refuse a file that is one of the sources, a folder, or exists without `force`."""
    if Path(os.path.realpath(file)) in originals:
        raise CheckpointError(file, "is a file of the checkpoint itself")
    if file.is_dir():
        raise CheckpointError(file, "is a folder; a file was expected")
    if file.exists() and not file.is_file():
        raise CheckpointError(file, "is not a regular file: not replaced")
    if os.path.lexists(file) and not force:
        raise CheckpointError(file, "already exists (--force replaces it)")


def _check_folder(target: Target, force: bool) -> None:
    """Refuse a folder with files that this kind of target does not write."""
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
    """Write shards and their index, which replace the old ones at the end of the block.

    If the block raises, the old files are unchanged. Replacing several files is not atomic: the
    old index is removed first, so an interruption between the renames leaves shards without an
    index, never an index with the wrong shards.

    Parameters
    ----------
    index : Path
        A symbolic link is written through. The shards are stored beside the link, where readers
        look for them.
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
        If they can't be written.
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
    """Return an index's shards that are named as this module names them; none if it is damaged."""
    if not index.name.endswith(INDEX_SUFFIX) or not index.is_file():
        return set()
    try:
        names = parse_json(index, read_text(index))["weight_map"].values()
    except (CheckpointError, AttributeError, KeyError, TypeError):
        return set()
    stem = re.escape(index.name.removesuffix(INDEX_SUFFIX))
    shard = re.compile(rf"{stem}-\d+-of-\d+\.safetensors")
    return {name for name in names if isinstance(name, str) and shard.fullmatch(name)}
