"""Running `oobleck_stream convert` on a small checkpoint with both halves."""

from __future__ import annotations

import json

import numpy as np
from checkpoint_files import safetensors_bytes
from command_line import run_command
from networks import random_audio, random_latents, random_tensors, stable_audio_config

import oobleck_stream as ob
from oobleck_stream.checkpoints.opening import open_container

# As many channels as the encoder has outputs: diffusers can have no other.
CONFIG = ob.OobleckConfig(
    latent_dim=3, channels=6, multiples=(1, 3), strides=(2, 3), samplerate=32000
)
DECODER = random_tensors(CONFIG)
TENSORS = DECODER | random_tensors(CONFIG, half="encoder")
LATENTS, AUDIO = random_latents(CONFIG, 7), random_audio(CONFIG, 40)
TARGETS = {
    "safetensors": ("a.safetensors",),
    "sharded": ("a.safetensors.index.json", "--shard-size", "3KB"),
    "stable-audio-tools": ("a", "--to", "stable-audio-tools"),
    "diffusers": ("a", "--to", "diffusers"),
    "protobuf": ("a", "--to", "protobuf"),
}


def convert(*arguments, status=0):
    """What the command printed, or its error message."""
    done = run_command("convert", *arguments)
    assert done.returncode == status, done.stderr
    report, message = done.stdout, done.stderr
    assert (len(message.splitlines()), bool(report)) == ((1, False) if status else (0, True))
    return message if status else report


def written(path, tensors=TENSORS, config=CONFIG, **options):
    """A safetensors file with a config and a licence in its metadata."""
    metadata = {"config": json.dumps(stable_audio_config(config)), "licence": "free"}
    path.write_bytes(safetensors_bytes(tensors, metadata=metadata, **options))
    return path


def stored(path):
    """The tensors of a container, in its dtypes."""
    path = path / "model.safetensors" if (path / "model.safetensors").exists() else path
    tensors = open_container(path).tensors
    return {name: (tensor.dtype, np.array(tensor.read())) for name, tensor in tensors.items()}


def assert_same(found, wanted):
    """The same names, dtypes, shapes and numbers."""
    assert found.keys() == wanted.keys()
    for name, (dtype, values) in found.items():
        assert dtype == wanted[name][0], name
        np.testing.assert_array_equal(values, wanted[name][1], strict=True)


def assert_sounds_the_same(source, wanted, encoder=True):
    """Two checkpoints decode and encode bit-identically."""
    model, reference = ob.load(source), ob.load(wanted)
    np.testing.assert_array_equal(model.decode(LATENTS), reference.decode(LATENTS))
    if encoder:
        np.testing.assert_array_equal(model.encode(AUDIO), reference.encode(AUDIO))
