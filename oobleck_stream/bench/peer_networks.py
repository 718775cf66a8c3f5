"""Builds the decoder or the encoder in other runtimes (peers).

Only `oobleck_stream.bench.peer` imports this module, in the process of a peer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from oobleck_stream.arrays import FloatArray
from oobleck_stream.config import OobleckConfig
from oobleck_stream.network import Layer, decoder_layers, encoder_layers
from oobleck_stream.reference import LayerTensors
from oobleck_stream.validation.stages import Half

Weights = Mapping[str, FloatArray]
Run = Callable[[FloatArray], FloatArray]
"""A function from latents to samples, or from samples to means and scales. Its input has the shape
(1, inputs, rows), and its output (1, outputs, rows), as all these runtimes require.
"""

EXAMPLE_FRAMES = 16
"""Number of frames of the example input with which a network is exported."""


def diffusers(config: OobleckConfig, half: Half, weights: Weights, threads: int) -> tuple[Run, str]:
    """Return diffusers' network, which runs on PyTorch without weight norm, and a title for it."""
    import torch

    torch.set_num_threads(threads)
    module, _ = _torch_module(config, half, weights)

    def run(rows: FloatArray) -> FloatArray:
        with torch.inference_mode():
            result: FloatArray = module(torch.from_numpy(rows)).numpy()
        return result

    return run, f"diffusers {version('diffusers')} on torch {version('torch')}"


def onnxruntime(
    config: OobleckConfig, half: Half, weights: Weights, threads: int
) -> tuple[Run, str]:
    """Return diffusers' network, exported to ONNX for ONNX Runtime on the CPU, and a title for it.

    The exported network accepts any number of frames.
    """
    import onnxruntime as runtime
    import torch

    module, example = _torch_module(config, half, weights)
    frames = torch.export.Dim("frames", min=2)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.onnx")
        torch.onnx.export(
            module,
            (example,),
            path,
            input_names=["rows"],
            output_names=["result"],
            dynamic_shapes=({2: frames if half == "decoder" else config.hop * frames},),
            dynamo=True,
            verbose=False,
        )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(rows: FloatArray) -> FloatArray:
        result: FloatArray = session.run(None, {"rows": rows})[0]
        return result

    return run, f"ONNX Runtime {version('onnxruntime')}"


def openvino(config: OobleckConfig, half: Half, weights: Weights, threads: int) -> tuple[Run, str]:
    """Return diffusers' network, converted with OpenVINO for float32 on the CPU, and a title.

    The model is compiled once for each number of rows, because a model with a fixed shape runs a
    little faster than a model with a dynamic shape.
    """
    import openvino as runtime

    module, example = _torch_module(config, half, weights)
    model = runtime.convert_model(module, example_input=example)
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    core, compiled = runtime.Core(), {}

    def run(rows: FloatArray) -> FloatArray:
        count = rows.shape[2]
        if count not in compiled:
            model.reshape(rows.shape)
            compiled[count] = core.compile_model(model, "CPU", settings)
        result: FloatArray = compiled[count](rows)[0]
        return result

    return run, f"OpenVINO {version('openvino')}"


NETWORKS = {"diffusers": diffusers, "onnxruntime": onnxruntime, "openvino": openvino}


def _torch_module(config: OobleckConfig, half: Half, weights: Weights) -> tuple[Any, Any]:
    """Build diffusers' decoder or encoder, and an example input for it, both in float32."""
    import torch

    from oobleck_stream.validation.filling import fill_module
    from oobleck_stream.validation.peers import diffusers_module

    layers = decoder_layers(config) if half == "decoder" else encoder_layers(config)
    rows = EXAMPLE_FRAMES * (1 if half == "decoder" else config.hop)
    module, _ = diffusers_module(config, half)
    fill_module(module, _layer_tensors(layers, weights), torch.float32)
    return module, torch.zeros(1, layers[0].inputs, rows)


def _layer_tensors(layers: list[Layer], weights: Weights) -> Iterator[tuple[Layer, LayerTensors]]:
    """Yield each layer and its parameters."""
    for index, layer in enumerate(layers):
        weight = weights[f"{index}.weight"]
        bias, alpha, beta = (weights.get(f"{index}.{part}") for part in ("bias", "alpha", "beta"))
        yield layer, LayerTensors(weight, None, bias, alpha, beta)
