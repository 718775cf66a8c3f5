"""Reads and writes the manifest and the records.

The manifest is a file with one line for each item, and for each input that failed. A record is a
file with the lines of one task. A task writes its record after its outputs. If the record is
missing, the outputs are made again. At the end of a run, the records are merged into the manifest.
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
    """The state of an item, or of an input that failed, as in the manifest.

    Attributes
    ----------
    key : str
        The name of the item.
    source : str
        The key of the input. The manifest has no absolute paths, so the folder can be moved.
    size, stamp, sha256
        Size, stamp and hash of the input. The hash is empty if the input failed.
    status : {"done", "failed", "set aside"}
        An input is set aside if several workers have died while running its task.
    error : str
        The reason why the input failed. Empty if it did not fail.
    item, items : int
        Index of the item among the items of its input, and the number of these items.
    output : str
        The file that holds the item.
    member : str
        The name of the item in `output`, if that file holds several items.
    count : int
        Number of items in `output`.
    bytes : int
        Size of `output` in bytes.
    output_sha256 : str
        Hash of the item's latents or audio as stored. If `output` holds only this item, it is also
        the hash of `output`.
    frames, samples : int
        Number of latent frames and of samples in the item.
    changes : list of str
        Phrases that say how the input was converted, cropped and padded.
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
        """Parse a line of a manifest. Any other text raises ``ValueError``."""
        values = json.loads(text)
        if not isinstance(values, dict) or not {"key", "source", "status"} <= values.keys():
            raise ValueError("not a line of a manifest")
        return cls(**{name: values[name] for name in _NAMES if name in values})

    def text(self) -> str:
        """The line as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


_NAMES = tuple(entry.name for entry in fields(Line))


def write_text(place: Place, name: str, lines: Iterable[str]) -> None:
    """Write a text file, with a newline after each line."""
    with place.new(name) as path, open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def read_json(place: Place, name: str) -> Any:
    """Return the content of a JSON file, or None if the file does not exist."""
    try:
        with place.open(name) as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None


def read_lines(place: Place, names: Iterable[str]) -> Iterator[Line]:
    """Yield the lines of manifests and records. Files that no longer exist are skipped."""
    for name in names:
        try:
            with place.open(name) as file:
                for text in file:
                    yield Line.parse(text.decode())
        except FileNotFoundError:
            continue
