"""The same network in other runtimes; imported only inside a peer's own process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from oobleck_stream.arrays import FloatArray
from oobleck_stream.config import OobleckConfig
from oobleck_stream.network import decoder_layers

Weights = Mapping[str, FloatArray]
Decode = Callable[[FloatArray], FloatArray]
"""From (1, latent_dim, frames) to (1, channels, samples), as all of them have it."""


def diffusers(config: OobleckConfig, weights: Weights, threads: int) -> tuple[Decode, str]:
    """Diffusers' decoder on PyTorch, weight norm removed; also what it is."""
    import torch

    torch.set_num_threads(threads)
    module = _torch_module(config, weights)

    def decode(latents: FloatArray) -> FloatArray:
        with torch.inference_mode():
            samples: FloatArray = module(torch.from_numpy(latents)).numpy()
        return samples

    return decode, f"diffusers {version('diffusers')} on torch {version('torch')}"


def onnxruntime(config: OobleckConfig, weights: Weights, threads: int) -> tuple[Decode, str]:
    """The same, exported to ONNX with any number of frames, in ONNX Runtime on the CPU."""
    import onnxruntime as runtime
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "decoder.onnx")
        torch.onnx.export(
            _torch_module(config, weights),
            (torch.zeros(1, config.latent_dim, 16),),
            path,
            input_names=["latents"],
            output_names=["samples"],
            dynamic_shapes=({2: torch.export.Dim("frames", min=2)},),
            dynamo=True,
            verbose=False,
        )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def decode(latents: FloatArray) -> FloatArray:
        samples: FloatArray = session.run(None, {"latents": latents})[0]
        return samples

    return decode, f"ONNX Runtime {version('onnxruntime')}"


def openvino(config: OobleckConfig, weights: Weights, threads: int) -> tuple[Decode, str]:
    """The same, converted by OpenVINO, in float32 on the CPU.

    Compiled for each number of frames by itself: a little faster than for any number at once.
    """
    import openvino as runtime
    import torch

    model = runtime.convert_model(
        _torch_module(config, weights), example_input=torch.zeros(1, config.latent_dim, 16)
    )
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    core, compiled = runtime.Core(), {}

    def decode(latents: FloatArray) -> FloatArray:
        frames = latents.shape[2]
        if frames not in compiled:
            model.reshape(latents.shape)
            compiled[frames] = core.compile_model(model, "CPU", settings)
        samples: FloatArray = compiled[frames](latents)[0]
        return samples

    return decode, f"OpenVINO {version('openvino')}"


NETWORKS = {"diffusers": diffusers, "onnxruntime": onnxruntime, "openvino": openvino}


def _torch_module(config: OobleckConfig, weights: Weights) -> Any:
    """Diffusers' decoder with our parameters, Snake's scales taken beforehand."""
    import torch
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, Snake1d

    module = OobleckDecoder(
        channels=config.channels,
        input_channels=config.latent_dim,
        audio_channels=config.audio_channels,
        upsampling_ratios=list(reversed(config.strides)),
        channel_multiples=list(config.multiples),
    )
    convolutions = _of_kind(module, (torch.nn.Conv1d, torch.nn.ConvTranspose1d))
    snakes = _of_kind(module, (Snake1d,))
    for index, layer in enumerate(decoder_layers(config)):
        if layer.snake:
            snake = next(snakes)
            snake.logscale = False
            alpha, inverse_beta = weights[f"{index}.alpha"], weights[f"{index}.inverse_beta"]
            snake.alpha.data = torch.from_numpy(alpha[None, :, None])
            snake.beta.data = torch.from_numpy((1 / inverse_beta)[None, :, None])
        convolution = next(convolutions)
        torch.nn.utils.remove_weight_norm(convolution)
        convolution.weight.data = torch.from_numpy(weights[f"{index}.weight"])
        if layer.bias:
            convolution.bias.data = torch.from_numpy(weights[f"{index}.bias"])
    return module.eval().requires_grad_(False)


def _of_kind(module: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """A module's parts of some kinds, in the order in which they run."""
    return iter([part for part in module.modules() if isinstance(part, kinds)])
