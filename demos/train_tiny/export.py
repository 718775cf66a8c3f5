"""Export a trained network, and the demo pieces encoded with it."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer
from codec import TorchCodec
from demo_pieces import DEMO_PIECES, render_demo
from network import Autoencoder, Geometry, folded_state
from render import DEFAULT_SOUNDFONT, SAMPLE_RATE
from safetensors.torch import save_file
from torch import Tensor

LICENCE = (
    "Network and latent pieces: the licence of the package they come with. They contain no "
    "recordings; see origin for what the network learned from."
)
ORIGIN = (
    "Trained from nothing on music composed by a script and rendered with FluidSynth and the "
    "FluidR3 GM SoundFont (Frank Wen; MIT licence; Debian package fluid-soundfont-gm), and on the "
    "samples of Sonic Pi (CC0; Debian package sonic-pi-samples). The demo pieces were written for "
    "this package and rendered in the same way."
)


def model_config(geometry: Geometry) -> dict:
    """Return the configuration in the form of stable-audio-tools.

    Parameters
    ----------
    geometry : Geometry
        The sizes of the network.

    Returns
    -------
    dict
        The contents of a `model_config.json` for an autoencoder.
    """
    sizes = {
        "channels": geometry.width,
        "c_mults": list(geometry.multiples),
        "strides": list(geometry.strides),
        "use_snake": True,
    }
    encoder = {
        "in_channels": geometry.audio_channels,
        "latent_dim": 2 * geometry.latent_dim,
        **sizes,
    }
    decoder = {
        "out_channels": geometry.audio_channels,
        "latent_dim": geometry.latent_dim,
        "final_tanh": False,
        **sizes,
    }
    return {
        "model_type": "autoencoder",
        "sample_size": 65536,
        "sample_rate": SAMPLE_RATE,
        "audio_channels": geometry.audio_channels,
        "model": {
            "encoder": {"type": "oobleck", "config": encoder},
            "decoder": {"type": "oobleck", "config": decoder},
            "bottleneck": {"type": "vae"},
            "latent_dim": geometry.latent_dim,
            "downsampling_ratio": geometry.hop,
            "io_channels": geometry.audio_channels,
        },
    }


@torch.no_grad()
def level_latents(state: dict[str, Tensor], deviation: Tensor, last: str, first: str) -> None:
    """Rescale every latent dimension to unit standard deviation, without changing the sound.

    Parameters
    ----------
    state : dict of str to torch.Tensor
        Folded parameters, changed in place.
    deviation : torch.Tensor
        Standard deviation of each dimension so far.
    last, first : str
        Names of the encoder's last and the decoder's first convolution.
    """
    count = len(deviation)
    state[f"{last}.weight"][:count] /= deviation[:, None, None]
    state[f"{last}.bias"][:count] /= deviation
    # The scales pass through softplus, which for small values is nearly the exponential.
    state[f"{last}.bias"][count:] -= deviation.log()
    state[f"{first}.weight"] *= deviation[None, :, None]


def main(
    work: Annotated[Path, typer.Option(help="Folder with the run.")] = Path("tiny_work"),
    run: Annotated[str, typer.Option(help="Name of the run to export.")] = "run",
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; `export` in the work folder.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the network.")] = "tiny",
    soundfont: Annotated[Path, typer.Option(help="SoundFont to play from.")] = DEFAULT_SOUNDFONT,
) -> None:
    """Write the network, in half precision and with weight norm folded, and the demo pieces."""
    output = output or work / "export"
    (output / "pieces").mkdir(parents=True, exist_ok=True)
    checkpoint = torch.load(work / run / "checkpoint.pt", map_location="cpu", weights_only=True)
    geometry = Geometry.from_dict(checkpoint["geometry"])
    network = Autoencoder(geometry)
    network.load_state_dict(
        {
            key.removeprefix("module."): value
            for key, value in checkpoint["averaged"].items()
            if key.startswith("module.")
        }
    )
    state = folded_state(network)
    audio = np.load(work / "train.npy", mmap_mode="r")
    # Four seconds of every minute are enough to measure the level of the latents.
    pieces = [
        audio[start : start + 4 * SAMPLE_RATE] for start in range(0, len(audio), 60 * SAMPLE_RATE)
    ]
    with torch.no_grad():
        means = [network.encode(torch.from_numpy(piece.T[None].copy()))[0] for piece in pieces]
    deviation = torch.cat(means, dim=2).std(dim=(0, 2)).clamp(min=1e-3)
    layers = len(geometry.strides) + 2
    level_latents(state, deviation, f"encoder.layers.{layers}", "decoder.layers.0")
    half = {key: value.half().contiguous() for key, value in state.items()}
    if not all(value.isfinite().all() for value in half.values()):
        raise ValueError("a weight does not fit half precision")
    path = output / f"{name}.safetensors"
    metadata = {
        "config": json.dumps(model_config(geometry)),
        "licence": LICENCE,
        "origin": ORIGIN,
        "name": name,
    }
    save_file(half, path, metadata)
    path.chmod(0o644)

    codec = TorchCodec(path)
    for piece in DEMO_PIECES:
        audio = render_demo(piece, soundfont)
        latents = codec.encode(audio).astype(np.float16)
        np.save(output / "pieces" / f"{piece}.npy", latents)
        (output / "wav").mkdir(exist_ok=True)
        soundfile.write(output / "wav" / f"{piece}_original.wav", audio, SAMPLE_RATE)
        soundfile.write(output / "wav" / f"{piece}.wav", codec.decode(latents), SAMPLE_RATE)


if __name__ == "__main__":
    typer.run(main)
