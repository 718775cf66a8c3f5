"""What a checkpoint's tensors become in another one, before any of them is read."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from oobleck_stream.checkpoints.containers import Container, FloatingArray, Tensor
from oobleck_stream.checkpoints.description import Description
from oobleck_stream.checkpoints.names import Half, diffusers_modules, named_half
from oobleck_stream.checkpoints.weights import check_tensors, expected_tensors
from oobleck_stream.config import OobleckConfig
from oobleck_stream.errors import CheckpointError
from oobleck_stream.network import Layer, decoder_layers, encoder_layers
from oobleck_stream.parameters import fold_weight_norm

WeightNorm = Literal["keep", "fold"]
Naming = Literal["stable-audio-tools", "diffusers"]

_ORIGINALS = "parametrizations.weight.original"


@dataclass(frozen=True)
class Wishes:
    """How the tensors of a conversion shall be.

    Parameters
    ----------
    encoder : bool or None
        Whether the encoder comes along; None where there is one.
    weight_norm : {"keep", "fold"}
    dtype : str or None
        As safetensors spells it; None keeps each tensor's own.
    naming : {"stable-audio-tools", "diffusers"}
    widened : bool
        Whether what is narrower than float32 becomes float32 (which loses nothing).
    """

    encoder: bool | None = None
    weight_norm: WeightNorm = "keep"
    dtype: str | None = None
    naming: Naming = "stable-audio-tools"
    widened: bool = False


@dataclass(frozen=True)
class Conversion:
    """The tensors that a conversion writes, and what became of the others.

    Parameters
    ----------
    source : Container
    found : Description
    tensors : tuple of Tensor
        By their new names; each reads and converts its source when it is asked to.
    kept : dict of str to int
        Tensors of the source that are kept, by half.
    dropped : tuple of str
        The source's names of the tensors that are not.
    renamed : tuple of str
        The rules by which names and shapes have changed.
    dtypes : dict of (str, str) to int
        How many tensors are of which dtype, and become which.
    notes : tuple of str
    """

    source: Container
    found: Description
    tensors: tuple[Tensor, ...]
    kept: dict[str, int]
    dropped: tuple[str, ...]
    renamed: tuple[str, ...]
    dtypes: dict[tuple[str, str], int]
    notes: tuple[str, ...]

    @property
    def config(self) -> OobleckConfig:
        """Of the network."""
        return self.found.config

    @property
    def has_encoder(self) -> bool:
        """Whether the encoder comes along."""
        return "encoder" in self.kept


def plan_conversion(source: Container, found: Description, wishes: Wishes) -> Conversion:
    """Check the tensors of a checkpoint, and say what each becomes.

    Raises
    ------
    CheckpointError
        When tensors are missing, unexpected or of another shape, or the encoder is wished for and
        there is none.
    """
    halves = {"decoder": (found.decoder, decoder_layers(found.config))}
    notes = list(found.notes)
    encoder = _encoder(source, found, wishes.encoder, notes)
    if encoder is not None:
        halves["encoder"] = (encoder, encoder_layers(found.config))
    problems = [line for half, layers in halves.values() for line in check_tensors(half, layers)]
    if problems:
        raise CheckpointError(source.path, *problems)
    tensors: list[Tensor] = []
    dtypes: list[str] = []
    used: dict[str, list[str]] = {}
    for half_name, (half, layers) in halves.items():
        spelling = {}
        if wishes.naming == "diffusers":
            spelling = diffusers_modules(half_name, len(found.config.strides))
        for layer in layers:
            for tensor, name in _layer_tensors(half, layer, wishes.weight_norm):
                tensors.append(_converted(tensor, name, wishes, spelling))
                dtypes.append(tensor.dtype)
        used[half_name] = [tensor.name for tensor in half.tensors.values()]
    taken = {name for names in used.values() for name in names}
    return Conversion(
        source,
        found,
        tuple(tensors),
        {name: len(names) for name, names in used.items()},
        tuple(name for name in source.tensors if name not in taken),
        tuple(_rules([half for half, _ in halves.values()], wishes)),
        dict(Counter(zip(dtypes, (tensor.dtype for tensor in tensors), strict=True))),
        tuple(notes),
    )


def _encoder(
    source: Container, found: Description, wished: bool | None, notes: list[str]
) -> Half | None:
    """The encoder, where it is wished for and there."""
    if wished is False:
        return None
    half = named_half(source, found.decoder.prefix, "encoder")
    there = bool(half.tensors or half.unknown)
    if there and found.config.has_encoder:
        return half
    reason = "the encoder is not of the Oobleck family" if there else "there is no encoder in it"
    if wished:
        raise CheckpointError(source.path, reason)
    notes.append(f"only the decoder: {reason}")
    return None


def _layer_tensors(
    half: Half, layer: Layer, weight_norm: WeightNorm
) -> Iterator[tuple[Tensor, str]]:
    """A layer's tensors and their canonical names, in the order in which the network has them."""
    names = [name for name, _ in expected_tensors(half, layer)]
    pair = [name for name in names if name.endswith((".weight_g", ".weight_v"))]
    if pair and weight_norm == "fold":
        g, v = (half.tensors[name] for name in pair)
        name, read = f"{layer.name}.weight", functools.partial(_folded, g, v)
        yield Tensor(name, v.shape, "F32", read), name
        names = [name for name in names if name not in pair]
    for name in names:
        yield half.tensors[name], name


def _converted(tensor: Tensor, name: str, wishes: Wishes, spelling: dict[str, str]) -> Tensor:
    """A tensor under its new name, with its new shape and dtype."""
    module, _, suffix = name.rpartition(".")
    shape = tensor.shape
    if suffix in ("alpha", "beta"):
        channels = max(shape)
        shape = (1, channels, 1) if spelling else (channels,)
    dtype = wishes.dtype or tensor.dtype
    if wishes.widened and dtype in ("F16", "BF16"):
        dtype = "F32"
    return Tensor(f"{spelling.get(module, module)}.{suffix}", shape, dtype, tensor.read)


def _folded(g: Tensor, v: Tensor) -> FloatingArray:
    return fold_weight_norm(g.read(), v.read())


def _rules(halves: Sequence[Half], wishes: Wishes) -> Iterator[str]:
    """How names and shapes change, a rule each."""
    names = [name for half in halves for name in half.tensors]
    theirs = [tensor.name for half in halves for tensor in half.tensors.values()]
    to_diffusers, from_diffusers = wishes.naming == "diffusers", any(h.spelling for h in halves)
    if halves[0].prefix:
        yield f"{halves[0].prefix}* -> *"
    if any(_ORIGINALS in name for name in theirs):
        yield f"*.{_ORIGINALS}0, *.{_ORIGINALS}1 -> *.weight_g, *.weight_v"
    pairs = sum(name.endswith(".weight_v") for name in names)
    if pairs and wishes.weight_norm == "fold":
        yield f"*.weight_g, *.weight_v -> *.weight ({pairs} pairs folded)"
    if from_diffusers != to_diffusers:
        ours, others = "decoder.layers.1.layers.1", "decoder.block.0.conv_t1"
        before, after = (ours, others) if to_diffusers else (others, ours)
        yield f"{before}.* -> {after}.*, and so on through the modules"
        shapes = ("(C)", "(1, C, 1)")
        yield "*.alpha, *.beta: {} -> {}".format(*(shapes if to_diffusers else shapes[::-1]))
