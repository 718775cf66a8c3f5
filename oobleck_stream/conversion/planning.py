"""Decides which tensors a conversion writes, before any tensor is read."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from oobleck_stream.checkpoints.description import Description
from oobleck_stream.checkpoints.names import HalfTensors, diffusers_modules, half_tensors
from oobleck_stream.checkpoints.weights import check_tensors, expected_tensors
from oobleck_stream.config import OobleckConfig
from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.dtypes import FloatingArray
from oobleck_stream.formats.tensors import Container, Tensor
from oobleck_stream.network import Layer, decoder_layers, encoder_layers
from oobleck_stream.parameters import fold_weight_norm

WeightNorm = Literal["keep", "fold"]
Naming = Literal["stable-audio-tools", "diffusers"]

_ORIGINALS = "parametrizations.weight.original"


@dataclass(frozen=True)
class ConversionOptions:
    """How to convert the tensors of a checkpoint.

    Parameters
    ----------
    encoder : bool or None
        Whether to convert the encoder. With None, the encoder is converted if the checkpoint has
        one.
    weight_norm : {"keep", "fold"}
    dtype : str or None
        The new dtype, as named in safetensors, such as ``"F32"``. None keeps each tensor's dtype.
    naming : {"stable-audio-tools", "diffusers"}
    widen : bool
        Whether to convert dtypes narrower than float32 to float32 (which is lossless).
    """

    encoder: bool | None = None
    weight_norm: WeightNorm = "keep"
    dtype: str | None = None
    naming: Naming = "stable-audio-tools"
    widen: bool = False


@dataclass(frozen=True)
class Conversion:
    """The tensors that a conversion writes, and how they differ from the source.

    Parameters
    ----------
    source : Container
    found : Description
    tensors : tuple of Tensor
        The tensors with their new names. Each reads its source on demand.
    kept : dict of str to int
        Number of tensors of the source that are kept, keyed by half (decoder or encoder).
    dropped : tuple of str
        The source's names of the tensors that are not kept.
    renamed : tuple of str
        The rules by which names and shapes change.
    dtypes : dict of (str, str) to int
        Number of tensors, keyed by the old and the new dtype.
    notes : tuple of str
        What the user should know about the result.
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
        """The network's config."""
        return self.found.config

    @property
    def has_encoder(self) -> bool:
        """Whether the encoder is converted."""
        return "encoder" in self.kept


def plan_conversion(
    source: Container, found: Description, options: ConversionOptions
) -> Conversion:
    """Check the tensors of a checkpoint, and decide what to write.

    Raises
    ------
    CheckpointError
        If tensors are missing, unexpected or of another shape, or if the encoder is requested and
        the checkpoint has no encoder.
    """
    halves = {"decoder": (found.decoder, decoder_layers(found.config))}
    notes = list(found.notes)
    encoder = _encoder(source, found, options.encoder, notes)
    if encoder is not None:
        halves["encoder"] = (encoder, encoder_layers(found.config))
    problems = [line for half, layers in halves.values() for line in check_tensors(half, layers)]
    if problems:
        raise CheckpointError(source.path, *problems)
    tensors: list[Tensor] = []
    dtypes: list[str] = []
    used: dict[str, list[str]] = {}
    for half_name, (half, layers) in halves.items():
        module_names = {}
        if options.naming == "diffusers":
            module_names = diffusers_modules(half_name, len(found.config.strides))
        for layer in layers:
            for tensor, name in _layer_tensors(half, layer, options.weight_norm):
                tensors.append(_converted(tensor, name, options, module_names))
                dtypes.append(tensor.dtype)
        used[half_name] = [tensor.name for tensor in half.tensors.values()]
    taken = {name for names in used.values() for name in names}
    return Conversion(
        source,
        found,
        tuple(tensors),
        {name: len(names) for name, names in used.items()},
        tuple(name for name in source.tensors if name not in taken),
        tuple(_rules([half for half, _ in halves.values()], options)),
        dict(Counter(zip(dtypes, (tensor.dtype for tensor in tensors), strict=True))),
        tuple(notes),
    )


def _encoder(
    source: Container, found: Description, requested: bool | None, notes: list[str]
) -> HalfTensors | None:
    """Return the encoder; None if it is missing (`notes` then says so) or is not requested."""
    if requested is False:
        return None
    half = half_tensors(source, found.decoder.prefix, "encoder")
    exists = bool(half.tensors or half.unknown)
    if exists and found.config.has_encoder:
        return half
    reason = "the encoder is not of the Oobleck family" if exists else "there is no encoder in it"
    if requested:
        raise CheckpointError(source.path, reason)
    notes.append(f"only the decoder: {reason}")
    return None


def _layer_tensors(
    half: HalfTensors, layer: Layer, weight_norm: WeightNorm
) -> Iterator[tuple[Tensor, str]]:
    """Yield a layer's tensors and their canonical names."""
    names = [name for name, _ in expected_tensors(half, layer)]
    pair = [name for name in names if name.endswith((".weight_g", ".weight_v"))]
    if pair and weight_norm == "fold":
        g, v = (half.tensors[name] for name in pair)
        name, read = f"{layer.name}.weight", functools.partial(_folded, g, v)
        yield Tensor(name, v.shape, "F32", read), name
        names = [name for name in names if name not in pair]
    for name in names:
        yield half.tensors[name], name


def _converted(
    tensor: Tensor, name: str, options: ConversionOptions, module_names: dict[str, str]
) -> Tensor:
    """Return a tensor with its new name, shape and dtype."""
    module, _, suffix = name.rpartition(".")
    shape = tensor.shape
    if suffix in ("alpha", "beta"):
        channels = max(shape)
        shape = (1, channels, 1) if module_names else (channels,)
    dtype = options.dtype or tensor.dtype
    if options.widen and dtype in ("F16", "BF16"):
        dtype = "F32"
    return Tensor(f"{module_names.get(module, module)}.{suffix}", shape, dtype, tensor.read)


def _folded(g: Tensor, v: Tensor) -> FloatingArray:
    return fold_weight_norm(g.read(), v.read())


def _rules(halves: Sequence[HalfTensors], options: ConversionOptions) -> Iterator[str]:
    """Yield the rules by which names and shapes change."""
    names = [name for half in halves for name in half.tensors]
    theirs = [tensor.name for half in halves for tensor in half.tensors.values()]
    to_diffusers = options.naming == "diffusers"
    from_diffusers = any(half.module_names for half in halves)
    if halves[0].prefix:
        yield f"{halves[0].prefix}* -> *"
    if any(_ORIGINALS in name for name in theirs):
        yield f"*.{_ORIGINALS}0, *.{_ORIGINALS}1 -> *.weight_g, *.weight_v"
    pairs = sum(name.endswith(".weight_v") for name in names)
    if pairs and options.weight_norm == "fold":
        yield f"*.weight_g, *.weight_v -> *.weight ({pairs} pairs folded)"
    if from_diffusers != to_diffusers:
        ours, others = "decoder.layers.1.layers.1", "decoder.block.0.conv_t1"
        before, after = (ours, others) if to_diffusers else (others, ours)
        yield f"{before}.* -> {after}.*, and so on through the modules"
        shapes = ("(C)", "(1, C, 1)")
        yield "*.alpha, *.beta: {} -> {}".format(*(shapes if to_diffusers else shapes[::-1]))
