"""Exact streaming decoding of Oobleck audio autoencoders.

>>> import oobleck_stream as ob
>>> model = ob.load("tiny")                               # doctest: +SKIP
>>> audio = model.decode(ob.piece("keys"))                # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oobleck_stream.config import PRESETS, OobleckConfig, preset
    from oobleck_stream.decoder import DecoderState, StreamingDecoder
    from oobleck_stream.encoder import EncoderState, StreamingEncoder
    from oobleck_stream.errors import CheckpointError, NonFiniteError
    from oobleck_stream.loading import load
    from oobleck_stream.model import Model, random_model
    from oobleck_stream.pieces import PIECES, piece
    from oobleck_stream.player.player import Player, play

__version__ = "0.1.0"

# Loaded when first asked for: importing Numba takes a quarter of a second.
_HOMES = {
    "PIECES": "pieces",
    "PRESETS": "config",
    "CheckpointError": "errors",
    "NonFiniteError": "errors",
    "OobleckConfig": "config",
    "DecoderState": "decoder",
    "EncoderState": "encoder",
    "StreamingDecoder": "decoder",
    "StreamingEncoder": "encoder",
    "Model": "model",
    "Player": "player.player",
    "play": "player.player",
    "load": "loading",
    "piece": "pieces",
    "preset": "config",
    "random_model": "model",
}

__all__ = [
    "PIECES",
    "PRESETS",
    "CheckpointError",
    "DecoderState",
    "EncoderState",
    "Model",
    "NonFiniteError",
    "OobleckConfig",
    "Player",
    "StreamingDecoder",
    "StreamingEncoder",
    "load",
    "piece",
    "play",
    "preset",
    "random_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"oobleck_stream.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'oobleck_stream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
