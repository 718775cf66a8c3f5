"""Load an exported network into diffusers' AutoencoderOobleck and compare the sound."""

import re
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from codec import TorchCodec
from diffusers import AutoencoderOobleck
from network import Geometry
from safetensors.torch import load_file
from torch import Tensor, nn

UNIT_LAYERS = ("snake1", "conv1", "snake2", "conv2")


def diffusers_name(name: str, levels: int) -> str:
    """Return diffusers' name of a parameter named as in stable-audio-tools.

    Parameters
    ----------
    name : str
        Such as `decoder.layers.1.layers.2.layers.0.alpha`.
    levels : int
        The number of strides.

    Returns
    -------
    str
        Such as `decoder.block.0.res_unit1.snake1.alpha`.
    """
    half, rest = name.split(".", 1)
    *_, parameter = name.split(".")
    path = [int(number) for number in re.findall(r"layers\.(\d+)", rest)]
    if path[0] in (0, levels + 1, levels + 2):
        layer = {0: "conv1", levels + 1: "snake1", levels + 2: "conv2"}[path[0]]
        return f"{half}.{layer}.{parameter}"
    block = f"{half}.block.{path[0] - 1}"
    first_unit, changes = (0, {3: "snake1", 4: "conv1"})
    if half == "decoder":
        first_unit, changes = (2, {0: "snake1", 1: "conv_t1"})
    if path[1] in changes:
        return f"{block}.{changes[path[1]]}.{parameter}"
    return f"{block}.res_unit{path[1] - first_unit + 1}.{UNIT_LAYERS[path[2]]}.{parameter}"


def load_in_diffusers(state: dict[str, Tensor], geometry: Geometry) -> AutoencoderOobleck:
    """Return diffusers' autoencoder with the given folded parameters.

    Parameters
    ----------
    state : dict of str to torch.Tensor
        Parameters as in the exported file.
    geometry : Geometry
        The sizes of the network.

    Returns
    -------
    AutoencoderOobleck
        The network in single precision.
    """
    model = AutoencoderOobleck(
        encoder_hidden_size=geometry.width,
        downsampling_ratios=list(geometry.strides),
        channel_multiples=list(geometry.multiples),
        decoder_channels=geometry.width,
        decoder_input_channels=geometry.latent_dim,
        audio_channels=geometry.audio_channels,
        sampling_rate=44100,
    )
    # There, the encoder's last layer is as wide as its first; here, as wide as the latents need.
    model.encoder.conv2 = nn.utils.weight_norm(
        nn.Conv1d(geometry.channels[-1], 2 * geometry.latent_dim, 3, padding=1)
    )
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            nn.utils.remove_weight_norm(module)
    renamed = {}
    for name, value in state.items():
        is_snake = name.endswith((".alpha", ".beta"))
        value = value.float()[None, :, None] if is_snake else value.float()
        renamed[diffusers_name(name, len(geometry.strides))] = value
    model.load_state_dict(renamed, strict=True)
    return model.eval()


def agreement(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the ratio of signal to difference in decibels."""
    difference = float(np.square(reference.astype(np.float64) - other).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    return float(10 * np.log10(signal / max(difference, 1e-30)))


def main(
    network: Annotated[Path, typer.Option(help="The exported file.")] = Path(
        "tiny_work/export/tiny.safetensors"
    ),
    latents: Annotated[Path, typer.Option(help="Latents to decode, (frames, latent_dim).")] = Path(
        "tiny_work/export/pieces/keys.npy"
    ),
) -> None:
    """Print the agreement of both readers on decoding, and on encoding the result again."""
    codec = TorchCodec(network)
    model = load_in_diffusers(load_file(network), codec.geometry)
    rows = np.load(latents)
    audio = codec.decode(rows)
    with torch.no_grad():
        batch = torch.from_numpy(rows.astype(np.float32).T[None].copy())
        other = model.decode(batch).sample[0].T.numpy()
        again = model.encode(torch.from_numpy(audio.T[None].copy())).latent_dist.mean[0].T.numpy()
    print(f"decode: {agreement(audio, other):.1f} dB")
    print(f"encode: {agreement(codec.encode(audio), again):.1f} dB")


if __name__ == "__main__":
    typer.run(main)
