"""A plain NumPy reference of every operation, in float64, from the formulas alone."""

from __future__ import annotations

import numpy as np


def snake(x, alpha, beta, log_scale=True, epsilon=1e-9):
    """``x + sin(alpha * x)**2 / (beta + epsilon)``, channels last."""
    alpha, beta = np.asarray(alpha, float), np.asarray(beta, float)
    if log_scale:
        alpha, beta = np.exp(alpha), np.exp(beta)
    return x + np.sin(alpha * x) ** 2 / (beta + epsilon)


def weight_norm(g, v):
    """``g * v / ||v||`` over all axes but the first."""
    v = np.asarray(v, float)
    return np.asarray(g, float) * v / np.sqrt((v**2).sum(axis=(1, 2), keepdims=True))


def conv(x, weight, bias=None, stride=1, dilation=1, padding=0):
    """Conv1d of (time, inputs) with (outputs, inputs, kernel)."""
    outputs, _, kernel = weight.shape
    x = np.pad(x, ((padding, padding), (0, 0)))
    length = (len(x) - (kernel - 1) * dilation - 1) // stride + 1
    y = np.zeros((max(0, length), outputs))
    for t in range(len(y)):
        for k in range(kernel):
            y[t] += weight[:, :, k] @ x[t * stride + k * dilation]
    return y if bias is None else y + bias


def conv_transpose(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """ConvTranspose1d of (time, inputs) with (inputs, outputs, kernel), by scattering."""
    _, outputs, kernel = weight.shape
    length = (len(x) - 1) * stride + kernel - 2 * padding + output_padding
    y = np.zeros((length + 2 * padding + kernel, outputs))
    for t, row in enumerate(x):
        y[t * stride : t * stride + kernel] += np.einsum("i,iok->ko", row, weight)
    y = y[padding : padding + length]
    return y if bias is None else y + bias


def decode(latents, tensors, config):
    """A whole decoder from stable-audio-tools' tensors (see `networks.random_tensors`)."""

    def parts(name):
        get = lambda part: tensors.get(f"{name}.{part}")  # noqa: E731
        return weight_norm(get("weight_g"), get("weight_v")), get("bias")

    def bend(x, name):
        alpha, beta = tensors[f"{name}.alpha"], tensors[f"{name}.beta"]
        return snake(x, alpha, beta, config.snake_log_scale, config.snake_epsilon)

    same = (config.kernel - 1) // 2
    x = np.asarray(latents, float) * config.latent_scale
    x = conv(x, *parts("decoder.layers.0"), padding=same)
    for number, stride in enumerate(reversed(config.strides), start=1):
        block = f"decoder.layers.{number}.layers"
        kernel = config.kernel_per_stride * stride
        padding = -(-stride // 2)
        if config.transpose_padding == "(k-1)//2":
            padding = (kernel - 1) // 2
        extra = {"0": 0, "s%2": stride % 2, "s-1": stride - 1}[config.output_padding]
        x = bend(x, f"{block}.0")
        x = conv_transpose(x, *parts(f"{block}.1"), stride, padding, extra)
        for unit, dilation in enumerate(config.dilations, start=2):
            inside = f"{block}.{unit}.layers"
            y = bend(x, f"{inside}.0")
            y = conv(y, *parts(f"{inside}.1"), dilation=dilation, padding=same * dilation)
            y = bend(y, f"{inside}.2")
            x = x + conv(y, *parts(f"{inside}.3"))
    depth = len(config.strides)
    x = bend(x, f"decoder.layers.{depth + 1}")
    x = conv(x, *parts(f"decoder.layers.{depth + 2}"), padding=same)
    return np.tanh(x) if config.final_tanh else x
