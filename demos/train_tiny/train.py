"""Train the autoencoder, from the start or from its last checkpoint."""

import json
import math
import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer
from losses import ReconstructionLoss
from metrics import log_mel_distance, si_sdr
from network import Autoencoder, Geometry, calibrate
from torch import Tensor

WARM_UP_STEPS = 200
FINAL_RATE = 0.01
# Segments made so quiet that only the spectral losses notice them: they teach silence, where
# else a faint hum at multiples of the frame rate would stay.
QUIET_SHARE = 0.2
# A step that lasts longer was interrupted; the time of the interruption is no training.
LONGEST_STEP_SECONDS = 5.0
VALIDATION_SAMPLES = 5 * 44100


class Segments:
    """Random segments of the training audio.

    Parameters
    ----------
    path : Path
        The `.npy` file made by `data.py`.
    batch, length : int
        Segments per batch and samples per segment.
    seed : int
        Start of the random sequence.
    """

    def __init__(self, path: Path, batch: int, length: int, seed: int) -> None:
        self.audio = np.load(path, mmap_mode="r")
        self.batch, self.length = batch, length
        self.rng = np.random.default_rng(seed)

    def draw(self) -> Tensor:
        """Return a batch (batch, 2, length) with random gains, polarities and channel order."""
        segments = []
        while len(segments) < self.batch:
            start = self.rng.integers(len(self.audio) - self.length)
            segment = np.array(self.audio[start : start + self.length].T)
            # Some silence must be learned as well, but it teaches little.
            if np.abs(segment).max() < 1e-3 and self.rng.random() < 0.9:
                continue
            quiet = self.rng.random() < QUIET_SHARE
            decibels = self.rng.uniform(-90, -15) if quiet else self.rng.uniform(-15, 0)
            gain = 10 ** (decibels / 20) * self.rng.choice([-1, 1])
            segments.append(segment[:: self.rng.choice([-1, 1])] * np.float32(gain))
        return torch.from_numpy(np.ascontiguousarray(np.stack(segments)))


def rate_scales(network: Autoencoder) -> dict[str, float]:
    """Return the scale of the learning rate for every parameter.

    Adam moves every number by about the learning rate. The gains of weight norm lie between
    thousandths and ones, so each moves in proportion to its size; moved by the same step, the
    smallest of them (the output's) would jump by a fifth of its value at a time.

    Parameters
    ----------
    network : Autoencoder
        The network at the start of its training.

    Returns
    -------
    dict of str to float
        Powers of two, at most 1, by name.
    """
    scales = {}
    for name, parameter in network.named_parameters():
        size = float(parameter.detach().square().mean().sqrt())
        is_gain = name.endswith("weight_g")
        scales[name] = min(1.0, 2.0 ** round(math.log2(size))) if is_gain else 1.0
    return scales


def parameter_groups(network: Autoencoder, scales: dict[str, float]) -> list[dict]:
    """Return the parameters for a torch optimizer, grouped by the `scale` of their rate."""
    groups: dict[float, list] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(scales[name], []).append(parameter)
    return [{"params": members, "scale": scale} for scale, members in sorted(groups.items())]


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Return the rate: linear warm-up by steps, then a cosine over the progress from 0 to 1."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def validate(
    network: Autoencoder, hop: int, folder: Path, device: torch.device
) -> dict[str, float]:
    """Return how well a network restores the first seconds of the validation pieces.

    Parameters
    ----------
    network : Autoencoder
        The network.
    hop : int
        Its samples per latent frame.
    folder : Path
        The folder with the pieces.
    device : torch.device
        Where the network lies.

    Returns
    -------
    dict of str to float
        The median SI-SDR and the mean log mel distance.
    """
    ratios, distances = [], []
    for path in sorted(folder.glob("*.wav")):
        audio, rate = soundfile.read(path, dtype="float32", stop=VALIDATION_SAMPLES)
        audio = audio[: len(audio) // hop * hop]
        with torch.no_grad():
            mean, _ = network.encode(torch.from_numpy(audio.T[None].copy()).to(device))
            output = network.decoder(mean)[0].T.cpu().numpy()
        length = len(output)
        ratios.append(si_sdr(audio[:length], output))
        distances.append(log_mel_distance(audio[:length], output, rate))
    return {"si_sdr": float(np.median(ratios)), "log_mel": float(np.mean(distances))}


def seconds_until(clock: str) -> float:
    """Return the seconds from now to the next time the clock shows `HH:MM`."""
    now = datetime.now()
    hour, minute = map(int, clock.split(":"))
    target = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (target - now).total_seconds() % 86400


def main(
    work: Annotated[Path, typer.Option(help="Folder with `train.npy` and `validation`.")] = Path(
        "tiny_work"
    ),
    run: Annotated[str, typer.Option(help="Name of the run's own folder in the work folder.")] = (
        "run"
    ),
    minutes: Annotated[float, typer.Option(help="Time to train, interruptions apart.")] = 90.0,
    until: Annotated[
        str | None, typer.Option(help="Train until this time of day, HH:MM, instead.")
    ] = None,
    width: Annotated[int, typer.Option(help="Channels of the outermost level.")] = 16,
    multiples: Annotated[str, typer.Option(help="Channel multiples inwards.")] = "2 4 8",
    strides: Annotated[str, typer.Option(help="Strides inwards.")] = "4 4 4",
    latent_dim: Annotated[int, typer.Option(help="Numbers per latent frame.")] = 24,
    batch: Annotated[int, typer.Option(help="Segments per step.")] = 4,
    length: Annotated[int, typer.Option(help="Samples per segment.")] = 8192,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    waveform_weight: Annotated[float, typer.Option(help="Weight of the waveform loss.")] = 1.2,
    spectral_weight: Annotated[float, typer.Option(help="Weight of the spectral loss.")] = 1.0,
    mel_weight: Annotated[float, typer.Option(help="Weight of the mel loss.")] = 0.8,
    divergence_weight: Annotated[float, typer.Option(help="Weight of the KL divergence.")] = 1e-4,
    average: Annotated[float, typer.Option(help="Decay of the running mean of weights.")] = 0.999,
    save_minutes: Annotated[float, typer.Option(help="Time between checkpoints.")] = 3.0,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 2,
    compile_network: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
) -> None:
    """Train and write checkpoints; a run that has one goes on from it.

    SIGTERM ends the run after a last checkpoint.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = work / run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.pid").write_text(str(os.getpid()))
    checkpoint_path = folder / "checkpoint.pt"
    geometry = Geometry(
        width, tuple(map(int, multiples.split())), tuple(map(int, strides.split())), latent_dim
    )
    state = None
    if checkpoint_path.exists():
        state = torch.load(checkpoint_path, map_location=device, weights_only=True)
        geometry = Geometry.from_dict(state["geometry"])
    torch.manual_seed(0)
    network = Autoencoder(geometry).to(device)
    if state is None:
        calibrate(network, Segments(work / "train.npy", 16, 16384, seed=1).draw().to(device))
    averaged = torch.optim.swa_utils.AveragedModel(
        network, avg_fn=lambda mean, new, count: mean.lerp(new, max(1 - average, 1 / (count + 1)))
    )
    scales = state["scales"] if state else rate_scales(network)
    groups = parameter_groups(network, scales)
    optimizer = torch.optim.AdamW(groups, rate, betas=(0.8, 0.99), weight_decay=0)
    step, active_seconds = 0, 0.0
    if state:
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        step, active_seconds = state["step"], state["active_seconds"]
    criterion = ReconstructionLoss(
        waveform_weight=waveform_weight, spectral_weight=spectral_weight, mel_weight=mel_weight
    ).to(device)
    segments = Segments(work / "train.npy", batch, length, seed=step)
    forward = torch.compile(network) if compile_network else network

    def save() -> None:
        scores = validate(averaged.module, geometry.hop, work / "validation", device)
        line = {"step": step, "minutes": round(active_seconds / 60, 2), **running, **scores}
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        state = {
            "geometry": geometry.to_dict(),
            "network": network.state_dict(),
            "averaged": averaged.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scales": scales,
            "step": step,
            "active_seconds": active_seconds,
        }
        # Written aside and renamed, so that being stopped half-way leaves the last one whole.
        torch.save(state, checkpoint_path.with_suffix(".part"))
        checkpoint_path.with_suffix(".part").replace(checkpoint_path)

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    running: dict[str, float] = {}
    last_save = active_seconds
    deadline = time.time() + seconds_until(until) if until else None
    while not stopping.is_set():
        began = time.time()
        # With a deadline, time lost to interruptions shortens what is left of the schedule.
        budget = active_seconds + deadline - began if deadline else 60 * minutes
        if active_seconds >= budget:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(rate, step, active_seconds / budget)
        audio = segments.draw().to(device)
        output, divergence = forward(audio)
        loss, terms = criterion(output, audio)
        optimizer.zero_grad(set_to_none=True)
        (loss + divergence_weight * divergence).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(network)
        step += 1
        if step % 20 == 0:
            for name, value in {**terms, "divergence": divergence}.items():
                running[name] = round(0.9 * running.get(name, value.item()) + 0.1 * value.item(), 4)
        active_seconds += min(time.time() - began, LONGEST_STEP_SECONDS)
        if active_seconds - last_save >= 60 * save_minutes:
            save()
            last_save = active_seconds
    save()


if __name__ == "__main__":
    typer.run(main)
