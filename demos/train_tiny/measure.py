"""Measure an exported network on the held-out pieces, and draw input against output."""

import json
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import soundfile
import typer
from codec import Codec
from metrics import log_mel_distance, magnitudes, multi_resolution_stft_distance, si_sdr
from PIL import Image
from render import SAMPLE_RATE

matplotlib.use("Agg")
from matplotlib import pyplot

PICTURE_SECONDS = 5


def open_codec(engine: str, network: str) -> Codec:
    """Return the network as run by `oobleck_stream` or by `torch`.

    Parameters
    ----------
    engine : str
        `oobleck_stream` or `torch`.
    network : str
        A name or path that the engine can load; torch needs a path.

    Returns
    -------
    Codec
        Encoder and decoder.
    """
    if engine == "torch":
        from codec import TorchCodec

        return TorchCodec(Path(network))
    import oobleck_stream

    return oobleck_stream.load(network)


def measure(reference: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """Return all measures of one reconstruction of the same length.

    Parameters
    ----------
    reference, estimate : numpy.ndarray
        The original and its reconstruction, shape (samples, channels).

    Returns
    -------
    dict of str to float
        The three distances, and peak and offset of the reconstruction.
    """
    values = {
        "si_sdr": si_sdr(reference, estimate),
        "log_mel": log_mel_distance(reference, estimate, SAMPLE_RATE),
        "stft": multi_resolution_stft_distance(reference, estimate),
        "peak": float(np.abs(estimate).max()),
        "offset": float(np.abs(estimate.mean(axis=0)).max()),
    }
    return {name: round(value, 5) for name, value in values.items()}


def draw(examples: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Draw spectrograms of input (above) and output (below), one column per example.

    Parameters
    ----------
    examples : dict of str to pair of numpy.ndarray
        Input and output by name.
    path : Path
        The PNG file to write.
    """
    figure, axes = pyplot.subplots(
        2,
        len(examples),
        figsize=(3 * len(examples), 5),
        dpi=75,
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for column, (name, pair) in enumerate(examples.items()):
        for row, (audio, side) in enumerate(zip(pair, ("input", "output"), strict=True)):
            mono = audio[: PICTURE_SECONDS * SAMPLE_RATE].mean(axis=1, keepdims=True)
            levels = 20 * np.log10(magnitudes(mono, 1024)[0] / 256 + 1e-6)
            axes[row, column].imshow(
                levels,
                origin="lower",
                aspect="auto",
                extent=(0, len(mono) / SAMPLE_RATE, 0, SAMPLE_RATE / 2000),
                vmin=-110,
                vmax=-10,
                cmap="magma",
            )
            axes[row, column].set_title(f"{name}: {side}", fontsize=9)
    axes[1, 0].set_xlabel("seconds")
    axes[1, 0].set_ylabel("kHz")
    figure.tight_layout()
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    # A palette keeps the file small.
    picture.quantize(64).save(path, optimize=True)


def main(
    work: Annotated[Path, typer.Option(help="Folder with `held_out`.")] = Path("tiny_work"),
    engine: Annotated[str, typer.Option(help="`oobleck_stream` or `torch`.")] = "oobleck_stream",
    network: Annotated[str, typer.Option(help="Name or path of the network.")] = "tiny",
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; `export` in the work folder.")
    ] = None,
) -> None:
    """Write `metrics.json` and `spectrogram.png`, and print the medians."""
    output = output or work / "export"
    output.mkdir(parents=True, exist_ok=True)
    codec = open_codec(engine, network)
    pieces = {}
    examples = {}
    for path in sorted((work / "held_out").glob("*.wav")):
        audio, _ = soundfile.read(path, dtype="float32")
        restored = codec.decode(codec.encode(audio))[: len(audio)]
        pieces[path.stem] = measure(audio[: len(restored)], restored)
        if path.stem in ("keys0", "plucked0", "groove0", "pads0"):
            examples[path.stem] = (audio, restored)
    median = {
        name: round(float(np.median([values[name] for values in pieces.values()])), 5)
        for name in ("si_sdr", "log_mel", "stft")
    }
    report = {"engine": engine, "median": median, "pieces": pieces}
    (output / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(examples, output / "spectrogram.png")
    print(json.dumps(median))


if __name__ == "__main__":
    typer.run(main)
