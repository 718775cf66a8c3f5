"""Everything an Oobleck network's arithmetic depends on, and the presets of the public models."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

TransposePadding = Literal["ceil(s/2)", "(k-1)//2"]
OutputPadding = Literal["0", "s%2", "s-1"]

MOST_LEVELS = 32
"""Levels of a network, and units of a block, at most."""

MOST_DILATION = 1024
"""A window is as long as a dilation; no tensor's shape shows that one is absurd."""


@dataclass(frozen=True)
class OobleckConfig:
    """One network of the Oobleck family.

    Parameters
    ----------
    latent_dim : int
        Numbers in a latent frame.
    audio_channels : int
        1 for mono, 2 for stereo.
    samplerate : int
        Samples a second.
    channels : int
        Width of the network next to the audio.
    multiples : tuple of int
        Width of each level as a multiple of `channels`, from the audio inwards (`c_mults`).
    strides : tuple of int
        Stride of each level in the order of the ENCODER; the decoder goes through them reversed.
    dilations : tuple of int
        Dilations of the residual units of a block, one unit each.
    kernel : int
        Kernel of the first, the last, and the dilated convolutions (odd).
    kernel_per_stride : int
        Kernel of a strided or transposed convolution as a multiple of its stride.
    transpose_padding : str
        Padding of those, by stride s and kernel k: ``"ceil(s/2)"`` or ``"(k-1)//2"``.
    output_padding : str
        Output padding of the transposed ones: ``"0"``, ``"s%2"`` or ``"s-1"``.
    snake_log_scale : bool
        Whether Snake's stored alpha and beta are logarithms.
    snake_epsilon : float
        Added to beta (after exp) before the division.
    bias, output_bias : bool
        Whether the convolutions have a bias, and whether the last one has.
    final_tanh : bool
        Whether the samples go through a tanh at the end.
    latent_scale : float
        Latents are multiplied by this before decoding and divided by it after encoding.
    has_encoder : bool
        Whether an encoder of the same family belongs to this network.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> config = ob.OobleckConfig(channels=16, multiples=(2, 4, 8), strides=(4, 4, 4))
    >>> config.hop, config.widths
    (64, (16, 32, 64, 128))
    >>> config.frame_rate
    689.0625
    >>> config.replace(samplerate=48000).frame_rate
    750.0
    """

    latent_dim: int = 64
    audio_channels: int = 2
    samplerate: int = 44100
    channels: int = 128
    multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    strides: tuple[int, ...] = (2, 4, 4, 8, 8)
    dilations: tuple[int, ...] = (1, 3, 9)
    kernel: int = 7
    kernel_per_stride: int = 2
    transpose_padding: TransposePadding = "ceil(s/2)"
    output_padding: OutputPadding = "0"
    snake_log_scale: bool = True
    snake_epsilon: float = 1e-9
    bias: bool = True
    output_bias: bool = False
    final_tanh: bool = False
    latent_scale: float = 1.0
    has_encoder: bool = True

    def __post_init__(self) -> None:
        for name in ("multiples", "strides", "dilations"):
            object.__setattr__(self, name, tuple(int(value) for value in getattr(self, name)))
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be whole numbers from 1: {getattr(self, name)}")
            if len(getattr(self, name)) > MOST_LEVELS:
                raise ValueError(f"{name} must be {MOST_LEVELS} whole numbers at most")
        if max(self.dilations) > MOST_DILATION:
            raise ValueError(f"dilations must be {MOST_DILATION} at most: {self.dilations}")
        if len(self.multiples) != len(self.strides):
            raise ValueError(
                f"as many multiples as strides are needed: {self.multiples} and {self.strides}"
            )
        for name in ("latent_dim", "audio_channels", "samplerate", "channels", "kernel_per_stride"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number from 1: {getattr(self, name)!r}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd: {self.kernel}")
        if self.transpose_padding not in ("ceil(s/2)", "(k-1)//2"):
            raise ValueError(f"unknown transpose_padding: {self.transpose_padding!r}")
        if self.output_padding not in ("0", "s%2", "s-1"):
            raise ValueError(f"unknown output_padding: {self.output_padding!r}")
        for stride in self.strides:
            end = self.stride_kernel(stride) + self.stride_output_padding(stride)
            needed = stride + self.stride_padding(stride)
            if end < needed:
                raise ValueError(
                    f"kernel and output padding of stride {stride} must be {needed} together at "
                    f"least, as its stride and padding are, not {end}: the end would be cut off"
                )
        if not (math.isfinite(self.latent_scale) and self.latent_scale != 0):
            raise ValueError(f"latent_scale must be finite and not 0: {self.latent_scale}")

    @property
    def hop(self) -> int:
        """Samples of sound for each latent frame."""
        return math.prod(self.strides)

    @property
    def frame_rate(self) -> float:
        """Latent frames a second."""
        return self.samplerate / self.hop

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, from the audio inwards; one more than there are strides."""
        return tuple(self.channels * multiple for multiple in (1, *self.multiples))

    def stride_kernel(self, stride: int) -> int:
        """Kernel of the strided or transposed convolution of a stride."""
        return self.kernel_per_stride * stride

    def stride_padding(self, stride: int) -> int:
        """Padding of the strided or transposed convolution of a stride."""
        if self.transpose_padding == "ceil(s/2)":
            return -(-stride // 2)
        return (self.stride_kernel(stride) - 1) // 2

    def stride_output_padding(self, stride: int) -> int:
        """Output padding of the transposed convolution of a stride."""
        return {"0": 0, "s%2": stride % 2, "s-1": stride - 1}[self.output_padding]

    def replace(self, **changes: object) -> OobleckConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


_STABLE_AUDIO = OobleckConfig()
_ACE_STEP = OobleckConfig(samplerate=48000, strides=(2, 4, 4, 6, 10))
_EZAUDIO = OobleckConfig(
    latent_dim=128,
    audio_channels=1,
    samplerate=24000,
    multiples=(1, 2, 4, 8),
    strides=(2, 4, 6, 10),
)

PRESETS: dict[str, OobleckConfig] = {
    "stable-audio-open-1.0": _STABLE_AUDIO,
    "stable-audio-open-small": _STABLE_AUDIO,
    "stable-audio-2.0": _STABLE_AUDIO,
    "foundation-1": _STABLE_AUDIO,
    "tangoflux": _STABLE_AUDIO,
    "thinksound": _STABLE_AUDIO,
    "ace-step-1.5": _ACE_STEP,
    "levo": _ACE_STEP,
    "songgeneration": _ACE_STEP,
    "ezaudio": _EZAUDIO,
    "soloaudio": _EZAUDIO,
    "yue2": OobleckConfig(
        samplerate=48000, channels=64, multiples=(1, 2, 4, 8, 16, 32), strides=(2, 2, 4, 4, 5, 6)
    ),
    "cosmos3": OobleckConfig(
        samplerate=48000,
        channels=320,
        strides=(2, 4, 5, 6, 8),
        output_padding="s%2",
        has_encoder=False,
    ),
    "document": OobleckConfig(
        strides=(4, 8, 8, 16, 16),
        dilations=(1, 1, 1),
        kernel_per_stride=1,
        transpose_padding="(k-1)//2",
        output_padding="s-1",
        snake_log_scale=False,
        snake_epsilon=0.0,
    ),
}
"""Geometry of every public model of the family, and of the design document (``"document"``)."""


def preset(name: str) -> OobleckConfig:
    """The preset of a name; ``ValueError`` lists the names when there is none.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> ob.preset("ezaudio").samplerate
    24000
    >>> ob.preset("ace-step-1.5") is ob.PRESETS["ace-step-1.5"]
    True
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; the presets are: {', '.join(PRESETS)}")
    return PRESETS[name]
