"""The Oobleck autoencoder in torch, for training.

Layer by layer the network of stable-audio-tools, with the same parameter names, so that the
exported file can be read by any reader of that family.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

DILATIONS = (1, 3, 9)
# Starting values. The network starts out almost linear and almost without noise on the latents,
# so that it finds in seconds the filter bank that it then refines.
INITIAL_SNAKE_BETA = 1.5
INITIAL_RESIDUAL_GAIN = 0.2
INITIAL_SCALE_BIAS = -5.0
# Standard deviations that `calibrate` gives to the signals.
INNER_LEVEL, LATENT_LEVEL, OUTPUT_LEVEL = 0.5, 1.0, 0.02


@dataclass(frozen=True)
class Geometry:
    """Sizes of an autoencoder; strides and multiples in the order of the encoder."""

    width: int = 16
    multiples: tuple[int, ...] = (2, 4, 8)
    strides: tuple[int, ...] = (4, 4, 4)
    latent_dim: int = 24
    audio_channels: int = 2

    @property
    def hop(self) -> int:
        """Audio samples per latent frame."""
        return int(torch.tensor(self.strides).prod())

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels at every level, from the audio inwards."""
        return (self.width, *(self.width * multiple for multiple in self.multiples))

    @classmethod
    def from_dict(cls, values: dict) -> "Geometry":
        """Rebuild a geometry from `to_dict`."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_dict(self) -> dict:
        """Return the sizes as plain values."""
        return asdict(self)


class Snake(nn.Module):
    """Snake activation with one logarithmic frequency and magnitude per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.full((channels,), INITIAL_SNAKE_BETA))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + sin(a x)^2 / b."""
        frequency = self.alpha.exp()[:, None]
        magnitude = self.beta.exp()[:, None]
        return x + torch.sin(frequency * x) ** 2 / (magnitude + 1e-9)


class NormedConvolution(nn.Module):
    """A convolution with weight norm: w = g v / ||v||, the norm over dimensions 1 and 2."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        padding: int = 0,
        bias: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.dilation, self.padding = stride, dilation, padding
        self.transposed = transposed
        kind = nn.ConvTranspose1d if transposed else nn.Conv1d
        initial = kind(inputs, outputs, kernel, stride=stride)
        self.weight_v = nn.Parameter(initial.weight.detach().clone())
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(initial.bias.detach().clone()) if bias else None

    def weight(self) -> Tensor:
        """Return the weight with the norm folded in."""
        return self.weight_g * self.weight_v / self.weight_v.norm(dim=(1, 2), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if self.transposed:
            return functional.conv_transpose1d(
                x, self.weight(), self.bias, self.stride, self.padding
            )
        return functional.conv1d(
            x, self.weight(), self.bias, self.stride, self.padding, self.dilation
        )


class ResidualUnit(nn.Module):
    """x + conv1(snake(conv7(snake(x))))."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Snake(channels),
            NormedConvolution(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Snake(channels),
            NormedConvolution(channels, channels, 1),
        )
        with torch.no_grad():
            self.layers[-1].weight_g.mul_(INITIAL_RESIDUAL_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """Add the layers' output to their input."""
        return x + self.layers(x)


class Block(nn.Module):
    """One change of rate with its residual units, downwards or (transposed) upwards."""

    def __init__(self, inputs: int, outputs: int, stride: int, transposed: bool) -> None:
        super().__init__()
        change = [
            Snake(inputs),
            NormedConvolution(
                inputs,
                outputs,
                2 * stride,
                stride=stride,
                padding=(stride + 1) // 2,
                transposed=transposed,
            ),
        ]
        units = [ResidualUnit(outputs if transposed else inputs, d) for d in DILATIONS]
        self.layers = nn.Sequential(*(change + units if transposed else units + change))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.layers(x)


class Half(nn.Module):
    """The encoder or the decoder: a chain of layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers."""
        return self.layers(x)


class Autoencoder(nn.Module):
    """Encoder, variational bottleneck and decoder.

    Parameters
    ----------
    geometry : Geometry
        The sizes.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        channels, strides = geometry.channels, geometry.strides
        levels = range(len(strides))
        self.encoder = Half(
            NormedConvolution(geometry.audio_channels, channels[0], 7, padding=3),
            *(Block(channels[i], channels[i + 1], strides[i], transposed=False) for i in levels),
            Snake(channels[-1]),
            NormedConvolution(channels[-1], 2 * geometry.latent_dim, 3, padding=1),
        )
        self.decoder = Half(
            NormedConvolution(geometry.latent_dim, channels[-1], 7, padding=3),
            *(
                Block(channels[i + 1], channels[i], strides[i], transposed=True)
                for i in reversed(levels)
            ),
            Snake(channels[0]),
            NormedConvolution(channels[0], geometry.audio_channels, 7, padding=3, bias=False),
        )

        with torch.no_grad():
            self.encoder.layers[-1].bias[geometry.latent_dim :] = INITIAL_SCALE_BIAS

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latents, (batch, latent_dim, frames)."""
        mean, scale = self.encoder(audio).chunk(2, dim=1)
        return mean, functional.softplus(scale) + 1e-4

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction from a sampled latent, and the mean KL divergence per frame."""
        mean, deviation = self.encode(audio)
        variance = deviation * deviation
        divergence = 0.5 * (mean * mean + variance - variance.log() - 1).sum(dim=1).mean()
        return self.decoder(mean + deviation * torch.randn_like(mean)), divergence


@torch.no_grad()
def calibrate(network: Autoencoder, audio: Tensor) -> None:
    """Scale the weights of a new network so that signals keep their level through all layers.

    Parameters
    ----------
    network : Autoencoder
        The network to change.
    audio : torch.Tensor
        Typical audio, (batch, channels, samples).
    """
    x = audio
    for half, final_level in ((network.encoder, LATENT_LEVEL), (network.decoder, OUTPUT_LEVEL)):
        stages = [stage for layer in half.layers for stage in getattr(layer, "layers", [layer])]
        last = stages[-1]
        for stage in stages:
            if isinstance(stage, NormedConvolution):
                signal = stage(x) if stage.bias is None else stage(x) - stage.bias[:, None]
                level = final_level if stage is last else INNER_LEVEL
                stage.weight_g.mul_(level / signal.std())
            x = stage(x)
        x = x.chunk(2, dim=1)[0] if half is network.encoder else x


def folded_state(network: Autoencoder) -> dict[str, Tensor]:
    """Return the parameters by name, every `weight_g` and `weight_v` folded into a `weight`."""
    state = {}
    for name, module in network.named_modules():
        if isinstance(module, NormedConvolution):
            state[f"{name}.weight"] = module.weight().detach().clone()
            if module.bias is not None:
                state[f"{name}.bias"] = module.bias.detach().clone()
        elif isinstance(module, Snake):
            state[f"{name}.alpha"] = module.alpha.detach().clone()
            state[f"{name}.beta"] = module.beta.detach().clone()
    return state


@torch.no_grad()
def load_folded(network: Autoencoder, state: dict[str, Tensor]) -> None:
    """Set the parameters from `folded_state`, of any floating type.

    Parameters
    ----------
    network : Autoencoder
        The network to change.
    state : dict of str to torch.Tensor
        All parameters of a network of the same geometry.
    """
    unfolded = {}
    for name, value in state.items():
        if name.endswith(".weight"):
            unfolded[f"{name}_v"] = value.float()
            unfolded[f"{name}_g"] = value.float().norm(dim=(1, 2), keepdim=True)
        else:
            unfolded[name] = value.float()
    network.load_state_dict(unfolded)


def decoder_work(geometry: Geometry, sample_rate: int = 44100) -> float:
    """Return multiply-accumulates per second of audio in the decoder's convolutions."""
    channels = geometry.channels
    rate = sample_rate / geometry.hop
    work = geometry.latent_dim * channels[-1] * 7 * rate
    for level in reversed(range(len(geometry.strides))):
        inner, outer, stride = channels[level + 1], channels[level], geometry.strides[level]
        work += inner * outer * 2 * stride * rate
        rate *= stride
        work += len(DILATIONS) * outer * outer * (7 + 1) * rate
    return work + channels[0] * geometry.audio_channels * 7 * rate
