"""A network as a list of layers, each of which is an optional Snake and a convolution over time.

Plain, strided and transposed convolutions are all written as a gather. The output is computed in
blocks of `phases` rows. Block ``b`` depends on the input rows
``b * stride_in - left_padding + tap * dilation``, one for each tap. The first `trim` rows of the
whole output are dropped. For a transposed convolution, block ``b`` consists of the `stride` output
rows from ``b * stride`` on. They depend on the same `taps` input rows, with different weights.

In a fast convolution, the blocks are tiles. Block ``b`` consists of the rows
``b * tile + phase * dilation`` (see `oobleck_stream.fast_convolution`). The dilation is odd and the
tile is a power of two, so every row belongs to exactly one tile, and every `tile` input rows
complete one tile. All rows of a tile are computed together, so its later rows are known before some
rows between them, which belong to other tiles. Such early rows lie at most `spread` rows after the
first row that is not known yet.

Snake is ``x + sin(alpha * x)**2 / (beta + epsilon)``: https://arxiv.org/abs/2006.08195, with the
separate `beta` of BigVGAN, https://arxiv.org/abs/2206.04658.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from oobleck_stream.config import OobleckConfig
from oobleck_stream.fast_convolution import KERNEL, SCHEMES, Scheme

ENCODER_LAST_KERNEL = 3
"""Kernel length of the encoder's last convolution, the same in every network of the family."""

MIN_FAST_CHANNELS = 64
"""A convolution is fast only if its number of channels is a multiple of this. With fewer channels,
the transforms would cost more than they save."""

MIN_TILED_ROWS = {4: 128, 2: 32}
"""For tiles of four and of two rows, the minimum number of rows per latent frame that a level must
have to use them. A tile has to wait for its last row, and in deeper levels a row lasts longer. With
these limits, tiles add less than 16 ms to the look-ahead of the published models. Moreover, the
deepest levels spend most of their time on reading weights, not on multiplications, and fast
convolution has more weights."""

MAX_PAIRED_ROWS = 16
"""If frames are paired, the levels with fewer rows per latent frame than this compute several
frames at once. Such levels spend most of their time on reading weights."""


@dataclass(frozen=True)
class Layer:
    """One convolution, with the Snake before it and the residual and tanh after it.

    Parameters
    ----------
    name : str
        Name prefix of the layer's parameters, as in stable-audio-tools.
    inputs, outputs, kernel : int
        Input channels, output channels, and length of the kernel.
    stride, dilation, padding, output_padding : int
        As in torch's Conv1d and ConvTranspose1d.
    transposed : bool
        Whether the convolution is transposed.
    bias : bool
        Whether the convolution has a bias.
    snake : str or None
        Name prefix of the parameters of the Snake before the convolution; None if there is no
        Snake.
    residual : bool
        Whether the previous layer's input (before that layer's Snake) is added to the output.
    tanh : bool
        Whether the output goes through a tanh.
    tile : int
        1 for direct convolution; otherwise the number of rows of a tile of fast convolution. A fast
        convolution has a kernel of seven, no stride and an odd dilation.
    grid : int
        Number of rows by which the tiles are shifted toward the start. The look-ahead depends on
        it.
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
    tile: int = 1
    grid: int = 0

    @property
    def scheme(self) -> Scheme | None:
        """The scheme of a fast convolution; None for a direct one."""
        return SCHEMES[self.tile] if self.tile > 1 else None

    @property
    def taps(self) -> int:
        """Number of input rows that an output row depends on."""
        return -(-self.kernel // self.stride) if self.transposed else self.kernel

    @property
    def phases(self) -> int:
        """Number of output rows in a block."""
        return self.stride if self.transposed else self.tile

    @property
    def spread(self) -> int:
        """Distance in rows from the first to the last row of a tile; 0 for a direct convolution.

        Output rows at most this far after the first unknown row may be known already.
        """
        return (self.tile - 1) * self.dilation

    @property
    def stride_in(self) -> int:
        """Distance between consecutive blocks, in input rows."""
        return self.tile if self.tile > 1 or self.transposed else self.stride

    @property
    def left_padding(self) -> int:
        """Number of rows of zeros before the first input row."""
        if self.transposed:
            return self.taps - 1
        return self.padding + self.trim

    @property
    def reach(self) -> int:
        """Distance from the oldest to the newest input row that a block depends on."""
        return (self.taps + self.tile - 2) * (1 if self.transposed else self.dilation)

    @property
    def trim(self) -> int:
        """Number of output rows dropped at the start of the whole output."""
        return self.padding if self.transposed else self.spread + self.grid

    def output_length(self, rows: int) -> int:
        """Number of output rows of a complete input of `rows` rows, as in torch; 0 if empty."""
        if rows == 0:
            return 0
        if self.transposed:
            whole = (rows - 1) * self.stride + self.kernel - 2 * self.padding
            return max(0, whole + self.output_padding)
        reach = (self.kernel - 1) * self.dilation
        return max(0, (rows + 2 * self.padding - reach - 1) // self.stride + 1)

    def due_blocks(self, rows: int) -> int:
        """Number of blocks that are final once `rows` input rows are known."""
        return max(0, (rows - 1 + self.left_padding - self.reach) // self.stride_in + 1)

    def last_block(self, rows: int) -> int:
        """Number of blocks of a complete input of `rows` rows."""
        return -(-(self.output_length(rows) + self.trim) // self.phases) if rows else 0

    def due_rows(self, rows: int) -> int:
        """Number of output rows before the first one that is not final.

        `rows` is the number of input rows that are known.
        """
        return max(0, self.due_blocks(rows) * self.phases - self.trim)

    @property
    def products(self) -> int:
        """Matrix products per block: one for each tap and phase, or for each point of a tile."""
        return self.scheme.points if self.scheme else self.taps * self.phases

    @property
    def multiplications(self) -> int:
        """Number of multiply-adds per block."""
        return self.products * self.inputs * self.outputs

    @property
    def direct(self) -> Layer:
        """This layer as a direct convolution."""
        return dataclasses.replace(self, tile=1, grid=0)


def tile_rows(config: OobleckConfig, width: int, rows: int) -> int:
    """Rows of a tile of a level's dilated convolutions; 1 if these are computed directly.

    Parameters
    ----------
    config : OobleckConfig
    width : int
        Number of channels of the level.
    rows : int
        Number of rows of the level per latent frame.
    """
    possible = config.kernel == KERNEL and all(dilation % 2 for dilation in config.dilations)
    if config.convolution == "direct" or not possible:
        return 1
    if width % MIN_FAST_CHANNELS:
        return 1
    for tile, fewest in MIN_TILED_ROWS.items():
        if rows >= fewest and rows % tile == 0:
            return tile
    return 1


def _residual_units(
    name: str, first: int, width: int, config: OobleckConfig, tile: int = 1
) -> list[Layer]:
    """The layers of a block's residual units, whose parameters are numbered from `first` on."""
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
                tile=tile,
            )
        )
        layers.append(
            Layer(f"{unit}.3", width, width, 1, bias=config.bias, snake=f"{unit}.2", residual=True)
        )
    return layers


def decoder_layers(config: OobleckConfig) -> list[Layer]:
    """Return the decoder's layers, which turn rows of latents into rows of samples."""
    widths, depth, rows = config.widths, len(config.strides), 1
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
        rows *= stride
        tile = tile_rows(config, widths[level - 1], rows)
        for layer in _residual_units(block, 2, widths[level - 1], config, tile):
            layers.append(_shifted(layer, latency(layers)))
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


def _shifted(layer: Layer, withheld: int) -> Layer:
    """Return the layer with the grid of tiles that has the shortest look-ahead.

    Rows arrive in multiples of a tile, but the earlier layers withhold the last `withheld` rows.
    With the best grid, a tile ends with the last row that has arrived.
    """
    newest = layer.reach - layer.spread - layer.padding
    return dataclasses.replace(layer, grid=(newest + withheld + 1) % layer.tile)


def encoder_layers(config: OobleckConfig) -> list[Layer]:
    """Return the encoder's layers, which turn rows of samples into rows of means and scales."""
    widths, depth, rows = config.widths, len(config.strides), config.hop
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
        tile = tile_rows(config, widths[number - 1], rows)
        layers += _residual_units(block, 0, widths[number - 1], config, tile)
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
        rows //= stride
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
    return _aligned_to_frames(layers)


def _aligned_to_frames(layers: Sequence[Layer]) -> list[Layer]:
    """Return an encoder's layers with the grids of tiles that have the shortest look-ahead.

    In each layer, a tile ends with the last row that a frame depends on. This holds for every
    frame, because in every fast layer the number of rows per frame is a multiple of `tile`.
    """
    shifted: list[Layer] = []
    for layer in reversed(layers):
        needed = rows_needed(shifted, 0)
        shifted.insert(0, dataclasses.replace(layer, grid=-(needed + layer.spread) % layer.tile))
    return shifted


def growth(layers: Sequence[Layer]) -> int:
    """Number of output rows per input row, if no layer shortens its input."""
    return math.prod(layer.phases // layer.tile for layer in layers)


def paired_layers(layers: Sequence[Layer]) -> int:
    """Number of layers, from the first on, that compute frames together if frames are paired.

    The last of them is the last transposed convolution that reads fewer than `MAX_PAIRED_ROWS` rows
    per latent frame.
    """
    count, rows = 0, 1
    for index, layer in enumerate(layers[:-1]):
        if layer.transposed and rows < MAX_PAIRED_ROWS:
            count = index + 1
        rows *= layer.phases // layer.tile
    return count


def output_length(layers: Sequence[Layer], rows: int) -> int:
    """Number of output rows of a complete input of `rows` rows."""
    for layer in layers:
        rows = layer.output_length(rows)
    return rows


def due_rows(layers: Sequence[Layer], rows: int) -> int:
    """Number of output rows that are final once `rows` input rows are known."""
    for layer in layers:
        rows = layer.due_rows(rows)
    return rows


def rows_needed(layers: Sequence[Layer], row: int) -> int:
    """Number of input rows that must be known before output row `row` is final."""
    for layer in reversed(layers):
        block = (row + layer.trim) // layer.phases
        row = block * layer.stride_in - layer.left_padding + layer.reach
    return row + 1


def first_row(layers: Sequence[Layer], row: int) -> int:
    """Index of the first input row that output row `row` depends on; negative for padding."""
    for layer in reversed(layers):
        # The row may be the last of its block, `last` rows after the block's first row.
        last = layer.spread if layer.tile > 1 else layer.phases - 1
        block = -(-(row + layer.trim - last) // layer.phases)
        row = block * layer.stride_in - layer.left_padding
    return row


def latency(layers: Sequence[Layer]) -> int:
    """The look-ahead: the number of output rows withheld until later input rows are known.

    Raises
    ------
    ValueError
        If a layer shortens its input, as in an encoder.
    """
    ahead = 0
    for layer in layers:
        if layer.stride != 1 and not layer.transposed:
            raise ValueError(f"{layer.name} shortens its input: no look-ahead in output rows")
        # Rows arrive in multiples of a tile, so the look-ahead is the same after every tile.
        rows = ahead + layer.reach + layer.trim
        rows += -rows % layer.tile
        growth = layer.phases // layer.stride_in
        ahead = rows * growth - layer.due_rows(rows - ahead)
    return ahead


def context(layers: Sequence[Layer]) -> int:
    """The larger of the two sides of the receptive field, in input rows.

    The sides are the numbers of rows before and after input row n that affect the output rows
    ``[n * hop, (n + 1) * hop)``. A flush may also return output rows that no input row affects,
    because they are computed from biases alone. Such rows exist only if there is an input row, so
    they count as depending on the last input row.
    """
    hop = growth(layers)
    # Trace the output rows of input row 0 back to the input rows that they depend on.
    beyond = -(-(output_length(layers, 1) - hop) // hop)
    return max(-first_row(layers, 0), rows_needed(layers, hop - 1) - 1, beyond)


def steady_blocks(layers: Sequence[Layer], rows: int = 1) -> list[int]:
    """Number of blocks of each layer per `rows` input rows, far from both ends of the input."""
    counts = []
    for layer in layers:
        # In a decoder, one row becomes a whole number of blocks in every layer.
        counts.append(rows // layer.stride_in)
        rows = counts[-1] * layer.phases
    return counts


def multiplications(layers: Sequence[Layer], rows: int = 1) -> int:
    """Number of multiply-adds per `rows` input rows, far from both ends of the input.

    In an encoder, `rows` has to be a multiple of the hop.
    """
    blocks = steady_blocks(layers, rows)
    return sum(n * layer.multiplications for n, layer in zip(blocks, layers, strict=True))


def saved_multiplications(layers: Sequence[Layer], rows: int = 1) -> float:
    """Share of the multiply-adds of direct convolution that fast convolution saves."""
    direct = multiplications([layer.direct for layer in layers], rows)
    return 1 - multiplications(layers, rows) / direct
