"""Copies a network's parameters into the torch modules of another library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize, remove_weight_norm

from oobleck_stream.reference import LayerTensors, Tensors


def fill_module(module: Any, tensors: Tensors, dtype: Any = torch.float64) -> None:
    """Set the parameters of a library's decoder or encoder, in the order in which its parts run.

    Parameters
    ----------
    module : torch.nn.Module
        The module to fill. It is converted to `dtype` and put into evaluation mode.
    tensors : iterable of (Layer, LayerTensors)
        All layers of the decoder or encoder, in order. If a layer has no magnitude, weight norm is
        removed from the corresponding convolution of the module.
    dtype : torch.dtype

    Raises
    ------
    ValueError
        If the module has more convolutions or Snakes than `tensors`.
    """
    module.to(dtype).eval().requires_grad_(False)
    convolutions = _of_kind(module, torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    snakes = (part for part in module.modules() if {"alpha", "beta"} <= {*_own_names(part)})
    for layer, given in tensors:
        if layer.snake:
            snake = next(snakes)
            # diffusers and stable-audio-tools name the same switch differently.
            for switch in ("logscale", "alpha_logscale"):
                if hasattr(snake, switch):
                    setattr(snake, switch, given.log_scale)
            _set(snake.alpha, given.alpha)
            _set(snake.beta, given.beta)
        convolution = next(convolutions)
        _set_weight(convolution, given)
        if layer.bias:
            _set(convolution.bias, given.bias)
    left = [*convolutions, *snakes]
    if left:
        raise ValueError(f"{len(left)} parts of the peer's network got no parameters")


def _own_names(part: Any) -> Iterator[str]:
    return (name for name, _ in part.named_parameters(recurse=False))


def _of_kind(module: Any, *kinds: type) -> Iterator[Any]:
    """Yield a module's parts that have one of the types `kinds`, in the order in which they run."""
    return (part for part in module.modules() if isinstance(part, kinds))


def _set_weight(convolution: Any, given: LayerTensors) -> None:
    """Set a weight. With weight norm, set the magnitude and the direction instead."""
    names = dict(convolution.named_parameters())
    if given.magnitude is not None:
        older = "weight_g" in names
        magnitude = "weight_g" if older else "parametrizations.weight.original0"
        direction = "weight_v" if older else "parametrizations.weight.original1"
        _set(names[magnitude], given.magnitude * np.float64(given.scale))
        _set(names[direction], given.weight)
        return
    if "weight_g" in names:
        remove_weight_norm(convolution)
    elif "weight" not in names:
        parametrize.remove_parametrizations(convolution, "weight")
    _set(convolution.weight, given.weight * np.float64(given.scale))


def _set(parameter: Any, values: Any) -> None:
    """Set a parameter's values. The parameter may have additional dimensions of size 1."""
    tensor = torch.from_numpy(np.array(values, np.float64))
    parameter.data = tensor.reshape(parameter.shape).to(parameter.dtype)
