"""Defines the layers and the numbers of rows of the components that are timed separately.

The components belong to the preset with the largest hop, 65,536 samples per latent frame. The
preset's decoder upsamples by 16, 16, 8, 8 and 4, with kernels as long as the strides. Its levels
are 2048, 1024, 512, 256, 128 and 128 channels wide, and no convolution is dilated. Two latent
frames become 135,461 samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from oobleck_stream.bench.layers import shape_of
from oobleck_stream.config import PRESETS, OobleckConfig
from oobleck_stream.network import Layer, decoder_layers, output_length

GEOMETRY = PRESETS["oobleck-65536x"]

IDENTITY = "identity"
"""The name of an identity product, whose output is the output of the Snake before it."""

LATENTS = 2
WHOLE = "full decoder"


@dataclass(frozen=True)
class Component:
    """Consecutive layers that are timed together.

    Parameters
    ----------
    name : str
    layers : sequence of Layer
    rows : int
        Number of rows of the input.
    """

    name: str
    layers: Sequence[Layer]
    rows: int

    @property
    def size(self) -> str:
        """The channels, kernel and length as a short text."""
        first, last = self.layers[0], self.layers[-1]
        length = f"{self.rows:,}"
        if first.name == IDENTITY:
            return f"{length} x {first.inputs}"
        text = shape_of(first) if len(self.layers) == 1 else f"{first.inputs}>{last.outputs}"
        after = output_length(self.layers, self.rows)
        return f"{text}, {length}" + (f">{after:,}" if after != self.rows else "")

    @property
    def operations(self) -> int | None:
        """Number of floating-point operations of the products. None for a separate Snake."""
        if self.layers[0].name == IDENTITY:
            return None
        total, rows = 0, self.rows
        for layer in self.layers:
            after = layer.output_length(rows)
            # A transposed convolution multiplies every input row by the whole kernel.
            places = rows if layer.transposed else after
            total += 2 * places * layer.inputs * layer.outputs * layer.kernel
            rows = after
        return total

    @property
    def bytes(self) -> int:
        """Minimum memory traffic in bytes, if input, output and parameters are each moved once."""
        first, last = self.layers[0], self.layers[-1]
        if first.name == IDENTITY:
            return 4 * 2 * self.rows * first.inputs
        parameters = sum(
            layer.inputs * layer.outputs * layer.kernel
            + layer.outputs * layer.bias
            + 2 * layer.inputs * bool(layer.snake)
            for layer in self.layers
        )
        moved = self.rows * first.inputs + output_length(self.layers, self.rows) * last.outputs
        return 4 * (parameters + moved)


def single_components(config: OobleckConfig) -> list[Component]:
    """Return Snakes, convolutions and residual blocks with sizes that occur in the geometry."""
    width, whole = config.channels, output_length(decoder_layers(config), LATENTS)
    components = [
        Component("Snake", [snake_alone(width, every=width)], rows) for rows in (32, 4096, whole)
    ]
    same = partial(Layer, outputs=width, kernel=config.kernel, padding=config.kernel // 2)
    components += [
        Component("WNConv1d small", [same("small", inputs=-(-width // 2))], 32),
        Component("WNConv1d large", [same("large", inputs=width)], whole),
    ]
    components += [
        Component("WNConvTranspose1d", [_up(f"up{multiple}", multiple * width, 8, config)], rows)
        for multiple, rows in ((16, 32), (4, 529))
    ]
    unit = _blocks(config)[-1][1:3]
    components += [
        Component("ResidualBlock small", unit, 32),
        Component("ResidualBlock large", unit, whole),
    ]
    return components


def decoder_components(config: OobleckConfig) -> list[Component]:
    """Return the consecutive parts of the decoder, then the whole, with rows for two frames."""
    layers, rows = decoder_layers(config), LATENTS
    parts = [("input conv", layers[:1])]
    parts += [(f"DecoderBlock {n}", block) for n, block in enumerate(_blocks(config), start=1)]
    parts += [("output", layers[-1:])]
    components = []
    for name, part in parts:
        components.append(Component(name, part, rows))
        rows = output_length(part, rows)
    return [*components, Component(WHOLE, layers, LATENTS)]


def _blocks(config: OobleckConfig) -> list[list[Layer]]:
    layers, length = decoder_layers(config), 1 + 2 * len(config.dilations)
    return [layers[first : first + length] for first in range(1, len(layers) - 1, length)]


def snake_alone(width: int, every: int = 1, key: str = "snake") -> Layer:
    """Return a Snake over all rows, followed by an identity product with a stride of `every` rows.

    The identity product is needed because the kernels apply a Snake only before a product. It
    copies every `every`-th row of the Snake's result to the output.
    """
    return Layer(IDENTITY, width, width, 1, stride=every, bias=False, snake=key)


def _up(name: str, width: int, stride: int, config: OobleckConfig) -> Layer:
    """Return a transposed convolution that halves the channels, with the geometry's padding."""
    return Layer(
        name,
        width,
        width // 2,
        config.stride_kernel(stride),
        stride=stride,
        padding=config.stride_padding(stride),
        output_padding=config.stride_output_padding(stride),
        transposed=True,
    )
