"""Maps the names of tensors to canonical names.

The canonical names are those of stable-audio-tools. Checkpoints may also use the names of
diffusers. Each weight is stored either as one tensor or as the two tensors of weight norm, the
magnitude g and the direction v (https://arxiv.org/abs/1602.07868). Torch has two implementations of
weight norm, which name g and v differently. Both are supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from oobleck_stream.errors import CheckpointError
from oobleck_stream.formats.tensors import Container, Tensor

KNOWN_PREFIXES = ("pretransform.model.", "model.pretransform.model.", "autoencoder.", "")
"""Known prefixes of ``decoder.``, in order of preference. The order matters only if a checkpoint
has several decoders. If exactly one of them has averaged weights (EMA), that decoder is chosen
whatever its prefix."""

# Suffix in the container -> canonical suffix. The first two are those of
# torch.nn.utils.parametrizations.weight_norm, the next two of torch.nn.utils.weight_norm.
_SUFFIXES = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "weight_g": "weight_g",
    "weight_v": "weight_v",
    "weight": "weight",
    "bias": "bias",
    "alpha": "alpha",
    "beta": "beta",
}
# Diffusers' names of the modules of a block and of a residual unit, in the order in which
# stable-audio-tools numbers these modules.
_BLOCKS = {
    "decoder": ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"),
    "encoder": ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"),
}
_UNIT = ("snake1", "conv1", "snake2", "conv2")
_BLOCK = re.compile(r"[a-z]+\.layers\.(\d+)\.layers\.")
_IN_A_BLOCK = re.compile(
    r"(?P<prefix>(?:.*?\.)?)decoder\."
    r"(?:layers\.\d+\.layers\.\d+|block\.\d+\.(?:snake1|conv_t1|res_unit\d))\."
)


@dataclass(frozen=True)
class HalfTensors:
    """The tensors of a decoder or an encoder in a container.

    Parameters
    ----------
    prefix : str
        The part of the container's names before ``decoder.`` or ``encoder.``.
    tensors : mapping of str to Tensor
        The tensors, keyed by canonical name.
    unknown : tuple of str
        Names in the container that have no canonical name.
    duplicates : tuple of str
        Names in the container whose canonical name another tensor already has.
    module_names : mapping of str to str
        Maps the canonical name of each module to its name in the container. Empty if the container
        uses the canonical names.
    """

    prefix: str
    tensors: Mapping[str, Tensor]
    unknown: tuple[str, ...]
    duplicates: tuple[str, ...]
    module_names: Mapping[str, str]

    @property
    def depth(self) -> int:
        """Number of blocks that have at least one tensor."""
        return len({match[1] for match in map(_BLOCK.match, self.tensors) if match})

    def stored_name(self, name: str) -> str:
        """The name that tensor `name` has in the container, or should have if it is missing."""
        if name in self.tensors:
            return self.tensors[name].name
        module, _, suffix = name.rpartition(".")
        return f"{self.prefix}{self.module_names.get(module, module)}.{suffix}"


def diffusers_modules(half: str, depth: int) -> dict[str, str]:
    """Map each module's canonical name to diffusers' name, for the decoder or the encoder.

    `half` is ``"decoder"`` or ``"encoder"``.
    """
    modules = {"layers.0": "conv1"}
    for block in range(depth):
        for place, name in enumerate(_BLOCKS[half]):
            ours, theirs = f"layers.{block + 1}.layers.{place}", f"block.{block}.{name}"
            if name.startswith("res_unit"):
                for inner, part in enumerate(_UNIT):
                    modules[f"{ours}.layers.{inner}"] = f"{theirs}.{part}"
            else:
                modules[ours] = theirs
    modules |= {f"layers.{depth + 1}": "snake1", f"layers.{depth + 2}": "conv2"}
    return {f"{half}.{ours}": f"{half}.{theirs}" for ours, theirs in modules.items()}


def find_prefix(container: Container) -> tuple[str, list[str]]:
    """Choose a decoder in a container, and return the prefix of its tensors' names.

    Returns
    -------
    prefix : str
    notes : list of str
        If there were several decoders, a sentence about the choice.

    Raises
    ------
    CheckpointError
        If there is no Oobleck decoder, or if there are several and no rule decides between them.
    """
    matches = (_IN_A_BLOCK.match(name) for name in container.tensors)
    found = sorted({match["prefix"] for match in matches if match})
    if not found:
        raise CheckpointError(
            container.path,
            "no Oobleck decoder in it (no tensors like decoder.layers.1.layers.0.alpha or "
            "decoder.block.0.snake1.alpha)",
        )
    if len(found) == 1:
        return found[0], []
    averages = [prefix for prefix in found if "ema_model." in prefix]
    known = [prefix for prefix in KNOWN_PREFIXES if prefix in found]
    if len(averages) != 1 and not known:
        raise CheckpointError(
            container.path, f"several decoders in it, under {', '.join(found)}: one was expected"
        )
    chosen = averages[0] if len(averages) == 1 else known[0]
    others = ", ".join(repr(prefix) for prefix in found if prefix != chosen)
    what = "the averaged weights (EMA)" if "ema_model." in chosen else "the weights"
    return chosen, [f"{what} under {chosen!r} were taken, not those under {others}"]


def half_tensors(container: Container, prefix: str, half: str) -> HalfTensors:
    """Return the tensors under ``prefix + half`` with canonical names.

    `half` is ``"decoder"`` or ``"encoder"``.
    """
    start = f"{prefix}{half}."
    mine = [name for name in container.tensors if name.startswith(start)]
    module_names = _module_names(half, (name[len(prefix) :] for name in mine))
    canonical_module = {theirs: ours for ours, theirs in module_names.items()}
    tensors: dict[str, Tensor] = {}
    unknown, duplicates = [], []
    for name in mine:
        module, suffix = _split(name[len(prefix) :])
        if not suffix or (module_names and module not in canonical_module):
            unknown.append(name)
            continue
        canonical = f"{canonical_module.get(module, module)}.{suffix}"
        if canonical in tensors:
            duplicates.append(name)
        else:
            tensors[canonical] = container.tensors[name]
    return HalfTensors(prefix, tensors, tuple(unknown), tuple(duplicates), module_names)


def _module_names(half: str, names: Iterable[str]) -> dict[str, str]:
    """Map each module to diffusers' name, if `names` are diffusers' names.

    Diffusers' names contain ``block``. For other names, the result is empty.
    """
    blocks = {name.split(".")[2] for name in names if name.startswith(f"{half}.block.")}
    return diffusers_modules(half, len(blocks)) if blocks else {}


def _split(name: str) -> tuple[str, str]:
    """Split a name into module and canonical suffix. The suffix is empty if it is unknown."""
    for suffix, canonical in _SUFFIXES.items():
        if name.endswith(f".{suffix}"):
            return name[: -len(suffix) - 1], canonical
    return name, ""
