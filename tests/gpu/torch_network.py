"""A packed network in PyTorch: a reference in float64, and a competitor in float32."""

from __future__ import annotations

import torch
from torch.nn import functional

from oobleck_stream.engine.packed import PackedNetwork, unpack_layer


def parts(network: PackedNetwork, device: str, kind: torch.dtype) -> list[tuple]:
    """Layers and their tensors on a device."""

    def tensor(array):
        return None if array is None else torch.from_numpy(array.copy()).to(device, kind)

    found = []
    for index, layer in enumerate(network.layers):
        weight, bias, alpha, inverse_beta = map(tensor, unpack_layer(network, index))
        if layer.snake:
            alpha, inverse_beta = alpha[:, None], inverse_beta[:, None]
        found.append((layer, weight, bias, alpha, inverse_beta))
    return found


def run(network_parts: list[tuple], rows: torch.Tensor) -> torch.Tensor:
    """(batch, inputs, frames) to (batch, outputs, samples)."""
    x, skipped = rows, rows
    for layer, weight, bias, alpha, inverse_beta in network_parts:
        before = x
        if layer.snake:
            x = x + inverse_beta * torch.sin(alpha * x) ** 2
        if layer.transposed:
            x = functional.conv_transpose1d(
                x, weight, bias, layer.stride, layer.padding, layer.output_padding
            )
        else:
            x = functional.conv1d(x, weight, bias, layer.stride, layer.padding, layer.dilation)
        if layer.residual:
            x = x + skipped
        if layer.tanh:
            x = torch.tanh(x)
        skipped = before
    return x


def decode(network: PackedNetwork, latents, device="cuda", kind=torch.float64):
    """(frames, latent_dim) to (samples, channels), as NumPy."""
    rows = torch.from_numpy(latents).to(device, kind).T[None]
    with torch.inference_mode():
        return run(parts(network, device, kind), rows)[0].T.contiguous().cpu().numpy()
