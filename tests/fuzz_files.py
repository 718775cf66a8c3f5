"""Small real files of every kind that is read: what the fuzz tests begin with."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
from checkpoint_files import diffusers_config, diffusers_form, parametrized, safetensors_bytes
from networks import random_latents, random_tensors, stable_audio_config

import oobleck_stream as ob
from oobleck_stream.checkpoints.packed_file import write_packed
from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData
from oobleck_stream.conversion.config_texts import own_config

CONFIG = ob.OobleckConfig(latent_dim=3, channels=2, multiples=(1, 2), strides=(2, 3))
DOCUMENT = ob.PRESETS["document"].replace(
    latent_dim=3, channels=2, multiples=(1, 2), strides=(2, 3), samplerate=8000
)
LATENTS = random_latents(CONFIG, 7)


def _tensors(config):
    return random_tensors(config) | random_tensors(config, half="encoder")


def _library(tensors, double):
    library = CollectionLibraryData()
    for name, values in tensors.items():
        entry = library.collections.add(key=name)
        entry.collection.traversal_policy.dims.extend(values.shape)
        numbers = entry.collection.data if double else entry.collection.data_32
        numbers.extend(values.ravel().tolist())
    return library.SerializeToString()


def _dealt(tensors, count):
    names = list(tensors)
    return [{name: tensors[name] for name in names[n::count]} for n in range(count)]


def _sharded():
    places, files = {}, {"model_config.json": _text(stable_audio_config(CONFIG))}
    for number, part in enumerate(_dealt(random_tensors(CONFIG), 2)):
        files[f"model-{number}.safetensors"] = safetensors_bytes(part, "F64")
        places |= dict.fromkeys(part, f"model-{number}.safetensors")
    return files | {"model.safetensors.index.json": _text({"weight_map": places})}


def _diffusion_model():
    config = stable_audio_config(CONFIG)
    pretransform = {"type": "autoencoder", "scale": 0.5, "config": config["model"]}
    tensors = {f"pretransform.model.{k}": v for k, v in parametrized(_tensors(CONFIG)).items()}
    return {
        "model_config.json": _text({"sample_rate": 8000, "model": {"pretransform": pretransform}}),
        "model.safetensors": safetensors_bytes(tensors, "BF16"),
    }


def _packed():
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "a.safetensors", Path(folder) / "a.packed.safetensors"
        plain.write_bytes(safetensors_bytes(random_tensors(CONFIG)))
        write_packed(packed, ob.load(plain))
        return packed.read_bytes()


def _protobuf():
    libraries = enumerate(_dealt(_tensors(CONFIG), 3))
    files = {f"part{n}.pb": _library(part, double=n == 1) for n, part in libraries}
    return files | {".config.json": own_config(CONFIG).encode()}


def _text(values):
    return json.dumps(values).encode()


def _saved(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def _flat(numbers):
    return np.array(numbers.size, "<i4").tobytes() + numbers.astype("<f4").tobytes()


_STABLE_AUDIO = {"config": json.dumps(stable_audio_config(CONFIG))}

CHECKPOINTS = {
    "safetensors": {
        "a.safetensors": safetensors_bytes(_tensors(CONFIG), metadata=_STABLE_AUDIO),
    },
    "own config": {
        "config.json": own_config(DOCUMENT).encode(),
        "model.safetensors": safetensors_bytes(_tensors(DOCUMENT)),
    },
    "sharded": _sharded(),
    "diffusers": {
        "config.json": _text(diffusers_config(CONFIG)),
        "diffusion_pytorch_model.safetensors": safetensors_bytes(
            diffusers_form(random_tensors(CONFIG), 2), "F16"
        ),
    },
    "stable-audio-tools": _diffusion_model(),
    "packed": {"a.packed.safetensors": _packed()},
    "protobuf": _protobuf(),
}
"""Files of a folder, by name."""

LATENT_FILES = {
    "a.npy": _saved(np.save, LATENTS),
    "a.npz": _saved(np.savez, latents=LATENTS, more=np.arange(5)),
    "a.safetensors": safetensors_bytes({"latents": LATENTS}, metadata={"model": "ezaudio"}),
    "a.bin": _flat(LATENTS.T),
}
"""Each a file of 7 frames of 3 numbers."""

OTHERS = [data for files in CHECKPOINTS.values() for data in files.values()]
OTHERS += LATENT_FILES.values()
"""All of them, for splicing."""
