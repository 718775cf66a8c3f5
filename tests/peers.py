"""The reference implementations, run in float64 on given tensors."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
import types

import numpy as np
import torch


def _load(module, tensors):
    state = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    module.load_state_dict(state)
    return module.double().eval()


def _run(module, rows):
    with torch.no_grad():
        x = torch.from_numpy(np.asarray(rows, float).T.copy())[None]
        return module(x)[0].T.numpy()


_BLOCKS = {
    "decoder": ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"),
    "encoder": ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"),
}


def diffusers_names(tensors, depth, half="decoder"):
    """Stable-audio-tools' tensors of a half under diffusers' names, Snake as (1, C, 1)."""
    renamed = {}
    for name, value in tensors.items():
        parts = name.removeprefix(f"{half}.layers.").split(".")
        block = int(parts[0])
        if block == 0:
            key = f"conv1.{parts[-1]}"
        elif block == depth + 1:
            key = f"snake1.{parts[-1]}"
        elif block == depth + 2:
            key = f"conv2.{parts[-1]}"
        else:
            key = f"block.{block - 1}.{_BLOCKS[half][int(parts[2])]}."
            if len(parts) == 6:
                key += ("snake1", "conv1", "snake2", "conv2")[int(parts[4])] + "."
            key += parts[-1]
        renamed[key] = value[None, :, None] if key.endswith(("alpha", "beta")) else value
    return renamed


def cosmos_decode(config, tensors, latents):
    """The decoder inside diffusers' Cosmos3 audio tokenizer."""
    from diffusers.models.autoencoders.autoencoder_cosmos3_audio import Cosmos3AudioDecoder

    return _diffusers_decode(Cosmos3AudioDecoder, config, tensors, latents)


def diffusers_decode(config, tensors, latents):
    """The decoder inside diffusers' AutoencoderOobleck."""
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder

    return _diffusers_decode(OobleckDecoder, config, tensors, latents)


def _diffusers_decode(kind, config, tensors, latents):
    module = kind(
        channels=config.channels,
        input_channels=config.latent_dim,
        audio_channels=config.audio_channels,
        upsampling_ratios=list(reversed(config.strides)),
        channel_multiples=list(config.multiples),
    )
    return _run(_load(module, diffusers_names(tensors, len(config.strides))), latents)


def diffusers_encode(config, tensors, audio):
    """Means and scales by the encoder inside diffusers' AutoencoderOobleck."""
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckEncoder

    if config.channels != 2 * config.latent_dim:
        raise ValueError("diffusers has one number for the width and for the outputs")
    module = OobleckEncoder(
        encoder_hidden_size=config.channels,
        audio_channels=config.audio_channels,
        downsampling_ratios=list(config.strides),
        channel_multiples=list(config.multiples),
    )
    return _run(_load(module, diffusers_names(tensors, len(config.strides), "encoder")), audio)


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for every name that nothing else finds."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)

        def anything(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (torch.nn.Module,), {})

        module.__getattr__ = anything
        return module

    def exec_module(self, module):
        pass


@contextlib.contextmanager
def stand_ins():
    """Stable-audio-tools imports a dozen packages that its Oobleck classes never use."""
    finder, before = _StandIns(), set(sys.modules)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name].__spec__, "loader", None) is finder:
                del sys.modules[name]


def stable_audio_tools_decode(config, tensors, latents):
    """Stable-audio-tools' OobleckDecoder."""
    with stand_ins():
        from stable_audio_tools.models.autoencoders import OobleckDecoder
    module = OobleckDecoder(
        out_channels=config.audio_channels,
        channels=config.channels,
        latent_dim=config.latent_dim,
        c_mults=list(config.multiples),
        strides=list(config.strides),
        use_snake=True,
        final_tanh=config.final_tanh,
    )
    named = {name.removeprefix("decoder."): value for name, value in tensors.items()}
    return _run(_load(module, named), latents)


def stable_audio_tools_encode(config, tensors, audio):
    """Means and scales by stable-audio-tools' OobleckEncoder."""
    with stand_ins():
        from stable_audio_tools.models.autoencoders import OobleckEncoder
    module = OobleckEncoder(
        in_channels=config.audio_channels,
        channels=config.channels,
        latent_dim=2 * config.latent_dim,
        c_mults=list(config.multiples),
        strides=list(config.strides),
        use_snake=True,
    )
    named = {name.removeprefix("encoder."): value for name, value in tensors.items()}
    return _run(_load(module, named), audio)
