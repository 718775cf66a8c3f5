"""Writing checkpoints in every form that is met in the wild."""

from __future__ import annotations

import json
import re

import numpy as np
from networks import TensorParameters

from oobleck_stream import Model
from oobleck_stream.network import decoder_layers
from oobleck_stream.parameters import fold_weight_norm, pack_network

DTYPES = ("F32", "F64", "F16", "BF16")
_NUMPY = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8"}


def as_bytes(values, dtype):
    """Numbers as a safetensors dtype has them; bfloat16 rounds half to even."""
    if dtype != "BF16":
        return values.astype(_NUMPY[dtype]).tobytes()
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def rounded(values, dtype):
    """What a reader finds of float32 numbers that were written with a dtype, as float32."""
    stored = as_bytes(values, dtype)
    if dtype == "BF16":
        numbers = (np.frombuffer(stored, "<u2").astype("<u4") << 16).view("<f4")
    else:
        numbers = np.frombuffer(stored, _NUMPY[dtype]).astype(np.float32)
    return numbers.reshape(values.shape)


def safetensors_bytes(tensors, dtype="F32", metadata=None):
    """A safetensors file, header and all."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, values in tensors.items():
        stored = as_bytes(values, "I64" if values.dtype == np.int64 else dtype)
        header[name] = {
            "dtype": "I64" if values.dtype == np.int64 else dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(stored)],
        }
        data += stored
    return with_header(header, data)


def with_header(header, data=b""):
    """A safetensors file of a header, as an object or as raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def folded(tensors):
    """Without weight norm."""
    plain = {}
    for name, values in tensors.items():
        module, _, suffix = name.rpartition(".")
        if suffix == "weight_v":
            plain[f"{module}.weight"] = fold_weight_norm(tensors[f"{module}.weight_g"], values)
        elif suffix != "weight_g":
            plain[name] = values
    return plain


def parametrized(tensors):
    """Weight norm as newer versions of torch spell it."""
    spelling = {"weight_g": "parametrizations.weight.original0"}
    spelling["weight_v"] = "parametrizations.weight.original1"
    return {
        re.sub(r"weight_[gv]$", lambda match: spelling[match[0]], name): values
        for name, values in tensors.items()
    }


WEIGHT_NORMS = {"old": dict, "new": parametrized, "folded": folded}


def diffusers_form(tensors, depth):
    """The tensors of a decoder as diffusers names and shapes them."""
    inner = {"2.layers": "res_unit1", "3.layers": "res_unit2", "4.layers": "res_unit3"}
    parts = ("snake1", "conv1", "snake2", "conv2")
    renamed = {}
    for name, values in tensors.items():
        block, rest = re.fullmatch(r"decoder\.layers\.(\d+)\.(.*)", name).groups()
        if int(block) in (0, depth + 1, depth + 2):
            key = {0: "conv1", depth + 1: "snake1", depth + 2: "conv2"}[int(block)] + f".{rest}"
        else:
            rest = rest.removeprefix("layers.")
            rest = re.sub(r"^0\.", "snake1.", re.sub(r"^1\.", "conv_t1.", rest))
            rest = re.sub(
                r"^([234]\.layers)\.(\d)", lambda m: f"{inner[m[1]]}.{parts[int(m[2])]}", rest
            )
            key = f"block.{int(block) - 1}.{rest}"
        is_snake = name.endswith(("alpha", "beta"))
        renamed[f"decoder.{key}"] = values[None, :, None] if is_snake else values
    return renamed


def diffusers_config(config):
    """The config.json of diffusers' AutoencoderOobleck."""
    return {
        "_class_name": "AutoencoderOobleck",
        "_diffusers_version": "0.30.0",
        "audio_channels": config.audio_channels,
        "channel_multiples": list(config.multiples),
        "decoder_channels": config.channels,
        "decoder_input_channels": config.latent_dim,
        "downsampling_ratios": list(config.strides),
        "encoder_hidden_size": config.channels,
        "sampling_rate": config.samplerate,
    }


def cosmos_config(config):
    """The config.json of Cosmos3's audio tokenizer, as far as it matters to the decoder."""
    return {
        "_class_name": "Cosmos3AVAEAudioTokenizer",
        "model_type": "autoencoder_v2",
        "sampling_rate": config.samplerate,
        "vocoder_input_dim": config.latent_dim,
        "dec_dim": config.channels,
        "dec_c_mults": list(config.multiples),
        "dec_strides": list(config.strides),
        "dec_out_channels": config.audio_channels,
    }


class FoldedParameters(TensorParameters):
    """The product's `Parameters`, from tensors without weight norm."""

    def weight(self, layer):
        return self.tensors[f"{layer.name}.weight"]


def model_of_tensors(config, tensors):
    """A model of tensors under stable-audio-tools' names."""
    has_norm = any(name.endswith("weight_g") for name in tensors)
    parameters = (TensorParameters if has_norm else FoldedParameters)(tensors, config)
    layers = decoder_layers(config)
    return Model(config, pack_network(layers, parameters, config.latent_scale))
