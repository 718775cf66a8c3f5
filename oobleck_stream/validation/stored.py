"""A checkpoint's own tensors, for peers that should not depend on what we made of them."""

from __future__ import annotations

from oobleck_stream.checkpoints.names import Half as StoredHalf
from oobleck_stream.checkpoints.names import find_prefix, named_half
from oobleck_stream.checkpoints.opening import open_container
from oobleck_stream.checkpoints.packed_file import is_packed
from oobleck_stream.loading import find_files, is_random
from oobleck_stream.model import Model
from oobleck_stream.validation.stages import Half, half_of
from oobleck_stream.validation.tensors import Tensors, packed_tensors, stored_tensors


def tensors_for_peer(source: str, model: Model, half: Half) -> tuple[Tensors, bool]:
    """The parameters of a model's half, and whether they are as its checkpoint stores them.

    Parameters
    ----------
    source : str
        What the model was loaded from, as `load` takes it.
    model : Model
    half : {"decoder", "encoder"}

    Returns
    -------
    tensors : iterable of (Layer, LayerTensors)
        Of the checkpoint; where there is none that names its tensors (random weights, packed
        files), our own, folded.
    stored : bool
    """
    network = half_of(model, half)
    found = _stored_half(source, half)
    if found is None:
        return packed_tensors(network, model.config), False
    return stored_tensors(found, network.layers, model.config), True


def _stored_half(source: str, half: Half) -> StoredHalf | None:
    """A half's tensors; None for random weights and packed networks, which have no others."""
    if is_random(source):
        return None
    container = open_container(find_files(source)[0])
    if is_packed(container):
        return None
    prefix, _ = find_prefix(container)
    return named_half(container, prefix, half)
