"""A program, which is all that a push does: a table of steps and one of moves, for every backend.

A stream's rows, those that its layers still need and the new ones, lie in one array of floats, its
arena. A step runs one layer over some rows of it; the moves that follow take what was used up out
of the windows. All places are counted in floats: from the start of the arena, of the network's
packed parameters, of the rows that come in (`SOURCE`) or of those that go out (`TARGET`). Nothing
in the tables tells one stream from another, so streams that are equally far share a program.

A step computes, for each stream, for b in ``range(ROWS)``, phase in ``range(PHASES)`` and every
column, with r = b * PHASES + phase, where ``FIRST_ROW <= r < LAST_ROW``::

    value = sum over tap of (sum over channel of
                arena[INPUT + b * INPUT_STRIDE + tap * TAP_STRIDE + channel] * weight)
            + parameters[BIAS + column]
    value += arena[RESIDUAL + r * OUTPUT_STRIDE + column]        if there is a residual
    value = tanh(value)                                          if TANH
    arena[PLAIN + r * OUTPUT_STRIDE + column] = value            if there is a PLAIN place
    arena[ACTIVE + r * OUTPUT_STRIDE + column] = snake(value)    if there is an ACTIVE place

in which the inner sum is a chain of fused multiply-adds from +0 over the channels in their order,
and the outer one adds the taps in theirs. The last layer (`LEAVES`) writes its plain rows to the
target instead. The first step of a push has no weights: its value is the source's row.

Weights lie in panels: a phase has ``ceil(COLUMNS / LANES) * LANES`` columns in panels of `PANEL`,
of which the last may be `LANES` wide; the weight of a column stands at ``WEIGHTS + TAPS *
CHANNELS * (phase * padded columns + the panel's first column) + (tap * CHANNELS + channel) *
panel's width + column within the panel``.
"""

from __future__ import annotations

from dataclasses import dataclass

from oobleck_stream.arrays import IntArray

NONE = -1
"""No such place."""

MOVES_ALONE = -2
"""The `LAYER` of a step without a product, only moves."""

LANES, PANEL = 16, 32
"""Columns that packed weights are padded to, and those of a panel."""

# Columns of the table of steps, int64.
(
    LAYER,  # number of the layer; -1: the way in; or MOVES_ALONE
    ROWS,  # blocks of output rows
    PHASES,  # output rows of a block
    FIRST_ROW,  # of the ROWS * PHASES output rows, the first and
    LAST_ROW,  # one past the last that are wanted
    TAPS,
    CHANNELS,
    COLUMNS,  # output channels
    INPUT,
    INPUT_STRIDE,  # from block to block
    TAP_STRIDE,
    WEIGHTS,  # NONE: the rows of the source themselves are the sums
    BIAS,
    RESIDUAL,
    PLAIN,
    ACTIVE,
    OUTPUT_STRIDE,
    ALPHA,
    INVERSE_BETA,
    TANH,
    LEAVES,  # whether this is the last layer
    JOINED,  # whether the next step's only tap reads just the rows that this step writes
    FIRST_MOVE,  # moves that nobody of this step reads or writes: they may be made beside it
    MOVES,
    FIELDS,  # the number of columns
) = range(25)

MAX_JOINED = 128
"""Columns up to which a step is `JOINED` with the next."""

# Columns of the table of moves, int64: floats within the arena, which may overlap as C's memmove
# allows; from NONE come zeros.
TO, ORIGIN, SIZE, MOVE_FIELDS = range(4)


@dataclass(frozen=True, eq=False)
class Program:
    """All that one push does.

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
