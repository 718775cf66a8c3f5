"""The document's decoder from its formulas, stage by stage, by NumPy or by torch in float64."""

from __future__ import annotations

import naive
import numpy as np


class Torch:
    """`naive`'s operations by torch's."""

    weight_norm = staticmethod(naive.weight_norm)

    def snake(self, x, alpha, beta, log_scale, epsilon):
        import torch

        x, alpha, beta = (torch.from_numpy(np.array(part, float)) for part in (x, alpha, beta))
        return (x + torch.sin(alpha * x) ** 2 / beta).numpy()

    def conv(self, x, weight, bias=None, **shape):
        return self._apply("conv1d", x, weight, bias, shape)

    def conv_transpose(self, x, weight, bias=None, **shape):
        return self._apply("conv_transpose1d", x, weight, bias, shape)

    def _apply(self, name, x, weight, bias, shape):
        import torch

        x, weight = torch.from_numpy(x.T.copy()), torch.from_numpy(weight)
        bias = None if bias is None else torch.from_numpy(bias.astype(float))
        return getattr(torch.nn.functional, name)(x[None], weight, bias, **shape)[0].T.numpy()


def document_stages(config, tensors, latents, ops):
    """The document's decoder: after its first convolution, each block, final Snake and output."""

    def parts(name):
        g, v = (tensors[f"{name}.weight_{part}"] for part in "gv")
        return ops.weight_norm(g, v), tensors.get(f"{name}.bias")

    def snake(x, name):
        parameters = (tensors[f"{name}.{part}"] for part in ("alpha", "beta"))
        return ops.snake(x, *parameters, log_scale=False, epsilon=0.0)

    x = ops.conv(latents.astype(float), *parts("decoder.layers.0"), padding=3)
    yield x
    for number, stride in enumerate(reversed(config.strides), start=1):
        block = f"decoder.layers.{number}.layers"
        x = ops.conv_transpose(
            snake(x, f"{block}.0"),
            *parts(f"{block}.1"),
            stride=stride,
            padding=(stride - 1) // 2,
            output_padding=stride - 1,
        )
        for unit in (2, 3, 4):
            inner = f"{block}.{unit}.layers"
            y = ops.conv(snake(x, f"{inner}.0"), *parts(f"{inner}.1"), padding=3)
            x = x + ops.conv(snake(y, f"{inner}.2"), *parts(f"{inner}.3"))
        yield x
    x = snake(x, f"decoder.layers.{len(config.strides) + 1}")
    yield x
    yield ops.conv(x, *parts(f"decoder.layers.{len(config.strides) + 2}"), padding=3)
