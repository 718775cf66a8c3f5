"""The manifest: one line for each item, and the records from which it is made.

A task that completes items writes a record, a file of lines, last: outputs without a record are
made again. Records are merged into the manifest at the end of a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from oobleck_stream.dataset.places import WORK, Place

MANIFEST = "manifest.jsonl"
FILE_LIST = "filelist.txt"
RECORDS = f"{WORK}/done"
PARTS = f"{WORK}/parts"
ITEMS = f"{WORK}/items"

DONE, FAILED, SET_ASIDE = "done", "failed", "set aside"


@dataclass(frozen=True, slots=True)
class Line:
    """What became of an item.

    Attributes
    ----------
    key : str
        The item's name.
    source : str
        The key of its input. The manifest has no absolute paths, so the folder can be moved.
    size, stamp, sha256
        Those of the input. The hash is empty if the input could not be read.
    status : {"done", "failed", "set aside"}
        An input is set aside if the task of it has killed its worker several times.
    error : str
        Why the input failed; otherwise empty.
    item, items : int
        The item's number among those of its input, and their number.
    output : str
        The file that holds the item.
    member : str
        The item's name in that file, if it holds several.
    count : int
        How many items the file holds.
    bytes : int
        Size of the file.
    output_sha256 : str
        Hash of the item's latents or audio as stored; a file that holds one item has this hash.
    frames, samples : int
        Latent frames and samples of the item.
    changes : list of str
        How the input was converted, cropped and padded.
    """

    key: str
    source: str
    size: int
    stamp: str
    status: str
    sha256: str = ""
    error: str = ""
    item: int = 0
    items: int = 1
    output: str = ""
    member: str = ""
    count: int = 1
    bytes: int = 0
    output_sha256: str = ""
    frames: int = 0
    samples: int = 0
    changes: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> Line:
        """Read a line of a manifest; raise ``ValueError`` if it is not one."""
        values = json.loads(text)
        if not isinstance(values, dict) or not {"key", "source", "status"} <= values.keys():
            raise ValueError("not a line of a manifest")
        return cls(**{name: values[name] for name in _NAMES if name in values})

    def text(self) -> str:
        """The line as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


_NAMES = tuple(entry.name for entry in fields(Line))


def write_text(place: Place, name: str, lines: Iterable[str]) -> None:
    """Write a text file; each line gets an end."""
    with place.new(name) as path, open(path, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def read_json(place: Place, name: str) -> Any:
    """Read a JSON file; None if it does not exist."""
    try:
        with place.open(name) as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None


def read_lines(place: Place, names: Iterable[str]) -> Iterator[Line]:
    """Read manifests and records. Files that have just been removed are left out."""
    for name in names:
        try:
            with place.open(name) as file:
                for text in file:
                    yield Line.parse(text.decode())
        except FileNotFoundError:
            continue
