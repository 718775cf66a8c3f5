"""Where a conversion goes: which files a target is, and how they are put in their place."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oobleck_stream.checkpoints.json_text import parse_json, read_text
from oobleck_stream.checkpoints.packed_file import PACKED_SUFFIX
from oobleck_stream.checkpoints.sharded import INDEX_SUFFIX
from oobleck_stream.errors import CheckpointError

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


@contextmanager
def staged(
    target: Target, files: Sequence[str], sources: Sequence[Path], force: bool
) -> Iterator[Path]:
    """A folder to write a target's files into; they are put in place when all went well.

    Left by an exception it is removed, and whatever was there before is as it was. Only while the
    files of a sharded checkpoint are put in place of others can an interruption leave neither: then
    there are shards and no index, never an index over shards of another.

    Parameters
    ----------
    target : Target
    files : sequence of str
        The names that will be written, for a target that is not a folder; the last one is what is
        looked for, and is put in place last.
    sources : sequence of Path
        Files that must stay as they are.
    force : bool
        Whether to replace what is there.

    Raises
    ------
    CheckpointError
        When something is there, or the target is one of the sources.
    OSError
        When it can't be written.
    """
    is_folder = target.kind in FOLDER_FILES
    _check(target, files, sources, force)
    parent = target.path.absolute().parent
    if not parent.is_dir():
        raise CheckpointError(target.path, f"can't be written: there is no folder {parent}")
    staging = parent / f".{target.path.name}.{secrets.token_hex(4)}.part"
    staging.mkdir()
    try:
        yield staging
        if is_folder:
            _replace_folder(staging, target.path)
        else:
            _replace_files(staging, parent, files, sources)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check(target: Target, files: Sequence[str], sources: Sequence[Path], force: bool) -> None:
    path = target.path
    originals = {Path(os.path.realpath(source)) for source in sources}
    if target.kind in FOLDER_FILES:
        real = Path(os.path.realpath(path))
        if real in originals or any(real in original.parents for original in originals):
            raise CheckpointError(path, "is where the checkpoint itself lies")
        _check_folder(target, force)
        return
    for name in files:
        file = path.parent / name
        if Path(os.path.realpath(file)) in originals:
            raise CheckpointError(file, "is a file of the checkpoint itself")
        if file.is_dir():
            raise CheckpointError(file, "is a folder; a file was expected")
        if os.path.lexists(file) and not force:
            raise CheckpointError(file, "is there already (--force replaces it)")


def _check_folder(target: Target, force: bool) -> None:
    """Only what this kind of target would write may be replaced."""
    path = target.path
    if not os.path.lexists(path):
        return
    if not path.is_dir() or path.is_symlink():
        raise CheckpointError(path, "is no folder; a folder was expected")
    inside = sorted(entry.name for entry in path.iterdir())
    strangers = [name for name in inside if not FOLDER_FILES[target.kind].fullmatch(name)]
    if strangers:
        raise CheckpointError(
            path, f"is a folder with other things in it, such as {strangers[0]}: not replaced"
        )
    if inside and not force:
        raise CheckpointError(path, "is there already (--force replaces it)")


def _replace_files(new: Path, place: Path, files: Sequence[str], sources: Sequence[Path]) -> None:
    """Put files in the place of others; an index is away while its shards change."""
    index = place / files[-1]
    originals = {os.path.realpath(source) for source in sources}
    stale = _shards_named_in(index) - set(files)
    if len(files) > 1:
        index.unlink(missing_ok=True)
    for name in files:
        os.replace(new / name, place / name)
    for name in stale:
        if os.path.realpath(place / name) not in originals:
            (place / name).unlink(missing_ok=True)


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


def _replace_folder(new: Path, place: Path) -> None:
    """Put a folder in the place of another, which goes only when the new one is there."""
    old = new.with_suffix(".old")
    if place.exists():
        os.replace(place, old)
    try:
        os.replace(new, place)
    except OSError:
        if old.exists():
            os.replace(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)
