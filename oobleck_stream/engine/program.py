"""The program of a push: a table of steps and a table of moves, the same for every backend.

The rows of a stream, both those that its layers still need and the new ones, are stored in one
array of floats, its arena. A step runs one layer over some rows of the arena. The moves of a step
shift the contents of the layers' windows in the arena, so that rows consumed by earlier steps are
dropped. The moves touch nothing that the step itself reads or writes. All offsets are counted in
floats from the start of an array: the arena, the network's packed parameters, the input rows (the
source) or the output rows (the target). The tables contain nothing that depends on a particular
stream, so streams in lockstep share a program.

Words in capitals are fields of a step. For each stream, each b in ``range(ROWS)``, each phase in
``range(PHASES)`` and each column, let r = b * PHASES + phase. If ``FIRST_ROW <= r < LAST_ROW``, a
step computes::

    value = sum over tap of (sum over channel of
                arena[INPUT + b * INPUT_STRIDE + tap * TAP_STRIDE + channel] * weight)
    value += parameters[BIAS + column]                             unless BIAS is NONE
    value += arena[RESIDUAL + r * OUTPUT_STRIDE + column]          unless RESIDUAL is NONE
    value = tanh(value)                                            if TANH
    arena[RAW + r * OUTPUT_STRIDE + column] = value                unless RAW is NONE
    arena[SNAKED + r * OUTPUT_STRIDE + column] = snake(value)      unless SNAKED is NONE

The inner sum is cut into chains of `chain_length` channels. Each chain consists of fused
multiply-adds, starts from +0, and takes the channels in ascending order. The chains are added in
ascending order of the taps and, within each tap, of the channels.

A step with TILE > 1 is a fast convolution (`oobleck_stream.fast_convolution`). For such a step, r =
b * PHASES + phase * PHASE_STRIDE in all formulas above. The taps of the formulas are then the
points of the scheme. The rows of the points are computed from the ``TILE + 6`` input rows of the
block. The first of these is at ``INPUT + b * INPUT_STRIDE``, and the others follow at distances of
TAP_STRIDE. The product of each point is a sum of chains, and the values of the phases are computed
from these products. A JOINED step computes the rows of its points itself. Before any other fast
step there is a separate step, the transform. It writes the row of point p and block b to ``POINTS +
p * POINT_STRIDE + b * CHANNELS``, where the fast step reads it.

The last layer (`TO_TARGET`) writes its raw rows to the target instead of the arena. The first step
of a push copies the new rows into the first window. This step has no weights; its value is
``source[INPUT + r * INPUT_STRIDE + column]``.

The weights are stored in panels, so that a kernel reads them contiguously. The columns of each
phase are padded to a multiple of `LANES` and cut into panels of `PANEL` columns; the last panel may
be `LANES` wide. Within a panel the order is tap, channel, column. `weight_panel` says where a panel
starts. WEIGHTS and all other offsets are in floats even if the weights have 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from oobleck_stream.arrays import IntArray

NONE = -1
"""The offset of something that a step doesn't have."""

MOVES_ALONE = -2
"""The `LAYER` of a step that has only moves."""

MAX_CHAIN, WIDE_CHAIN = 128, 64
"""Maximum length of a chain of fused multiply-adds. A tap of up to `MAX_CHAIN` channels is one
chain. A tap of more channels is cut into chains of `WIDE_CHAIN` channels. The rounding error of a
sum grows with the length of its chains and with their number; these lengths halve the error of the
widest layers."""

POINT_PAD = 48
"""Unused floats between the rows of one point and the rows of the next. Without them, the rows of
different points, which are written together, could all fall into the same set of the first-level
cache."""

LANES, PANEL = 16, 32
"""Number of columns of a vector, and of a panel. Packed weights are padded to whole vectors."""

WEIGHT_DTYPES = ("F32", "BF16", "F16")
"""The dtypes in which weights are stored, by their names in safetensors. Weights of 16 bits are
converted to float32 exactly. They have only panels of full width. The weights of a fast convolution
are float32."""

# Columns of the table of steps, int64. The table is not an array of records, because Numba's CUDA
# target loads all fields of a record to read one of them.
(
    LAYER,  # index of the layer; -1 for the copy of the input rows; or MOVES_ALONE
    ROWS,  # blocks of output rows
    PHASES,  # output rows of a block
    FIRST_ROW,  # first of the ROWS * PHASES output rows that is written
    LAST_ROW,  # one past the last row that is written
    TAPS,
    CHANNELS,
    COLUMNS,  # output channels
    INPUT,
    INPUT_STRIDE,  # from block to block
    TAP_STRIDE,
    WEIGHTS,  # NONE for the copy of the input rows
    BIAS,
    RESIDUAL,
    RAW,  # output rows before the next layer's Snake
    SNAKED,  # output rows after the next layer's Snake
    OUTPUT_STRIDE,
    ALPHA,  # of that Snake
    INVERSE_BETA,
    TANH,
    TO_TARGET,  # 1 for the last layer
    TILE,  # rows of a tile of fast convolution; 1 for a direct one
    PHASE_STRIDE,  # output rows from phase to phase
    POINTS,  # where a transform writes the rows of the points; NONE for every other step
    POINT_STRIDE,  # from the rows of a point to the rows of the next point
    DTYPE,  # of the weights: their index in WEIGHT_DTYPES
    JOINED,  # 1 if the next step has one tap, reads only this step's rows, and is fused with it
    FIRST_MOVE,  # index of the first move; the moves and the product may run in parallel
    MOVES,
    FIELDS,  # the number of columns
) = range(30)

MAX_JOINED = 128
"""Maximum number of columns of a step that is `JOINED` with the next step."""

# Columns of the table of moves, int64. A move copies SIZE floats within the arena, from ORIGIN to
# TO. The two ranges may overlap, as for C's memmove. If ORIGIN is NONE, the move writes zeros.
TO, ORIGIN, SIZE, MOVE_FIELDS = range(4)


def chain_length(channels: int) -> int:
    """Number of channels of a chain of multiply-adds. Every backend compiles this function."""
    return MAX_CHAIN if channels <= MAX_CHAIN else WIDE_CHAIN


def weight_panel(
    taps: int, channels: int, columns: int, phase: int, column: int
) -> tuple[int, int]:
    """The panel of weights that contains a column. Every backend compiles this function.

    Parameters
    ----------
    taps, channels, columns : int
        Fields of the step.
    phase, column : int
        A phase, and one of its columns.

    Returns
    -------
    offset : int
        Start of the panel, in weights from WEIGHTS.
    width : int
        Columns of the panel, padding included. The weight of a tap and a channel is at ``offset +
        (tap * channels + channel) * width + column % PANEL``.
    """
    padded = (columns + LANES - 1) // LANES * LANES
    first = column // PANEL * PANEL
    return taps * channels * (phase * padded + first), min(PANEL, padded - first)


@dataclass(frozen=True, eq=False)
class Program:
    """Everything that one push executes.

    Parameters
    ----------
    steps : (steps, FIELDS) int64
    moves : (moves, MOVE_FIELDS) int64
    counts : (3, layers) int64
        What the push adds to a stream's counters (`oobleck_stream.engine.arena.Counters`).
    """

    steps: IntArray
    moves: IntArray
    counts: IntArray

    @property
    def rows_out(self) -> int:
        """Number of output rows."""
        return int(self.counts[2, -1])
