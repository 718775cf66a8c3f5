"""Small networks with random weights, as checkpoints hold them and as models."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import oobleck_stream as ob
from oobleck_stream.formats.dtypes import from_stored, to_stored
from oobleck_stream.network import decoder_layers, encoder_layers
from oobleck_stream.parameters import fold_snake, fold_weight_norm, pack_network
from oobleck_stream.reference import LayerTensors

GEOMETRIES = {
    "stable-audio-open-1.0": {},
    "ace-step-1.5": {},
    "ezaudio": {},
    "yue2": {},
    "cosmos3": {},
    "document": {"strides": (2, 3, 4, 2, 4)},
}
"""One preset of every geometry; "document" (oobleck-65536x) with smaller strides, odd and even."""

ENCODING = [name for name in GEOMETRIES if ob.PRESETS[name].has_encoder]
"""Those that have an encoder."""

HALVES = {"decoder": decoder_layers, "encoder": encoder_layers}


def small(name, channels=4, **changes):
    """A preset at a small width."""
    return ob.PRESETS[name].replace(channels=channels, **GEOMETRIES[name], **changes)


def random_tensors(config, seed=0, half="decoder"):
    """Float32 tensors under stable-audio-tools' names, drawn as torch draws new layers.

    The logarithms of Snake's parameters are N(0, 0.3): wider draws make the network chaotic.
    """
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in HALVES[half](config):
        shape = (layer.outputs, layer.inputs, layer.kernel)
        if layer.transposed:
            shape = (layer.inputs, layer.outputs, layer.kernel)
        bound = 1 / np.sqrt(shape[1] * shape[2])
        v = generator.uniform(-bound, bound, shape).astype(np.float32)
        norms = np.sqrt((v.astype(float) ** 2).sum(axis=(1, 2), keepdims=True))
        tensors[f"{layer.name}.weight_v"] = v
        tensors[f"{layer.name}.weight_g"] = (
            norms * generator.uniform(0.8, 1.2, norms.shape)
        ).astype(np.float32)
        if layer.bias:
            tensors[f"{layer.name}.bias"] = generator.uniform(-bound, bound, layer.outputs).astype(
                np.float32
            )
        if layer.snake:
            for part in ("alpha", "beta"):
                logarithm = 0.3 * generator.standard_normal(layer.inputs)
                value = logarithm if config.snake_log_scale else np.exp(logarithm)
                tensors[f"{layer.snake}.{part}"] = value.astype(np.float32)
    return tensors


def rounded(values, dtype):
    """Float32 values rounded to a dtype of 16 bits, named as in safetensors."""
    stored = to_stored(values, dtype, "values")
    return from_stored(stored.view(np.uint8), dtype).astype(np.float32)


class TensorParameters:
    """The product's `Parameters`, straight from such tensors; the folded weights may be rounded."""

    def __init__(self, tensors, config, dtype=None):
        self.tensors, self.config, self.dtype = tensors, config, dtype

    def weight(self, layer):
        parts = (self.tensors[f"{layer.name}.weight_{part}"] for part in "gv")
        folded = fold_weight_norm(*parts)
        return folded if self.dtype is None else rounded(folded, self.dtype)

    def bias(self, layer):
        return self.tensors[f"{layer.name}.bias"]

    def snake(self, layer):
        parts = (self.tensors[f"{layer.snake}.{part}"] for part in ("alpha", "beta"))
        return fold_snake(*parts, self.config)


def layer_tensors(layers, tensors, config):
    """The same tensors for the reference."""
    for index, layer in enumerate(layers):
        g, v = (tensors[f"{layer.name}.weight_{part}"] for part in "gv")
        alpha, beta = (tensors.get(f"{layer.snake}.{part}") for part in ("alpha", "beta"))
        bias = tensors.get(f"{layer.name}.bias")
        scale = config.latent_scale if index == 0 and layer.name.startswith("decoder.") else 1.0
        yield layer, LayerTensors(v, g, bias, alpha, beta, config.snake_log_scale, scale)


def packed(layers, tensors, config):
    """Some layers of a network, packed."""
    return pack_network(layers, TensorParameters(tensors, config))


def model_of(config, seed=0, dtype=None):
    """A model with `random_tensors`; with `dtype`, its folded weights are rounded to that."""

    def half(name, scale=1.0):
        parameters = TensorParameters(random_tensors(config, seed, name), config, dtype)
        return pack_network(HALVES[name](config), parameters, scale)

    decoder = half("decoder", config.latent_scale)
    return ob.Model(
        config, decoder, "random test network", load_encoder=functools.partial(half, "encoder")
    )


def stable_audio_config(config):
    """The text of stable-audio-tools' model_config.json for a config."""
    decoder = {
        "out_channels": config.audio_channels,
        "channels": config.channels,
        "c_mults": list(config.multiples),
        "strides": list(config.strides),
        "latent_dim": config.latent_dim,
        "use_snake": True,
        "final_tanh": config.final_tanh,
    }
    return {
        "model_type": "autoencoder",
        "sample_rate": config.samplerate,
        "audio_channels": config.audio_channels,
        "model": {
            "encoder": {"type": "oobleck", "config": {}},
            "decoder": {"type": "oobleck", "config": decoder},
            "bottleneck": {"type": "vae"},
            "latent_dim": config.latent_dim,
            "downsampling_ratio": config.hop,
            "io_channels": config.audio_channels,
        },
    }


def write_folder(folder, config, tensors):
    """Write a checkpoint folder in stable-audio-tools' form."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_config.json").write_text(json.dumps(stable_audio_config(config)))
    save_file(tensors, folder / "model.safetensors")
    return folder


def random_latents(config, frames, seed=1):
    """Standard normal latents (frames, latent_dim) float32."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal((frames, config.latent_dim), np.float32)


def random_audio(config, samples, seed=2):
    """Normal noise (samples, audio_channels) float32, 0.3 in size."""
    generator = np.random.default_rng(seed)
    shape = (samples, config.audio_channels)
    return np.float32(0.3) * generator.standard_normal(shape, np.float32)


def signal_to_noise(reference, value):
    """Decibels of a reference over its difference to a value."""
    noise = np.mean((np.asarray(value, float) - reference) ** 2)
    return np.inf if noise == 0 else 10 * np.log10(np.mean(np.asarray(reference) ** 2) / noise)


ENCODER_CONFIGS = {name: small(name) for name in ENCODING} | {
    "tiles": ob.OobleckConfig(latent_dim=8, channels=64, multiples=(1, 3, 3), strides=(2, 4, 32))
}
"""Small networks that encode. "tiles" has tiles of two and of four rows, joined and alone."""

SHORT_FRAMES = ob.PRESETS["yue2"].replace(
    channels=4, multiples=(1, 2, 4), strides=(2, 3, 4), latent_dim=5
)
"""A stereo network with few samples per frame, and an odd stride among the others."""
