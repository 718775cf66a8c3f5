"""The geometry of an Oobleck network, and the presets of the published models."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

TransposePadding = Literal["ceil(s/2)", "(k-1)//2"]
OutputPadding = Literal["0", "s%2", "s-1"]
Convolution = Literal["fast", "direct"]

MAX_LEVELS = 32
"""Maximum number of levels of a network, and of residual units in a block."""

MAX_DILATION = 1024
"""Maximum dilation. A stream's memory grows with the dilation, and the shapes of the tensors can't
reveal an absurd value."""


@dataclass(frozen=True)
class OobleckConfig:
    """The geometry of a network of the Oobleck family, and the options of its arithmetic.

    Parameters
    ----------
    latent_dim : int
        Numbers per latent frame.
    audio_channels : int
        1 for mono, 2 for stereo.
    samplerate : int
        Samples per second.
    channels : int
        Channels of the level next to the audio.
    multiples : tuple of int
        Channels of each deeper level as a multiple of `channels`, from the audio to the latents
        (`c_mults` in stable-audio-tools).
    strides : tuple of int
        Stride of each level, from the audio to the latents: the order of the encoder. The decoder
        uses them in reverse.
    dilations : tuple of int
        Dilation of each residual unit of a block.
    kernel : int
        Kernel length (odd) of the dilated convolutions, of the first convolution, and of the
        decoder's last convolution.
    kernel_per_stride : int
        Kernel length of a strided or transposed convolution as a multiple of its stride.
    transpose_padding : str
        Padding of the strided and transposed convolutions, as a formula of the stride s and the
        kernel length k: ``"ceil(s/2)"`` or ``"(k-1)//2"``.
    output_padding : str
        Output padding of the transposed convolutions, as a formula of the stride s: ``"0"``,
        ``"s%2"`` or ``"s-1"``.
    snake_log_scale : bool
        Whether alpha and beta of Snake are stored as logarithms.
    snake_epsilon : float
        Number added to beta before the division. If beta is a logarithm, the exp comes first.
    bias : bool
        Whether every convolution except the decoder's last has a bias.
    output_bias : bool
        Whether the decoder's last convolution has a bias.
    final_tanh : bool
        Whether the decoder's output goes through a tanh.
    latent_scale : float
        Latents are multiplied by this before decoding and divided by it after encoding.
    has_encoder : bool
        Whether the network has an encoder of the same family.
    convolution : str
        How dilated convolutions are computed, in the decoder and in the encoder. ``"fast"`` saves
        multiplications in the levels where this saves time (`oobleck_stream.network.tile_rows`).
        ``"direct"`` has a shorter look-ahead. The two results differ only by rounding errors.

    Raises
    ------
    ValueError
        If the fields don't describe a network. The message names the field.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> config = ob.OobleckConfig(24, channels=16, multiples=(2, 4, 8), strides=(4, 4, 4))
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
    convolution: Convolution = "fast"

    def __post_init__(self) -> None:
        for name in ("multiples", "strides", "dilations"):
            object.__setattr__(self, name, tuple(int(value) for value in getattr(self, name)))
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"{name} must be one or more positive whole numbers, not {getattr(self, name)}"
                )
            if len(getattr(self, name)) > MAX_LEVELS:
                raise ValueError(f"{name} must have at most {MAX_LEVELS} numbers")
        if max(self.dilations) > MAX_DILATION:
            raise ValueError(f"dilations must be at most {MAX_DILATION}, not {self.dilations}")
        if len(self.multiples) != len(self.strides):
            raise ValueError(
                "multiples and strides must have the same length, not "
                f"{self.multiples} and {self.strides}"
            )
        for name in ("latent_dim", "audio_channels", "samplerate", "channels", "kernel_per_stride"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be a positive whole number, not {getattr(self, name)!r}"
                )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be positive and odd, not {self.kernel}")
        if self.transpose_padding not in ("ceil(s/2)", "(k-1)//2"):
            raise ValueError(f"unknown transpose_padding: {self.transpose_padding!r}")
        if self.output_padding not in ("0", "s%2", "s-1"):
            raise ValueError(f"unknown output_padding: {self.output_padding!r}")
        if self.convolution not in ("fast", "direct"):
            raise ValueError(f"convolution must be 'fast' or 'direct', not {self.convolution!r}")
        for stride in self.strides:
            end = self.stride_kernel(stride) + self.stride_output_padding(stride)
            needed = stride + self.stride_padding(stride)
            # n rows become (n - 1) * stride + kernel + output padding - 2 * padding rows. A decoder
            # must return at least n * stride - padding of them.
            if end < needed:
                raise ValueError(
                    f"kernel and output padding of stride {stride} add up to {end}; they must be "
                    f"at least stride and padding, {needed}, or the end would be cut off"
                )
        if not (math.isfinite(self.latent_scale) and self.latent_scale != 0):
            raise ValueError(f"latent_scale must be finite and not 0, not {self.latent_scale}")

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.strides)

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.samplerate / self.hop

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the audio to the latents; one entry more than `strides`."""
        return tuple(self.channels * multiple for multiple in (1, *self.multiples))

    @property
    def summary(self) -> str:
        """A short description of the sound and the latents."""
        sound = {1: "mono", 2: "stereo"}.get(self.audio_channels, f"{self.audio_channels} channels")
        return (
            f"{self.samplerate} Hz {sound}, {self.latent_dim} values x "
            f"{self.frame_rate:.4g} frames a second"
        )

    def stride_kernel(self, stride: int) -> int:
        """Kernel length of the strided or transposed convolution with this stride."""
        return self.kernel_per_stride * stride

    def stride_padding(self, stride: int) -> int:
        """Padding of the strided or transposed convolution with this stride."""
        if self.transpose_padding == "ceil(s/2)":
            return -(-stride // 2)
        return (self.stride_kernel(stride) - 1) // 2

    def stride_output_padding(self, stride: int) -> int:
        """Output padding of the transposed convolution with this stride."""
        return {"0": 0, "s%2": stride % 2, "s-1": stride - 1}[self.output_padding]

    def replace(self, **changes: object) -> OobleckConfig:
        """Return a copy with the given fields changed; raise the same errors as the constructor."""
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

# Each latent frame becomes 65,536 samples. It differs from the published models in more than the
# strides: kernels as long as the strides (so neighbouring frames don't overlap in a transposed
# convolution), no dilation, and alpha and beta of Snake stored as they are, not as logarithms.
_OOBLECK_65536X = OobleckConfig(
    strides=(4, 8, 8, 16, 16),
    dilations=(1, 1, 1),
    kernel_per_stride=1,
    transpose_padding="(k-1)//2",
    output_padding="s-1",
    snake_log_scale=False,
    snake_epsilon=0.0,
)


class Presets(dict[str, OobleckConfig]):
    """A dictionary of configs, displayed as a table with one line per config."""

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {config.summary}" for name, config in self.items())


PRESETS = Presets(
    {
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
            samplerate=48000,
            channels=64,
            multiples=(1, 2, 4, 8, 16, 32),
            strides=(2, 2, 4, 4, 5, 6),
        ),
        "cosmos3": OobleckConfig(
            samplerate=48000,
            channels=320,
            strides=(2, 4, 5, 6, 8),
            output_padding="s%2",
            has_encoder=False,
        ),
        "oobleck-65536x": _OOBLECK_65536X,
        "document": _OOBLECK_65536X,
    }
)
"""The geometry of each published model of the family, keyed by name. ``"oobleck-65536x"`` (alias
``"document"``) is not a published model."""


def preset(name: str) -> OobleckConfig:
    """Return the preset with a given name.

    Parameters
    ----------
    name : str
        A key of `PRESETS`.

    Raises
    ------
    ValueError
        If there is no such preset. The message lists the names of all presets.

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
