"""The instrument: mixes the latents of the pieces live, by a position on a pad.

Each piece is a point on the pad. All pieces advance together. Each frame that is played is a
weighted mean of the pieces' current frames, plus offsets along the directions in which the latents
of all pieces vary most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.server.protocol import INSTRUMENT

RAMP_SECONDS = 0.05
"""Duration over which a change of the settings is spread, so that it doesn't click."""

DIRECTIONS = 3
"""Number of directions in which the latents can be moved."""

ANALYZED_FRAMES = 8192
"""If the pieces have more frames than this, the directions are computed from every n-th frame of
each piece. The number n is the largest for which at least `ANALYZED_FRAMES` frames are used."""

SNAP = 0.01
"""If a point is closer than this to the position on the pad, only the point's piece is heard. The
pad's sides have length 1."""


@dataclass(frozen=True)
class Bank:
    """The pieces of an instrument. Any number of sessions may share a bank.

    Attributes
    ----------
    pieces : dict of str to (frames, latent_dim) array of real numbers
    points : dict of str to (float, float)
        The coordinates x and y of each piece on the pad, both from 0 to 1.
    directions : (DIRECTIONS, latent_dim) float32
        The first principal components of the latents, each one standard deviation long.
    """

    pieces: Mapping[str, npt.NDArray[Any]]
    points: Mapping[str, tuple[float, float]]
    directions: FloatArray = field(repr=False)

    @classmethod
    def of(cls, pieces: Mapping[str, npt.NDArray[Any]]) -> Bank:
        """Return a bank with the pieces on a circle, and compute the directions."""
        return cls(pieces, _circle(list(pieces)), _principal_directions(list(pieces.values())))


def _circle(names: list[str]) -> dict[str, tuple[float, float]]:
    """Distribute points evenly on a circle, or put a single point in the center."""
    radius = 0.4 if len(names) > 1 else 0.0
    turns = [2 * math.pi * (number + 0.5) / len(names) for number in range(len(names))]
    return {
        name: (round(0.5 - radius * math.sin(turn), 4), round(0.5 - radius * math.cos(turn), 4))
        for name, turn in zip(names, turns, strict=True)
    }


def _principal_directions(pieces: list[npt.NDArray[Any]]) -> FloatArray:
    total = sum(map(len, pieces))
    step = max(1, total // ANALYZED_FRAMES)
    frames = np.concatenate([np.asarray(piece[::step], np.float64) for piece in pieces])
    centered = frames - frames.mean(axis=0)
    _, values, vectors = np.linalg.svd(centered, full_matrices=False)
    lengths = values[:DIRECTIONS, None] / math.sqrt(len(frames))
    found = lengths * vectors[:DIRECTIONS]
    # The sign of a component is arbitrary, so choose it the same way on every machine.
    signs = np.sign(found[np.arange(len(found)), np.abs(found).argmax(axis=1)])
    directions = np.zeros((DIRECTIONS, frames.shape[1]), np.float32)
    directions[: len(found)] = np.where(signs == 0, 1, signs)[:, None] * found
    return directions


@dataclass(frozen=True)
class Settings:
    """The controls of the instrument.

    Attributes
    ----------
    x, y : float
        The position on the pad, from 0 to 1.
    weights : dict of str to float, optional
        The weight of each piece, keyed by name. If any weight is positive, `x` and `y` are ignored.
    offset : dict of int to float
        The offset along each direction in standard deviations, keyed by index.
    speed : float
        How many frames the pieces advance per frame that is played. If negative, they are played
        backwards.
    freeze : bool
        Whether the pieces stop advancing.
    """

    x: float = 0.5
    y: float = 0.5
    weights: Mapping[str, float] | None = None
    offset: Mapping[int, float] = field(default_factory=dict)
    speed: float = 1.0
    freeze: bool = False

    def changed(self, fields: Mapping[str, Any]) -> Settings:
        """Return these settings, changed by the `fields` of a ``set`` message.

        If the message contains `x` or `y` but no `weights`, the weights are removed.

        Raises
        ------
        ValueError
            If the message has an offset along a direction that does not exist.
        """
        new = {name: value for name, value in fields.items() if value is not None}
        if "offset" in new:
            moved = {}
            for name, value in new["offset"].items():
                if name not in map(str, range(1, DIRECTIONS + 1)):
                    raise ValueError(f"the directions are 1 to {DIRECTIONS}, not {name}")
                moved[int(name) - 1] = value
            new["offset"] = {**self.offset, **moved}
        if "weights" not in new and ("x" in new or "y" in new):
            new["weights"] = None
        return replace(self, **new)

    def as_fields(self) -> dict[str, Any]:
        """Return the settings as the fields of a ``set`` message."""
        offset = {str(index + 1): value for index, value in self.offset.items()}
        weights = None if self.weights is None else dict(self.weights)
        return {
            "x": self.x,
            "y": self.y,
            "weights": weights,
            "offset": offset,
            "speed": self.speed,
            "freeze": self.freeze,
        }


def weights_of(settings: Settings, bank: Bank) -> FloatArray:
    """Return the weights of the pieces, which sum to 1.

    If `Settings.weights` has no positive weight, each weight is proportional to the inverse square
    of the distance between the position on the pad and the piece's point.

    Returns
    -------
    (pieces,) float32
    """
    if settings.weights is not None and sum(settings.weights.values()) > 0:
        chosen = [settings.weights.get(name, 0.0) for name in bank.pieces]
        if sum(chosen) > 0:
            shares: FloatArray = (np.array(chosen) / sum(chosen)).astype(np.float32)
            return shares
    points = np.array([bank.points[name] for name in bank.pieces])
    distances = np.hypot(points[:, 0] - settings.x, points[:, 1] - settings.y)
    nearest = int(distances.argmin())
    if distances[nearest] < SNAP:
        chosen_point: FloatArray = np.eye(len(points), dtype=np.float32)[nearest]
        return chosen_point
    inverse = distances**-2.0
    weights: FloatArray = (inverse / inverse.sum()).astype(np.float32)
    return weights


class Instrument:
    """The source of a session that plays the instrument. It never ends.

    Parameters
    ----------
    bank : Bank
    frame_rate : float

    Attributes
    ----------
    settings : Settings
        May be replaced at any time. New settings take effect from the next frame that is taken.
    """

    name = INSTRUMENT
    ended = False
    available = 1 << 30

    def __init__(self, bank: Bank, frame_rate: float) -> None:
        self.settings = Settings()
        self._bank = bank
        self._ramp = max(1, round(RAMP_SECONDS * frame_rate))
        self._position = 0.0
        self._current = self._target()

    def _target(self) -> FloatArray:
        """Return the weights followed by the offsets: (pieces + DIRECTIONS,) float32."""
        offsets = [self.settings.offset.get(index, 0.0) for index in range(DIRECTIONS)]
        return np.concatenate(
            [weights_of(self.settings, self._bank), np.array(offsets, np.float32)]
        )

    def take(self, count: int) -> FloatArray:
        """As `Source.take`."""
        ramp = np.minimum(np.arange(1, count + 1) / self._ramp, 1).astype(np.float32)[:, None]
        target = self._target()
        # Not current + ramp * difference, which may miss the target by a rounding error.
        mix = (1 - ramp) * self._current + ramp * target
        self._current = mix[-1]
        speed = 0.0 if self.settings.freeze else self.settings.speed
        positions = self._position + speed * np.arange(count)
        self._position += speed * count
        pieces = self._bank.pieces.values()
        frames = mix[:, len(pieces) :] @ self._bank.directions
        for weight, piece in zip(mix.T, pieces, strict=False):
            if weight.any():
                frames += weight[:, None] * _at(piece, positions)
        return np.ascontiguousarray(frames, np.float32)


def _at(piece: npt.NDArray[Any], positions: npt.NDArray[Any]) -> FloatArray:
    """Return frames of an endlessly repeated piece, interpolated at fractional positions."""
    whole = np.floor(positions)
    part = (positions - whole).astype(np.float32)[:, None]
    index = whole.astype(np.int64) % len(piece)
    frames = np.asarray(piece[index], np.float32)
    if part.any():
        later = np.asarray(piece[(index + 1) % len(piece)], np.float32)
        frames = (1 - part) * frames + part * later
    return frames
