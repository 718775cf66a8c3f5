"""What a network takes to give out its first frame, and the limits on it.

Shapes in a small file can describe endless work: eight levels with a stride of 64 have few
parameters, but turn a latent frame into 2.8e14 samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from oobleck_stream.engine.arena import ArenaLayout
from oobleck_stream.engine.backends import SIZES
from oobleck_stream.engine.packed import padded, parameter_offsets
from oobleck_stream.errors import CheckpointError
from oobleck_stream.memory import INSIST, limits_lifted, memory_shortage
from oobleck_stream.network import Layer, rows_needed

MAX_WORK = 10**12
"""Multiply-adds for the first frame. The largest published networks take 1e11, which are some
seconds on two cores."""

_VALUE_WORK = 64
"""Multiply-adds that take as long as everything else that is done for a value: the bias, Snake, the
residual, copying. In very narrow networks this is most of the work."""

_FLOAT_BYTES = 4


def require_affordable(source: object, layers: Sequence[Layer]) -> None:
    """Refuse layers whose parameters or first frame take too much memory or work.

    Parameters
    ----------
    source : object
        The file or network, for the message.
    layers : sequence of Layer

    Raises
    ------
    CheckpointError
        When they take more memory than this machine has, or more work than `MAX_WORK`; says how
        much, and how to lift the limits.
    """
    shortage = memory_shortage(first_memory(layers))
    if shortage:
        raise CheckpointError(source, f"a network that {shortage}")
    work = first_work(layers)
    if work > MAX_WORK and not limits_lifted():
        raise CheckpointError(
            source,
            f"a network that takes {Decimal(work):.2e} multiply-adds for its first frame; at most "
            f"{Decimal(MAX_WORK):.0e} are allowed ({INSIST})",
        )


def first_memory(layers: Sequence[Layer]) -> int:
    """Bytes of the parameters, of the state of a stream, and of the first frame."""
    _, parameters = parameter_offsets(layers)
    state = ArenaLayout.of(layers, SIZES["cpu"].floats_each(1)).floats
    rows = _first_rows(layers)[-1]
    return _FLOAT_BYTES * (parameters + state + rows * layers[-1].outputs)


def first_work(layers: Sequence[Layer]) -> int:
    """Multiply-adds, or as much other work, until the first frame is given out.

    Columns count in whole vectors, as they are computed.
    """
    return sum(
        layer.due_blocks(rows)
        * layer.phases
        * padded(layer.outputs)
        * (layer.taps * layer.inputs + _VALUE_WORK)
        for layer, rows in zip(layers, _first_rows(layers), strict=False)
    )


def _first_rows(layers: Sequence[Layer]) -> list[int]:
    """Input rows of each layer, and then output rows of the last, when the first frame is out.

    A frame is the sound of a latent frame for a decoder, and a latent frame for an encoder.
    """
    last = math.prod(layer.phases for layer in layers) - 1
    rows = [max(1, rows_needed(layers, last))]
    for layer in layers:
        rows.append(layer.due_rows(rows[-1]))
    return rows
