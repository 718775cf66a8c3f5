"""Builds the same network in other libraries (peers), in float64.

Each library is imported only on request.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.config import OobleckConfig
from oobleck_stream.errors import InputError
from oobleck_stream.reference import Tensors, TorchOperations, prepare
from oobleck_stream.validation.check import Reference, Visit
from oobleck_stream.validation.stages import (
    FINAL_SNAKE,
    INPUT_CONV,
    OUTPUT,
    Half,
    reference_outputs,
)

HINTS = {
    "torch": "pip install 'oobleck_stream[peers]'",
    "diffusers": "pip install 'oobleck_stream[peers]'",
    "stable-audio-tools": "pip install stable-audio-tools",
}
"""Maps each peer to the command that installs it."""

_FIXED = (
    "dilations",
    "kernel",
    "kernel_per_stride",
    "transpose_padding",
    "bias",
    "output_bias",
    "snake_epsilon",
)
"""Config fields for which the libraries support only the default value of `OobleckConfig`."""


def refusal(peer: str, config: OobleckConfig, half: Half) -> str | None:
    """Return the reason why a peer can't build a network, or None if the peer can build it.

    Parameters
    ----------
    peer : str
        One of `HINTS`.
    config : OobleckConfig
    half : {"decoder", "encoder"}
    """
    if peer == "torch":
        return None
    default = OobleckConfig()
    fixed = list(_FIXED)
    if half == "decoder":
        # Diffusers' Cosmos3 decoder pads the output, but its Oobleck decoder does not.
        cosmos = peer == "diffusers" and config.output_padding == "s%2"
        fixed += [] if cosmos else ["output_padding"]
        fixed += ["final_tanh"] if peer == "diffusers" else []
    for name in fixed:
        if getattr(config, name) != getattr(default, name):
            return f"{peer} has no network whose {name} is {getattr(config, name)}"
    if peer == "diffusers" and half == "encoder" and config.channels != 2 * config.latent_dim:
        return (
            f"{peer} has one number for an encoder's channels and outputs, "
            f"not {config.channels} and {2 * config.latent_dim}"
        )
    return None


def peer_reference(
    peer: str,
    config: OobleckConfig,
    half: Half,
    tensors: Tensors,
    rows: FloatArray,
    layers: bool = False,
) -> Reference:
    """Return a `Reference` with the stages that a peer computes in float64 on the CPU.

    Parameters
    ----------
    peer : str
        ``"diffusers"`` and ``"stable-audio-tools"`` use the library's own modules. ``"torch"`` uses
        `oobleck_stream.reference` with torch's operations, and works for every network of the
        family.
    config : OobleckConfig
    half : {"decoder", "encoder"}
    tensors : iterable of (Layer, LayerTensors)
        All layers of the decoder or encoder, in order.
    rows : (n, inputs) float32
        The whole input.
    layers : bool
        Whether the reference calls its `Visit` for every stage, or only for the output.

    Raises
    ------
    InputError
        If the peer is not installed, or can't build the network.
    """
    problem = refusal(peer, config, half)
    if problem:
        raise InputError(f"{problem}; the peer torch has every network")
    try:
        # What a library prints during its import must not appear on standard output.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = _opened(peer, config, half, tensors)
    except ImportError as error:
        raise InputError(f"the peer {peer} is not installed ({error}): {HINTS[peer]}") from error

    def visit_all(visit: Visit) -> None:
        run(rows, visit if layers else _only(OUTPUT, visit))

    return visit_all


def _opened(
    peer: str, config: OobleckConfig, half: Half, tensors: Tensors
) -> Callable[[FloatArray, Visit], None]:
    """Return a function that runs the peer's network and calls its argument for each stage."""
    if peer == "torch":
        operations = TorchOperations()
        network = prepare(tensors, operations, config.snake_epsilon)

        def run_reference(rows: FloatArray, visit: Visit) -> None:
            for name, found in reference_outputs(network, rows, operations):
                visit(name, found)

        return run_reference

    from oobleck_stream.validation.filling import fill_module

    if peer == "diffusers":
        module, parts = diffusers_module(config, half)
    else:
        module, parts = _stable_audio_tools_module(config, half)
    fill_module(module, tensors)

    def run(rows: FloatArray, visit: Visit) -> None:
        _run(module, parts, rows, visit)

    return run


def _only(requested: str, visit: Visit) -> Visit:
    """Return a `Visit` that ignores all stages but one."""

    def visited(name: str, rows: Any) -> None:
        if name == requested:
            visit(name, rows)

    return visited


def diffusers_module(config: OobleckConfig, half: Half) -> tuple[Any, dict[str, Any]]:
    """Build diffusers' decoder or encoder with random parameters.

    Returns
    -------
    module : torch.nn.Module
    parts : dict of str to torch.nn.Module
        The submodule of each stage except the output.

    Raises
    ------
    ImportError
        If diffusers or torch is not installed.
    """
    from diffusers.models.autoencoders import autoencoder_oobleck as oobleck

    if half == "encoder":
        module = oobleck.OobleckEncoder(
            encoder_hidden_size=config.channels,
            audio_channels=config.audio_channels,
            downsampling_ratios=list(config.strides),
            channel_multiples=list(config.multiples),
        )
    else:
        kind = oobleck.OobleckDecoder
        if config.output_padding == "s%2":
            from diffusers.models.autoencoders import autoencoder_cosmos3_audio as cosmos

            kind = cosmos.Cosmos3AudioDecoder
        module = kind(
            channels=config.channels,
            input_channels=config.latent_dim,
            audio_channels=config.audio_channels,
            upsampling_ratios=list(reversed(config.strides)),
            channel_multiples=list(config.multiples),
        )
    return module, _named_parts(module.conv1, list(module.block), module.snake1)


def _stable_audio_tools_module(config: OobleckConfig, half: Half) -> tuple[Any, dict[str, Any]]:
    """Build stable-audio-tools' decoder or encoder. The result is as for `diffusers_module`."""
    autoencoders = importlib.import_module("stable_audio_tools.models.autoencoders")

    common = {
        "channels": config.channels,
        "c_mults": list(config.multiples),
        "strides": list(config.strides),
        "use_snake": True,
    }
    if half == "encoder":
        module = autoencoders.OobleckEncoder(
            in_channels=config.audio_channels, latent_dim=2 * config.latent_dim, **common
        )
    else:
        module = autoencoders.OobleckDecoder(
            out_channels=config.audio_channels,
            latent_dim=config.latent_dim,
            final_tanh=config.final_tanh,
            **common,
        )
    depth, layers = len(config.strides), list(module.layers)
    return module, _named_parts(layers[0], layers[1 : depth + 1], layers[depth + 1])


def _named_parts(first: Any, blocks: list[Any], snake: Any) -> dict[str, Any]:
    numbered = {f"block_{number}": block for number, block in enumerate(blocks, start=1)}
    return {INPUT_CONV: first, **numbered, FINAL_SNAKE: snake}


def _run(module: Any, parts: dict[str, Any], rows: FloatArray, visit: Visit) -> None:
    """Run a module. Call `visit` with the rows of each part as soon as they are computed."""
    import torch

    def hook(name: str) -> Callable[[Any, Any, Any], None]:
        return lambda part, inputs, output: visit(name, output[0].T.numpy())

    with contextlib.ExitStack() as stack, torch.inference_mode():
        for name, part in parts.items():
            stack.callback(part.register_forward_hook(hook(name)).remove)
        output = module(torch.from_numpy(rows.astype(np.float64).T.copy())[None])
        visit(OUTPUT, output[0].T.numpy())
