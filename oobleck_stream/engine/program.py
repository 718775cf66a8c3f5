"""The program of a push, the same for every backend: a table of steps and a table of moves.

The rows of a stream, both those that its layers still need and the new ones, are stored in one
array of floats, its arena. A step runs one layer over some rows of the arena. Its moves shift rows
that earlier steps have consumed out of the windows; they touch nothing that the step itself reads
or writes. All offsets are counted in floats: from the start of the arena, of the network's packed
parameters, of the input rows (the source) or of the output rows (the target). The tables contain
nothing that depends on a particular stream, so streams in lockstep share a program.

A step computes, for each stream, for each b in ``range(ROWS)``, each phase in ``range(PHASES)`` and
each column, with r = b * PHASES + phase, where ``FIRST_ROW <= r < LAST_ROW``::

    value = sum over tap of (sum over channel of
                arena[INPUT + b * INPUT_STRIDE + tap * TAP_STRIDE + channel] * weight)
    value += parameters[BIAS + column]                             unless BIAS is NONE
    value += arena[RESIDUAL + r * OUTPUT_STRIDE + column]          unless RESIDUAL is NONE
    value = tanh(value)                                            if TANH
    arena[RAW + r * OUTPUT_STRIDE + column] = value                unless RAW is NONE
    arena[SNAKED + r * OUTPUT_STRIDE + column] = snake(value)      unless SNAKED is NONE

The inner sum is over blocks of `chain_length` channels; each block is a chain of fused
multiply-adds that starts from +0 and takes the channels in ascending order. The sums are added in
ascending order of the taps, and of the blocks within a tap.

A step with TILE > 1 is a fast convolution (`oobleck_stream.fast_convolution`). In all formulas
above, r = b * PHASES + phase * PHASE_STRIDE. Each tap is a point of the scheme, whose rows are
computed from the ``TILE + 6`` input rows of the block: TAP_STRIDE apart, from ``INPUT + b *
INPUT_STRIDE`` on. The products of the points, each a sum over blocks of channels, become the values
of the phases. A JOINED step computes the rows of its points itself. Otherwise a step before it, the
transform, writes that of point p and block b to ``POINTS + p * POINT_STRIDE + b * CHANNELS``, where
the product has its input rows.

The last layer (`TO_TARGET`)
writes its raw rows to the target instead of the arena. The first step of a push copies the new rows
into the first window. It has no weights; its value is source[INPUT + r * INPUT_STRIDE + column].

The weights are stored in panels, so that a kernel reads them contiguously. The columns of each
phase are padded to a multiple of `LANES` and cut into panels of `PANEL` columns; the last panel may
be `LANES` wide. Within a panel the order is tap, channel, column. `weight_panel` says where a panel
starts.
"""

from __future__ import annotations

from dataclasses import dataclass

from oobleck_stream.arrays import IntArray

NONE = -1
"""The offset of something that a step doesn't have."""

MOVES_ALONE = -2
"""The `LAYER` of a step that has only moves."""

MAX_CHAIN, WIDE_CHAIN = 128, 64
"""Most channels of a chain of fused multiply-adds: a tap of up to `MAX_CHAIN` channels is one
chain, that of a wider layer is cut into chains of `WIDE_CHAIN`. The rounding error of a sum grows
with the length of its chains and with their number: this halves that of the widest layers."""

POINT_PAD = 48
"""Floats between the rows of one point and of the next. Without them, the rows of all points that
are written together could share one set of the first-level cache."""

LANES, PANEL = 16, 32
"""Columns of a vector, to whose multiples packed weights are padded, and columns of a panel."""

# Columns of the table of steps, int64.
(
    LAYER,  # number of the layer; -1 for the copy of the input rows; or MOVES_ALONE
    ROWS,  # blocks of output rows
    PHASES,  # output rows of a block
    FIRST_ROW,  # first of the ROWS * PHASES output rows that is written
    LAST_ROW,  # one past the last that is written
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
    POINT_STRIDE,  # from the rows of a point to those of the next
    JOINED,  # 1 if the next step has one tap, reads only this step's rows, and is fused with it
    FIRST_MOVE,  # number of its first move; its moves and its product may run in parallel
    MOVES,
    FIELDS,  # the number of columns
) = range(29)

MAX_JOINED = 128
"""Maximum columns of a step that is `JOINED` with the next."""

# Columns of the table of moves, int64. A move copies SIZE floats within the arena, from ORIGIN to
# TO, which may overlap as for C's memmove. If ORIGIN is NONE, it writes zeros.
TO, ORIGIN, SIZE, MOVE_FIELDS = range(4)


def chain_length(channels: int) -> int:
    """Channels of a chain of fused multiply-adds; every backend compiles this function."""
    return MAX_CHAIN if channels <= MAX_CHAIN else WIDE_CHAIN


def weight_panel(
    taps: int, channels: int, columns: int, phase: int, column: int
) -> tuple[int, int]:
    """The panel of weights that contains a column; every backend compiles this function.

    Parameters
    ----------
    taps, channels, columns : int
        Of the step.
    phase, column : int
        A phase, and one of its columns.

    Returns
    -------
    offset : int
        Start of the panel, in floats from WEIGHTS.
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
        What the push adds to the counters of a stream, see `oobleck_stream.engine.arena.Counters`.
    """

    steps: IntArray
    moves: IntArray
    counts: IntArray

    @property
    def rows_out(self) -> int:
        """Number of output rows."""
        return int(self.counts[2, -1])
