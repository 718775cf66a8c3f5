"""Runs the decoder in other runtimes. Only the process of a peer imports this module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from oobleck_stream.arrays import FloatArray
from oobleck_stream.config import OobleckConfig
from oobleck_stream.network import Layer, decoder_layers
from oobleck_stream.reference import LayerTensors

Weights = Mapping[str, FloatArray]
Decode = Callable[[FloatArray], FloatArray]
"""A function from (1, latent_dim, frames) to (1, channels, samples), the layout of all these
runtimes.
"""


def diffusers(config: OobleckConfig, weights: Weights, threads: int) -> tuple[Decode, str]:
    """Return diffusers' decoder, which runs on PyTorch without weight norm, and a title for it."""
    import torch

    torch.set_num_threads(threads)
    module = _torch_module(config, weights)

    def decode(latents: FloatArray) -> FloatArray:
        with torch.inference_mode():
            samples: FloatArray = module(torch.from_numpy(latents)).numpy()
        return samples

    return decode, f"diffusers {version('diffusers')} on torch {version('torch')}"


def onnxruntime(config: OobleckConfig, weights: Weights, threads: int) -> tuple[Decode, str]:
    """Export diffusers' decoder to ONNX, with any number of frames, for ONNX Runtime on the CPU."""
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
    """Convert diffusers' decoder with OpenVINO, in float32 on the CPU.

    The model is compiled once for each number of frames, because that runs a little faster than a
    model with a dynamic shape.
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
    """Build diffusers' decoder with these parameters, in float32."""
    import torch

    from oobleck_stream.validation.filling import fill_module
    from oobleck_stream.validation.peers import diffusers_module

    module, _ = diffusers_module(config, "decoder")
    fill_module(module, _layer_tensors(config, weights), torch.float32)
    return module


def _layer_tensors(config: OobleckConfig, weights: Weights) -> Iterator[tuple[Layer, LayerTensors]]:
    """Yield the parameters of each layer."""
    for index, layer in enumerate(decoder_layers(config)):
        weight = weights[f"{index}.weight"]
        bias, alpha, beta = (weights.get(f"{index}.{part}") for part in ("bias", "alpha", "beta"))
        yield layer, LayerTensors(weight, None, bias, alpha, beta)
