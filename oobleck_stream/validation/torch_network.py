"""Any network of the family by torch's functional operations, from its formulas, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from oobleck_stream.arrays import FloatArray
from oobleck_stream.network import Layer
from oobleck_stream.validation.check import Visit
from oobleck_stream.validation.stages import FINAL_SNAKE, stages
from oobleck_stream.validation.tensors import LayerTensors, Tensors


class TorchNetwork:
    """A decoder or an encoder.

    Parameters
    ----------
    tensors : iterable of (Layer, LayerTensors)
        Of the whole half, in order.
    epsilon : float
        Added to Snake's beta, after exp.
    """

    def __init__(self, tensors: Tensors, epsilon: float) -> None:
        self._layers = [_TorchLayer(layer, given, epsilon) for layer, given in tensors]

    def run(self, rows: FloatArray, visit: Visit) -> None:
        """Run over a whole input (n, inputs); visit the rows of every stage."""
        x = torch.from_numpy(rows.astype(np.float64).T.copy())[None]
        before = x
        for name, numbers in stages([layer.layer for layer in self._layers]).items():
            if name == FINAL_SNAKE:
                visit(name, self._layers[-1].bent(x)[0].T.numpy())
                continue
            for number in numbers:
                layer = self._layers[number]
                y = layer.product(layer.bent(x))
                if layer.layer.residual:
                    y += before
                before, x = x, torch.tanh(y) if layer.layer.tanh else y
            visit(name, x[0].T.numpy())


class _TorchLayer:
    """A layer's parameters as float64 tensors."""

    def __init__(self, layer: Layer, given: LayerTensors, epsilon: float) -> None:
        self.layer = layer
        self.weight = _double(given.weight)
        if given.magnitude is not None:
            norm = torch.linalg.vector_norm(self.weight, dim=(1, 2), keepdim=True)
            self.weight = _double(given.magnitude) * self.weight / norm
        self.weight = self.weight * given.scale
        self.bias = None if given.bias is None else _double(given.bias)
        if given.alpha is not None and given.beta is not None:
            alpha, beta = _double(given.alpha)[:, None], _double(given.beta)[:, None]
            if given.log_scale:
                alpha, beta = torch.exp(alpha), torch.exp(beta)
            self.alpha, self.beta = alpha, beta + epsilon

    def bent(self, x: Any) -> Any:
        """Rows through the layer's Snake, where it has one."""
        if not self.layer.snake:
            return x
        return x + torch.sin(self.alpha * x) ** 2 / self.beta

    def product(self, x: Any) -> Any:
        """Rows through the layer's convolution."""
        layer = self.layer
        if layer.transposed:
            return functional.conv_transpose1d(
                x,
                self.weight,
                self.bias,
                stride=layer.stride,
                padding=layer.padding,
                output_padding=layer.output_padding,
            )
        return functional.conv1d(
            x,
            self.weight,
            self.bias,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
        )


def _double(values: Any) -> Any:
    return torch.from_numpy(np.array(values, np.float64))
