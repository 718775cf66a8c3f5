"""Exact streaming decoding of Oobleck audio autoencoders.

>>> import oobleck_stream as ob
>>> model = ob.load("tiny")
>>> audio = model.decode(ob.piece("keys"))
>>> audio.shape
(639680, 2)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oobleck_stream.version import __version__ as __version__

if TYPE_CHECKING:
    from oobleck_stream import dataset as dataset
    from oobleck_stream.config import PRESETS as PRESETS
    from oobleck_stream.config import OobleckConfig as OobleckConfig
    from oobleck_stream.config import preset as preset
    from oobleck_stream.decoder import StreamingDecoder as StreamingDecoder
    from oobleck_stream.decoder_streams import DecoderState as DecoderState
    from oobleck_stream.encoder import EncoderState as EncoderState
    from oobleck_stream.encoder import StreamingEncoder as StreamingEncoder
    from oobleck_stream.errors import CheckpointError as CheckpointError
    from oobleck_stream.errors import CudaUnavailable as CudaUnavailable
    from oobleck_stream.errors import InputError as InputError
    from oobleck_stream.errors import NonFiniteError as NonFiniteError
    from oobleck_stream.errors import OutputError as OutputError
    from oobleck_stream.errors import PlaybackError as PlaybackError
    from oobleck_stream.errors import RemoteError as RemoteError
    from oobleck_stream.loading import load as load
    from oobleck_stream.model import Model as Model
    from oobleck_stream.multi_stream_decoder import MultiStreamDecoder as MultiStreamDecoder
    from oobleck_stream.pieces import PIECES as PIECES
    from oobleck_stream.pieces import piece as piece
    from oobleck_stream.player.play import play as play
    from oobleck_stream.player.player import Player as Player
    from oobleck_stream.random_weights import random_model as random_model
    from oobleck_stream.server.remote_decoder import RemoteDecoder as RemoteDecoder
    from oobleck_stream.sound import Sound as Sound
    from oobleck_stream.vae import torch_vae as torch_vae

# Maps every public name to its module. Modules are imported at first use, because importing Numba
# takes a quarter of a second.
_EXPORTS = {
    "PIECES": "pieces",
    "PRESETS": "config",
    "CheckpointError": "errors",
    "CudaUnavailable": "errors",
    "DecoderState": "decoder_streams",
    "EncoderState": "encoder",
    "InputError": "errors",
    "Model": "model",
    "MultiStreamDecoder": "multi_stream_decoder",
    "NonFiniteError": "errors",
    "OobleckConfig": "config",
    "OutputError": "errors",
    "PlaybackError": "errors",
    "Player": "player.player",
    "RemoteDecoder": "server.remote_decoder",
    "RemoteError": "errors",
    "Sound": "sound",
    "StreamingDecoder": "decoder",
    "StreamingEncoder": "encoder",
    "load": "loading",
    "piece": "pieces",
    "play": "player.play",
    "preset": "config",
    "random_model": "random_weights",
    "torch_vae": "vae",
}

__all__ = [*_EXPORTS, "dataset"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(f"oobleck_stream.{_EXPORTS[name]}"), name)
        globals()[name] = value
        return value
    if name == "dataset":
        return importlib.import_module("oobleck_stream.dataset")
    raise AttributeError(f"module 'oobleck_stream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
