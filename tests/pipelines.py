"""Diffusers' StableAudioPipeline with small random parts, made here without any download."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderOobleck,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

WIDTH = 32
FRAMES = 96
"""Latent frames of every piece."""


def small_vae(seed: int = 0, **changes: object) -> AutoencoderOobleck:
    """Diffusers' autoencoder with small random networks, in float64."""
    torch.manual_seed(seed)
    options = {
        "encoder_hidden_size": 16,
        "downsampling_ratios": [2, 4, 5],
        "channel_multiples": [1, 2, 4],
        "decoder_channels": 16,
        "decoder_input_channels": 8,
        "sampling_rate": 8000,
    }
    vae = AutoencoderOobleck(**options | changes)
    for name, parameter in vae.named_parameters():
        if name.endswith(("alpha", "beta")):
            torch.nn.init.normal_(parameter, std=0.3)
    return vae.double().eval()


def small_pipeline(vae: torch.nn.Module, seed: int = 0) -> StableAudioPipeline:
    """A pipeline whose parts, all but the autoencoder, are small and random; in float64."""
    torch.manual_seed(seed)
    latent_dim = vae.config.decoder_input_channels
    text = T5Config(
        vocab_size=32, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4, use_cache=False
    )
    words = {word: number for number, word in enumerate(("<pad>", "</s>", "<unk>", "a", "pad"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return StableAudioPipeline(
        vae=vae,
        text_encoder=T5EncoderModel(text).double().eval(),
        projection_model=StableAudioProjectionModel(WIDTH, WIDTH, 0, 32).double().eval(),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=10
        ),
        transformer=StableAudioDiTModel(
            sample_size=FRAMES,
            in_channels=latent_dim,
            out_channels=latent_dim,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            num_key_value_attention_heads=2,
            cross_attention_dim=WIDTH,
            cross_attention_input_dim=WIDTH,
            time_proj_dim=8,
            global_states_input_dim=2 * WIDTH,
        )
        .double()
        .eval(),
        scheduler=EDMDPMSolverMultistepScheduler(
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
        ),
    )
