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


def _parts(tensors, name):
    """Weight and bias of a convolution."""
    g, v = (tensors[f"{name}.weight_{part}"] for part in "gv")
    return weight_norm(g, v), tensors.get(f"{name}.bias")


def _bend(x, tensors, name, config):
    alpha, beta = tensors[f"{name}.alpha"], tensors[f"{name}.beta"]
    return snake(x, alpha, beta, config.snake_log_scale, config.snake_epsilon)


def _unit(x, tensors, name, dilation, config):
    """A residual unit."""
    y = _bend(x, tensors, f"{name}.layers.0", config)
    padding = (config.kernel - 1) // 2 * dilation
    y = conv(y, *_parts(tensors, f"{name}.layers.1"), dilation=dilation, padding=padding)
    y = _bend(y, tensors, f"{name}.layers.2", config)
    return x + conv(y, *_parts(tensors, f"{name}.layers.3"))


def _stride_padding(config, stride):
    if config.transpose_padding == "(k-1)//2":
        return (config.kernel_per_stride * stride - 1) // 2
    return -(-stride // 2)


def decoder_stages(latents, tensors, config):
    """A whole decoder from stable-audio-tools' tensors (see `networks.random_tensors`).

    Yields a name and the rows after the input convolution, each block, the last Snake and the end.
    """
    same = (config.kernel - 1) // 2
    x = np.asarray(latents, float) * config.latent_scale
    x = conv(x, *_parts(tensors, "decoder.layers.0"), padding=same)
    yield "input_conv", x
    for number, stride in enumerate(reversed(config.strides), start=1):
        block = f"decoder.layers.{number}.layers"
        extra = {"0": 0, "s%2": stride % 2, "s-1": stride - 1}[config.output_padding]
        padding = _stride_padding(config, stride)
        x = _bend(x, tensors, f"{block}.0", config)
        x = conv_transpose(x, *_parts(tensors, f"{block}.1"), stride, padding, extra)
        for unit, dilation in enumerate(config.dilations, start=2):
            x = _unit(x, tensors, f"{block}.{unit}", dilation, config)
        yield f"block_{number}", x
    depth = len(config.strides)
    x = _bend(x, tensors, f"decoder.layers.{depth + 1}", config)
    yield "final_snake", x
    x = conv(x, *_parts(tensors, f"decoder.layers.{depth + 2}"), padding=same)
    yield "output", np.tanh(x) if config.final_tanh else x


def decode(latents, tensors, config):
    """The samples of a whole decoder."""
    return dict(decoder_stages(latents, tensors, config))["output"]


def encoder_stages(audio, tensors, config):
    """A whole encoder, stage by stage as `decoder_stages`; the audio is not padded."""
    x = np.asarray(audio, float)
    x = conv(x, *_parts(tensors, "encoder.layers.0"), padding=(config.kernel - 1) // 2)
    yield "input_conv", x
    for number, stride in enumerate(config.strides, start=1):
        block = f"encoder.layers.{number}.layers"
        for unit, dilation in enumerate(config.dilations):
            x = _unit(x, tensors, f"{block}.{unit}", dilation, config)
        x = _bend(x, tensors, f"{block}.{len(config.dilations)}", config)
        strided = _parts(tensors, f"{block}.{len(config.dilations) + 1}")
        x = conv(x, *strided, stride, padding=_stride_padding(config, stride))
        yield f"block_{number}", x
    depth = len(config.strides)
    x = _bend(x, tensors, f"encoder.layers.{depth + 1}", config)
    yield "final_snake", x
    yield "output", conv(x, *_parts(tensors, f"encoder.layers.{depth + 2}"), padding=1)


def encode(audio, tensors, config):
    """Mean and deviation of a whole encoder's latents; the audio is not padded."""
    x = dict(encoder_stages(audio, tensors, config))["output"]
    mean, scale = np.split(x, 2, axis=1)
    return mean / config.latent_scale, (np.log1p(np.exp(scale)) + 1e-4) / config.latent_scale
