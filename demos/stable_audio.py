"""Text to latents with diffusers' StableAudioPipeline, latents to sound with oobleck_stream.

    python demos/stable_audio.py "a warm analogue pad" --seconds 10

The pipeline ends at its latents (`output_type="latent"`); its own autoencoder is never run. Where
there is no GPU, no diffusers or no weights, a stand-in makes smooth random latents and a network
of the same geometry with random weights decodes them: the same code, though hardly music.
"""

from __future__ import annotations

import click
import numpy as np

import oobleck_stream as ob

WEIGHTS = "stabilityai/stable-audio-open-1.0"
STAND_IN = "random:stable-audio-open-1.0"


def pipeline_latents(prompt: str, seconds: float, steps: int) -> np.ndarray:
    """Latents of a prompt, (frames, 64) float32, from the real pipeline on a GPU."""
    import torch
    from diffusers import StableAudioPipeline

    if not torch.cuda.is_available():
        raise RuntimeError("no GPU")
    pipeline = StableAudioPipeline.from_pretrained(WEIGHTS, torch_dtype=torch.float16).to("cuda")
    made = pipeline(
        prompt, num_inference_steps=steps, audio_end_in_s=seconds, output_type="latent"
    ).audios
    return made[0].T.float().cpu().numpy()


def stand_in_latents(seconds: float, frame_rate: float) -> np.ndarray:
    """Smooth random latents, (frames, 64) float32, about as large as real ones."""
    frames = max(1, round(seconds * frame_rate))
    steps = np.random.default_rng(0).standard_normal((frames + 8, 64))
    smooth = np.stack([np.convolve(column, np.ones(9) / 3, "valid") for column in steps.T], axis=1)
    return smooth.astype(np.float32)


@click.command()
@click.argument("prompt", default="a warm analogue pad")
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--steps", default=100, show_default=True, help="Of the diffusion.")
@click.option("-o", "--output", metavar="FILE.npy", help="Keep the latents.")
@click.option("--silent", is_flag=True, help="Decode without playing.")
def main(prompt: str, seconds: float, steps: int, output: str | None, silent: bool) -> None:
    """Make latents for a PROMPT and hear them while they are decoded."""
    try:
        latents, source = pipeline_latents(prompt, seconds, steps), WEIGHTS
    except Exception as error:
        click.echo(f"no Stable Audio here ({error}): random latents stand in")
        source = STAND_IN
        latents = stand_in_latents(seconds, ob.preset("stable-audio-open-1.0").frame_rate)
    if output:
        np.save(output, latents)
    model = ob.load(source)
    length = model.decoded_length(len(latents)) / model.samplerate
    click.echo(f"{len(latents)} frames from {source}: {length:.1f} s of sound")
    if silent:
        click.echo(f"peak {np.abs(model.decode(latents)).max():.3f}")
        return
    try:
        ob.play(latents, model)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
