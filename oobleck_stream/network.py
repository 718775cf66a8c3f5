"""A network as a list of layers: each a Snake (perhaps), then one product over time.

Convolutions, strided convolutions and transposed convolutions are one thing here: block ``b`` of
output rows is made of input rows ``b * stride - before + tap * dilation``, and holds `phases`
rows, of which the first `trim` of the whole output are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oobleck_stream.config import OobleckConfig

ENCODER_LAST_KERNEL = 3
"""Kernel of the encoder's last convolution, in every network of the family."""


@dataclass(frozen=True)
class Layer:
    """One product with what goes before and after it.

    Parameters
    ----------
    name : str
        Key of its parameters, in stable-audio-tools' naming.
    inputs, outputs, kernel : int
        Channels in and out, and the kernel's length.
    stride, dilation, padding, output_padding : int
        As in torch's Conv1d and ConvTranspose1d.
    transposed : bool
        Whether it is a transposed convolution.
    bias : bool
        Whether it has a bias.
    snake : str or None
        Key of the Snake applied to its input, if any.
    residual : bool
        Whether the previous layer's input (before its Snake) is added to the output.
    tanh : bool
        Whether a tanh ends it.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    output_padding: int = 0
    transposed: bool = False
    bias: bool = True
    snake: str | None = None
    residual: bool = False
    tanh: bool = False

    @property
    def taps(self) -> int:
        """Input rows that make an output row."""
        return -(-self.kernel // self.stride) if self.transposed else self.kernel

    @property
    def phases(self) -> int:
        """Output rows of a block."""
        return self.stride if self.transposed else 1

    @property
    def advance(self) -> int:
        """Input rows from block to block."""
        return 1 if self.transposed else self.stride

    @property
    def before(self) -> int:
        """Rows of zeros before the first input row."""
        return self.taps - 1 if self.transposed else self.padding

    @property
    def span(self) -> int:
        """Rows from the oldest to the newest that make a block."""
        return (self.taps - 1) * (1 if self.transposed else self.dilation)

    @property
    def trim(self) -> int:
        """Output rows dropped at the start."""
        return self.padding if self.transposed else 0

    def output_length(self, rows: int) -> int:
        """Output rows for a whole input of `rows` rows, as torch has it (none for none)."""
        if rows == 0:
            return 0
        if self.transposed:
            whole = (rows - 1) * self.stride + self.kernel - 2 * self.padding
            return max(0, whole + self.output_padding)
        return max(0, (rows + 2 * self.padding - self.span - 1) // self.stride + 1)

    def due_blocks(self, rows: int) -> int:
        """Blocks that no later input row can change once `rows` rows are known."""
        return max(0, (rows - 1 + self.before - self.span) // self.advance + 1)

    def last_block(self, rows: int) -> int:
        """Blocks of a whole input of `rows` rows."""
        return -(-(self.output_length(rows) + self.trim) // self.phases) if rows else 0

    def due_rows(self, rows: int) -> int:
        """Output rows that no later input row can change once `rows` rows are known."""
        return max(0, self.due_blocks(rows) * self.phases - self.trim)

    @property
    def multiplications(self) -> int:
        """Multiply-adds for a block."""
        return self.taps * self.inputs * self.phases * self.outputs


def _residual_units(name: str, first: int, width: int, config: OobleckConfig) -> list[Layer]:
    """The residual units of a block, their modules numbered from `first`."""
    layers = []
    for number, dilation in enumerate(config.dilations, start=first):
        unit = f"{name}.layers.{number}.layers"
        layers.append(
            Layer(
                f"{unit}.1",
                width,
                width,
                config.kernel,
                dilation=dilation,
                padding=(config.kernel - 1) * dilation // 2,
                bias=config.bias,
                snake=f"{unit}.0",
            )
        )
        layers.append(
            Layer(f"{unit}.3", width, width, 1, bias=config.bias, snake=f"{unit}.2", residual=True)
        )
    return layers


def decoder_layers(config: OobleckConfig) -> list[Layer]:
    """The decoder of a config: latent rows in, sample rows out."""
    widths, depth = config.widths, len(config.strides)
    same = (config.kernel - 1) // 2
    layers = [
        Layer(
            "decoder.layers.0",
            config.latent_dim,
            widths[-1],
            config.kernel,
            padding=same,
            bias=config.bias,
        )
    ]
    for number, level in enumerate(range(depth, 0, -1), start=1):
        stride = config.strides[level - 1]
        block = f"decoder.layers.{number}"
        layers.append(
            Layer(
                f"{block}.layers.1",
                widths[level],
                widths[level - 1],
                config.stride_kernel(stride),
                stride=stride,
                padding=config.stride_padding(stride),
                output_padding=config.stride_output_padding(stride),
                transposed=True,
                bias=config.bias,
                snake=f"{block}.layers.0",
            )
        )
        layers += _residual_units(block, 2, widths[level - 1], config)
    layers.append(
        Layer(
            f"decoder.layers.{depth + 2}",
            widths[0],
            config.audio_channels,
            config.kernel,
            padding=same,
            bias=config.output_bias,
            snake=f"decoder.layers.{depth + 1}",
            tanh=config.final_tanh,
        )
    )
    return layers


def encoder_layers(config: OobleckConfig) -> list[Layer]:
    """The encoder of a config: sample rows in, rows of means and then scales out."""
    widths, depth = config.widths, len(config.strides)
    layers = [
        Layer(
            "encoder.layers.0",
            config.audio_channels,
            widths[0],
            config.kernel,
            padding=(config.kernel - 1) // 2,
            bias=config.bias,
        )
    ]
    for number, stride in enumerate(config.strides, start=1):
        block = f"encoder.layers.{number}"
        units = len(config.dilations)
        layers += _residual_units(block, 0, widths[number - 1], config)
        layers.append(
            Layer(
                f"{block}.layers.{units + 1}",
                widths[number - 1],
                widths[number],
                config.stride_kernel(stride),
                stride=stride,
                padding=config.stride_padding(stride),
                bias=config.bias,
                snake=f"{block}.layers.{units}",
            )
        )
    layers.append(
        Layer(
            f"encoder.layers.{depth + 2}",
            widths[-1],
            2 * config.latent_dim,
            ENCODER_LAST_KERNEL,
            padding=(ENCODER_LAST_KERNEL - 1) // 2,
            bias=config.bias,
            snake=f"encoder.layers.{depth + 1}",
        )
    )
    return layers


def output_length(layers: Sequence[Layer], rows: int) -> int:
    """Output rows of a whole input."""
    for layer in layers:
        rows = layer.output_length(rows)
    return rows


def due_rows(layers: Sequence[Layer], rows: int) -> int:
    """Output rows that no later input can change once `rows` input rows are known."""
    for layer in layers:
        rows = layer.due_rows(rows)
    return rows


def rows_needed(layers: Sequence[Layer], row: int) -> int:
    """Input rows that must be known before an output row is final."""
    for layer in reversed(layers):
        block = (row + layer.trim) // layer.phases
        row = block * layer.advance - layer.before + layer.span
    return row + 1


def latency(layers: Sequence[Layer]) -> int:
    """Output rows withheld: look-ahead of a stack that does not shorten its input."""
    rows, hop = 0, 1
    for layer in layers:
        if layer.advance != 1:
            raise ValueError(f"{layer.name} shortens its input: no look-ahead in output rows")
        ahead = layer.trim if layer.transposed else layer.span - layer.before
        rows, hop = rows * layer.phases + ahead, hop * layer.phases
    return rows


def context(layers: Sequence[Layer]) -> int:
    """Input rows on each side of one that reach what that one becomes (the larger side).

    Found by following the output rows ``[n * hop, (n + 1) * hop)`` back through the layers.
    """
    hop = 1
    for layer in layers:
        hop *= layer.phases
    first, last = 0, hop - 1
    for layer in reversed(layers):
        first = (first + layer.trim) // layer.phases * layer.advance - layer.before
        last = (last + layer.trim) // layer.phases * layer.advance - layer.before + layer.span
    return max(-first, last)


def multiplications(layers: Sequence[Layer]) -> int:
    """Multiply-adds for one input row, in a stack that does not shorten its input."""
    total, rate = 0, 1
    for layer in layers:
        total += rate * layer.multiplications
        rate *= layer.phases
    return total
