"""Limits the memory and the work that a network may need until it returns its first frame.

A small file can describe an enormous amount of work: a decoder of eight blocks with a stride of 64
has few parameters, but turns one latent frame into 2.8e14 samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from oobleck_stream.engine.arena import ArenaLayout
from oobleck_stream.engine.backends import SIZES
from oobleck_stream.engine.packed import padded, parameter_offsets
from oobleck_stream.errors import CheckpointError
from oobleck_stream.memory import INSIST, limits_lifted, memory_shortage
from oobleck_stream.network import Layer, growth, rows_needed

MAX_WORK = 10**12
"""Maximum multiply-adds for the first frame. The largest published decoder, of Cosmos3, needs
3.1e10.
"""

_VALUE_WORK = 64
"""The cost of bias, Snake, residual and copying for one value, expressed as the number of
multiply-adds that take the same time. This is most of the work in very narrow networks.
"""

_FLOAT_BYTES = 4


def require_affordable(source: object, layers: Sequence[Layer]) -> None:
    """Raise if the parameters or the first frame of a network take too much memory or work.

    Parameters
    ----------
    source : object
        The file or the name of the network, for the message.
    layers : sequence of Layer

    Raises
    ------
    CheckpointError
        If the network takes more memory than `machine_memory`, or more work than `MAX_WORK`. The
        message states the amount, and explains how to lift the limits.
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
    """The bytes needed for the parameters, a stream's state on the CPU and the first output."""
    _, parameters = parameter_offsets(layers)
    state = ArenaLayout.of(layers, SIZES["cpu"].floats_each(1)).floats
    rows = _first_rows(layers)[-1]
    return _FLOAT_BYTES * (parameters + state + rows * layers[-1].outputs)


def first_work(layers: Sequence[Layer]) -> int:
    """Work until the first frame is complete, in multiply-adds.

    Output channels are counted in whole vectors, because the kernels compute whole vectors.
    """
    # `_first_rows` has one more entry than there are layers, for the output of the network.
    return sum(
        layer.due_blocks(rows)
        * padded(layer.outputs)
        * (layer.products * layer.inputs + layer.phases * _VALUE_WORK)
        for layer, rows in zip(layers, _first_rows(layers), strict=False)
    )


def _first_rows(layers: Sequence[Layer]) -> list[int]:
    """The number of rows that each layer has received when the first frame is complete.

    The last entry is the number of rows that the network has returned. For a decoder, the first
    frame means all samples of the first latent frame. For an encoder it means the first latent
    frame, because all layers of an encoder have one phase.
    """
    rows = [max(1, rows_needed(layers, growth(layers) - 1))]
    for layer in layers:
        rows.append(layer.due_rows(rows[-1]))
    return rows
