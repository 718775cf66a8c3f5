"""Differentiable training losses."""

import torch
from metrics import LOG_FLOOR, mel_filters
from torch import Tensor, nn

WINDOW_SIZES = (256, 1024, 2048)
MEL_BANDS = 80
MEL_WINDOW_SIZE = 2048


class ReconstructionLoss(nn.Module):
    """Distance of waveforms, of log spectra and of log mel spectra.

    The waveform term makes the output follow the input sample by sample; without the spectral
    terms whatever cannot be followed (noise, high partials) would fade out instead of being
    replaced by something that sounds alike.

    Parameters
    ----------
    sample_rate : int
        Samples per second.
    waveform_weight, spectral_weight, mel_weight : float
        The share of each term.
    """

    def __init__(
        self,
        sample_rate: int = 44100,
        waveform_weight: float = 1.2,
        spectral_weight: float = 1.0,
        mel_weight: float = 0.8,
    ) -> None:
        super().__init__()
        self.weights = (waveform_weight, spectral_weight, mel_weight)
        filters = mel_filters(sample_rate, MEL_WINDOW_SIZE, MEL_BANDS)
        self.register_buffer("mel", torch.tensor(filters, dtype=torch.float32))
        for size in WINDOW_SIZES:
            self.register_buffer(f"window{size}", torch.hann_window(size))

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and its terms for audio of shape (batch, 2, samples)."""
        # Relative to the whole batch: each segment by itself would let the quiet ones dominate.
        error = (output - target).square().mean()
        waveform = (error / (target.square().mean() + 1e-6) + 1e-6).sqrt()
        spectral = torch.zeros((), device=output.device)
        for size in WINDOW_SIZES:
            levels, target_levels = (self._magnitudes(x, size) for x in (output, target))
            # 108 dB below a full-scale sine, about where the mel bands end as well.
            floor = 1e-6 * size
            difference = (levels + floor).log() - (target_levels + floor).log()
            spectral = spectral + difference.abs().mean() / len(WINDOW_SIZES)
            if size == MEL_WINDOW_SIZE:
                mels, target_mels = (self.mel @ x[:, :2] for x in (levels, target_levels))
                difference = (mels + LOG_FLOOR).log() - (target_mels + LOG_FLOOR).log()
                mel = difference.abs().mean()
        terms = {"waveform": waveform, "spectral": spectral, "mel": mel}
        total = sum(
            weight * term for weight, term in zip(self.weights, terms.values(), strict=True)
        )
        return total, terms

    def _magnitudes(self, audio: Tensor, size: int) -> Tensor:
        """Return STFT magnitudes of left, right, sum and difference, (batch, 4, bins, frames)."""
        batch, channels, samples = audio.shape
        spectrum = torch.stft(
            audio.reshape(batch * channels, samples),
            size,
            hop_length=size // 4,
            window=getattr(self, f"window{size}"),
            return_complex=True,
        )
        left, right = spectrum.reshape(batch, channels, *spectrum.shape[1:]).unbind(dim=1)
        views = torch.view_as_real(torch.stack([left, right, left + right, left - right], dim=1))
        return (views.square().sum(dim=-1) + 1e-12).sqrt()
