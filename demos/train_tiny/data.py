"""Build the training set and the held-out pieces."""

from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from compose import HELD_OUT_PROGRAMS, STYLES, TRAINING_PROGRAMS, compose
from render import DEFAULT_SOUNDFONT, SAMPLE_RATE, normalise, render
from scipy.signal import resample_poly

VALIDATION_FIRST_SEED = 500_000
HELD_OUT_FIRST_SEED = 1_000_000


def load_samples(folder: Path) -> list[np.ndarray]:
    """Read recorded samples as 44.1 kHz stereo.

    Parameters
    ----------
    folder : Path
        A folder of FLAC files.

    Returns
    -------
    list of numpy.ndarray
        One array (samples, 2) per file of half a second or more, normalised.
    """
    recordings = []
    for path in sorted(folder.glob("*.flac")):
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if rate != SAMPLE_RATE:
            audio = resample_poly(audio, SAMPLE_RATE, rate, axis=0).astype(np.float32)
        if len(audio) >= SAMPLE_RATE // 2:
            recordings.append(
                normalise(
                    np.repeat(audio, 2, axis=1)[:, :2] if audio.shape[1] == 1 else audio[:, :2]
                )
            )
    return recordings


def main(
    work: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "tiny_work"
    ),
    pieces_per_style: Annotated[int, typer.Option(help="Training pieces in each style.")] = 12,
    held_out_per_style: Annotated[int, typer.Option(help="Held-out pieces in each style.")] = 3,
    seconds: Annotated[float, typer.Option(help="Approximate length of a training piece.")] = 20.0,
    soundfont: Annotated[Path, typer.Option(help="SoundFont to play from.")] = DEFAULT_SOUNDFONT,
    samples: Annotated[
        Path | None, typer.Option(help="Folder of recorded FLAC samples to train on as well.")
    ] = None,
) -> None:
    """Compose and render all pieces: `train.npy`, `validation` and `held_out`."""
    for folder, first_seed, count, programs in (
        ("held_out", HELD_OUT_FIRST_SEED, held_out_per_style, HELD_OUT_PROGRAMS),
        ("validation", VALIDATION_FIRST_SEED, 1, TRAINING_PROGRAMS),
    ):
        (work / folder).mkdir(parents=True, exist_ok=True)
        for style in STYLES:
            for number in range(count):
                piece = compose(style, first_seed + number, programs, 10.0)
                audio = normalise(render(piece, soundfont))
                path = work / folder / f"{style}{number}.wav"
                soundfile.write(path, audio, SAMPLE_RATE, "FLOAT")
    recordings = load_samples(samples) if samples else []
    for style in STYLES:
        for seed in range(pieces_per_style):
            piece = compose(style, seed, TRAINING_PROGRAMS, seconds)
            recordings.append(normalise(render(piece, soundfont)))
    audio = np.concatenate(recordings)
    np.save(work / "train.npy", audio)
    print(f"{len(audio) / SAMPLE_RATE / 60:.1f} minutes of training audio")


if __name__ == "__main__":
    typer.run(main)
