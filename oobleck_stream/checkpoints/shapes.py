"""Infers the config from the shapes of a decoder's tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields

from oobleck_stream.checkpoints.names import HalfTensors
from oobleck_stream.config import PRESETS, OobleckConfig
from oobleck_stream.formats.tensors import shape_text

ASSUMED_SAMPLERATE = 44100
"""Sample rate in hertz that is assumed if neither a config nor a preset states one."""


@dataclass(frozen=True)
class Geometry:
    """The fields of an `OobleckConfig` that the shapes of the tensors determine."""

    latent_dim: int
    audio_channels: int
    channels: int
    multiples: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of_config(cls, config: OobleckConfig) -> Geometry:
        """Return the geometry of a config."""
        return cls(*(getattr(config, field.name) for field in fields(cls)))

    def differences(self, config: OobleckConfig) -> list[str]:
        """Return a sentence for each field that differs from the config."""
        found = []
        for field in fields(self):
            here, there = getattr(self, field.name), getattr(config, field.name)
            if here != there:
                found.append(f"{field.name} is {there} in the config, {here} in the tensors")
        return found


def read_geometry(
    half: HalfTensors, kernel_per_stride: int, problems: list[str]
) -> Geometry | None:
    """Infer the geometry of a decoder, or return None if no Oobleck decoder has such shapes.

    Parameters
    ----------
    half : HalfTensors
        The decoder's tensors.
    kernel_per_stride : int
        Kernel length of a transposed convolution as a multiple of its stride.
    problems : list of str
        The list to which a sentence is appended for each tensor that is missing or has a wrong
        shape.
    """
    first = _weight_shape(half, "decoder.layers.0", problems)
    blocks = [
        _weight_shape(half, f"decoder.layers.{number}.layers.1", problems)
        for number in range(1, half.depth + 1)
    ]
    last = _weight_shape(half, f"decoder.layers.{half.depth + 2}", problems)
    if first is None or last is None or not blocks:
        return None
    # A config lists multiples and strides in the order of the encoder's blocks, the reverse of the
    # decoder's.
    widths, strides = [last[1]], []
    for shape in reversed(blocks):
        if shape is None:
            return None
        # Torch stores the weight of a transposed convolution as (inputs, outputs, kernel).
        width, _, kernel = shape
        if width % last[1] or kernel % kernel_per_stride:
            problems.append(
                f"a transposed convolution of shape {shape_text(shape)} is not of this family "
                f"(inputs in multiples of {last[1]}, a kernel of {kernel_per_stride} x its stride)"
            )
            return None
        widths.append(width)
        strides.append(kernel // kernel_per_stride)
    multiples = tuple(width // widths[0] for width in widths[1:])
    return Geometry(first[1], last[0], widths[0], multiples, tuple(strides))


def _weight_shape(
    half: HalfTensors, module: str, problems: list[str]
) -> tuple[int, int, int] | None:
    """Return the shape of a convolution's weight, with or without weight norm.

    If the weight has a problem, report the problem and return None.
    """
    for suffix in ("weight_v", "weight"):
        tensor = half.tensors.get(f"{module}.{suffix}")
        if tensor is None:
            continue
        if len(tensor.shape) != 3 or 0 in tensor.shape:
            problems.append(
                f"{tensor.name} has shape {shape_text(tensor.shape)}, "
                "three dimensions of at least 1 were expected"
            )
            return None
        return tensor.shape[0], tensor.shape[1], tensor.shape[2]
    problems.append(
        f"{half.stored_name(f'{module}.weight')} is missing (or its weight_g and weight_v)"
    )
    return None


def config_from_geometry(geometry: Geometry) -> tuple[OobleckConfig, list[str]]:
    """Complete a geometry to a config.

    If there are presets with the same geometry, and all of them have the same sample rate, the
    first of these presets is used. Otherwise, `ASSUMED_SAMPLERATE` is used. `geometry` must have
    been read with ``kernel_per_stride=2``. Presets with ``kernel_per_stride=1`` (`oobleck-65536x`)
    are therefore excluded.

    Returns
    -------
    config : OobleckConfig
    notes : list of str
        A sentence for each assumption.
    """
    notes = ["no config: channels and strides were read from the shapes of the tensors"]
    alike = {
        name: preset
        for name, preset in PRESETS.items()
        if preset.kernel_per_stride == 2 and Geometry.of_config(preset) == geometry
    }
    if len({preset.samplerate for preset in alike.values()}) == 1:
        name, config = next(iter(alike.items()))
        notes.append(f"sample rate {config.samplerate}: that of {name}, whose shapes are the same")
    else:
        config = OobleckConfig(
            samplerate=ASSUMED_SAMPLERATE,
            **{field.name: getattr(geometry, field.name) for field in fields(geometry)},
        )
        notes.append(f"sample rate {ASSUMED_SAMPLERATE} was assumed: shapes don't show it")
    notes.append("no final tanh and no latent scale were assumed: shapes don't show them")
    return config, notes
