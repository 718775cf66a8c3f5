"""Compares the tensors of a decoder or an encoder with its layers, then reads and folds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checkpoints.names import HalfTensors
from oobleck_stream.config import OobleckConfig
from oobleck_stream.formats.dtypes import FLOATS, FloatingArray
from oobleck_stream.formats.tensors import Tensor, shape_text
from oobleck_stream.network import Layer
from oobleck_stream.parameters import fold_snake, fold_weight_norm

_Shapes = tuple[tuple[int, ...], ...]


def check_tensors(half: HalfTensors, layers: Sequence[Layer]) -> list[str]:
    """Return a sentence for each tensor that is missing, unexpected, or of a wrong shape or dtype.

    No values are read.
    """
    problems = []
    expected: set[str] = set()
    for layer in layers:
        for name, shapes in expected_tensors(half, layer):
            expected.add(name)
            tensor = half.tensors.get(name)
            wanted = " or ".join(map(shape_text, shapes))
            if tensor is None:
                problems.append(f"{half.stored_name(name)} ({wanted}) is missing")
            elif tensor.shape not in shapes:
                problems.append(f"{tensor.name} is {shape_text(tensor.shape)}, not {wanted}")
            elif tensor.dtype not in FLOATS:
                problems.append(f"{tensor.name} is {tensor.dtype}, not {', '.join(FLOATS)}")
    extra = [tensor.name for name, tensor in half.tensors.items() if name not in expected]
    problems += [f"{name} is unexpected" for name in (*extra, *half.unknown)]
    problems += [f"{name} occurs twice, under two names" for name in half.duplicates]
    return problems


def expected_tensors(half: HalfTensors, layer: Layer) -> Iterator[tuple[str, _Shapes]]:
    """Yield the canonical name and the permitted shapes of each tensor of a layer.

    A weight is expected either as it is or as the magnitude and direction of weight norm
    (https://arxiv.org/abs/1602.07868), depending on the tensors in `half`.
    """
    first, second = layer.outputs, layer.inputs
    if layer.transposed:
        first, second = second, first
    # Torch computes the norm over all axes but the first, which is the axis of the inputs in a
    # transposed convolution.
    whole = (first, second, layer.kernel)
    normed = any(f"{layer.name}.weight_{part}" in half.tensors for part in "gv")
    if normed or f"{layer.name}.weight" not in half.tensors:
        yield f"{layer.name}.weight_g", ((first, 1, 1),)
        yield f"{layer.name}.weight_v", (whole,)
    else:
        yield f"{layer.name}.weight", (whole,)
    if layer.bias:
        yield f"{layer.name}.bias", ((layer.outputs,),)
    if layer.snake:
        # diffusers stores alpha and beta with the axes (batch, channels, time).
        shapes = ((layer.inputs,), (1, layer.inputs, 1))
        yield f"{layer.snake}.alpha", shapes
        yield f"{layer.snake}.beta", shapes


class StoredParameters:
    """The `Parameters` of a decoder or an encoder in a container. Each tensor is read on demand.

    Parameters
    ----------
    half : HalfTensors
        A decoder or an encoder in which `check_tensors` finds no problem.
    config : OobleckConfig

    Attributes
    ----------
    problems : list of str
        A sentence for each tensor, of those read so far, whose values are not finite, either as
        stored or after folding.
    """

    def __init__(self, half: HalfTensors, config: OobleckConfig) -> None:
        self._half = half
        self._config = config
        self.problems: list[str] = []

    def weight(self, layer: Layer) -> FloatArray:
        """Return the weight, into which weight norm is folded."""
        folded = self._half.tensors.get(f"{layer.name}.weight")
        if folded is not None:
            return self._single(folded)
        g, v = (self._half.tensors[f"{layer.name}.weight_{part}"] for part in "gv")
        magnitude, direction = g.read(), v.read()
        with np.errstate(all="ignore"):
            weight = fold_weight_norm(magnitude, direction)
        self._check([weight], {g.name: magnitude, v.name: direction})
        return weight

    def bias(self, layer: Layer) -> FloatArray:
        """Return the bias."""
        return self._single(self._half.tensors[f"{layer.name}.bias"])

    def snake(self, layer: Layer) -> tuple[FloatArray, FloatArray]:
        """Return alpha and 1 / (beta + epsilon)."""
        a, b = (self._half.tensors[f"{layer.snake}.{part}"] for part in ("alpha", "beta"))
        alpha, beta = a.read(), b.read()
        with np.errstate(all="ignore"):
            folded = fold_snake(alpha, beta, self._config)
        self._check(folded, {a.name: alpha, b.name: beta})
        return folded

    def _single(self, tensor: Tensor) -> FloatArray:
        """Read a tensor that needs no folding, and round it to float32."""
        stored = tensor.read()
        with np.errstate(all="ignore"):
            values = stored.astype(np.float32, copy=False)
        self._check([values], {tensor.name: stored})
        return values

    def _check(self, results: Sequence[FloatArray], stored: dict[str, FloatingArray]) -> None:
        """Report stored values that are not finite; if all are finite, check the folded values."""
        guilty = [name for name, values in stored.items() if not np.isfinite(values).all()]
        self.problems += [f"{name} holds values that are not finite" for name in guilty]
        if not guilty and not all(np.isfinite(result).all() for result in results):
            self.problems.append(f"{' and '.join(stored)} give weights that are not finite")
