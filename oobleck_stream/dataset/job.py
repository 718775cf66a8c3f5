"""Describes a run: the settings, which determine the output, and how the work is done."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from oobleck_stream.dataset.places import Place, open_place
from oobleck_stream.engine.packed import unpack_layer
from oobleck_stream.errors import InputError
from oobleck_stream.files.axis_order import AxisOrder
from oobleck_stream.loading import load
from oobleck_stream.model import Model

Direction = Literal["encode", "decode"]
Layout = Literal["files", "webdataset", "parquet"]

FORMAT = 1
"""The version of the output folder's files. A folder of another version is refused."""

DESCRIPTION = "oobleck-dataset.json"
"""The file in the output folder that holds the settings."""


@dataclass(frozen=True)
class Settings:
    """The settings that, together with the inputs, determine every byte of the output.

    Attributes
    ----------
    direction : {"encode", "decode"}
    layout : {"files", "webdataset", "parquet"}
    network : str
        The `fingerprint` of the model.
    dtype : {"float32", "float16"}
        The dtype of stored latents.
    sample : bool
        Whether latents are drawn from their distributions. Otherwise they are the means.
    seed : int
        The seed of the draws. The noise of an input also depends on the input's key.
    crop : int or None
        Maximum number of frames of each input that are used. None means all.
    split : int or None
        Maximum number of frames of an item. None means that inputs are not cut into items.
    pad : bool
        Whether the last item is padded with silence to `crop` or `split` frames.
    audio : {"wav", "flac"}
        The format of decoded audio.
    bits : {"16", "24", "float"}
        The sample format of decoded audio.
    order : {"tc", "ct"} or None
        The axis order of the latents to decode. None means that it is inferred from their shape.
    """

    direction: Direction
    layout: Layout
    network: str
    dtype: str = "float32"
    sample: bool = False
    seed: int = 0
    crop: int | None = None
    split: int | None = None
    pad: bool = False
    audio: str = "wav"
    bits: str = "16"
    order: AxisOrder | None = None

    def seed_of(self, key: str) -> int | None:
        """Return the seed of the noise for the input `key`, or None if no noise is drawn."""
        if not self.sample:
            return None
        digest = hashlib.sha256(json.dumps([self.seed, key]).encode()).digest()
        return int.from_bytes(digest[:8], "little")


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to know about a run. A job is small and picklable.

    Attributes
    ----------
    out : str
        The address of the output folder.
    model : str
        The source of the model, as for `oobleck_stream.load`. Every machine loads it for itself.
    settings : Settings
    unit : int
        Longest part of a piece that one task encodes or decodes, in frames. It has no effect on
        the output.
    threads : int
        Number of threads of each task.
    backend : str
        Where to decode, as for `oobleck_stream.load`.
    """

    out: str
    model: str
    settings: Settings
    unit: int
    threads: int = 1
    backend: str = "cpu"

    @property
    def place(self) -> Place:
        """The output folder."""
        return _place(self.out)

    @property
    def network(self) -> Model:
        """The model, which is loaded once per process.

        Raises
        ------
        InputError
            If the model is not the one in `settings`, for example because this machine has a
            different file at the same path.
        """
        model, found = _loaded(self.model, self.backend, self.settings.direction)
        if found != self.settings.network:
            raise InputError(
                f"{self.model}: not the network that this data set was begun with (on this machine)"
            )
        return model


_place = functools.lru_cache(maxsize=8)(open_place)


@functools.lru_cache(maxsize=2)
def _loaded(source: str, backend: str, direction: Direction) -> tuple[Model, str]:
    model = load(source, backend=backend)
    return model, fingerprint(model, direction)


def fingerprint(model: Model, direction: Direction) -> str:
    """Return the SHA-256 of everything in a model that encoding or decoding depends on.

    It covers the config, the parameters and the tiles. The hash does not depend on the file format
    of the checkpoint, nor on how parameters are packed.
    """
    network = model.encoder if direction == "encode" else model.decoder
    digest = hashlib.sha256()
    config = dataclasses.asdict(model.config)
    digest.update(json.dumps([direction, config], sort_keys=True).encode())
    for index, layer in enumerate(network.layers):
        if layer.scheme:
            digest.update(json.dumps([layer.tile, layer.grid]).encode())
        for part in unpack_layer(network, index):
            digest.update(b"-" if part is None else np.ascontiguousarray(part).data)
    return digest.hexdigest()


def describe(settings: Settings, shards: list[str]) -> dict[str, Any]:
    """Return the content of the file `DESCRIPTION` in the output folder."""
    return {"format": FORMAT, "settings": dataclasses.asdict(settings), "shards": shards}


def require_same(address: str, found: dict[str, Any], settings: Settings) -> None:
    """Raise an `InputError` if the description of an output folder has other settings."""
    if found.get("format") != FORMAT or not isinstance(found.get("settings"), dict):
        raise InputError(f"{address}: {DESCRIPTION} is of another version of this package")
    wanted = dataclasses.asdict(settings)
    differences = [
        f"{name} is {found['settings'].get(name)!r} there, not {value!r}"
        for name, value in wanted.items()
        if found["settings"].get(name) != value
    ]
    if differences:
        raise InputError(
            f"{address}: was begun with other settings, so another folder is needed: "
            + "; ".join(differences)
        )
