"""The exported network as a codec on NumPy arrays, run by torch."""

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from network import Autoencoder, Geometry, load_folded
from safetensors import safe_open


class Codec(Protocol):
    """Anything that turns audio (samples, channels) into latents (frames, latent_dim) and back."""

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Return the latents of the audio."""

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Return the audio of the latents."""


class TorchCodec:
    """A `Codec` in torch, in single precision.

    Parameters
    ----------
    path : Path
        A file written by `export.py`.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])["model"]
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        decoder = config["decoder"]["config"]
        self.geometry = Geometry(
            decoder["channels"],
            tuple(decoder["c_mults"]),
            tuple(decoder["strides"]),
            decoder["latent_dim"],
            decoder["out_channels"],
        )
        self.network = Autoencoder(self.geometry).eval()
        load_folded(self.network, state)

    @torch.no_grad()
    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Return the mean latents of audio, which is padded with zeros to whole frames."""
        padding = -len(audio) % self.geometry.hop
        padded = np.pad(audio.astype(np.float32), ((0, padding), (0, 0)))
        mean, _ = self.network.encode(torch.from_numpy(padded.T[None].copy()))
        return mean[0].T.contiguous().numpy()

    @torch.no_grad()
    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Return the audio of the latents."""
        batch = torch.from_numpy(latents.astype(np.float32).T[None].copy())
        return self.network.decoder(batch)[0].T.contiguous().numpy()
