"""Sound files as users have them: many formats, rates, channels and contents, some of them damaged.

Each file follows from its number, so that a failure can be repeated.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
HAS_AV = importlib.util.find_spec("av") is not None


@dataclass(frozen=True)
class Format:
    """A way to store sound.

    Parameters
    ----------
    name : str
        The name of libsndfile's subtype or FFmpeg's codec, and the suffix.
    container : str or None
        libsndfile's; None if PyAV writes the file.
    rates : tuple of int
    channels : tuple of int
    noticed : bool
        Whether a file that was cut off anywhere can be told from a whole one.
    padding : int
        Samples that the file may have more than were written, with lossy codecs.
    """

    name: str
    container: str | None = None
    rates: tuple[int, ...] = RATES
    channels: tuple[int, ...] = (1, 2, 6)
    noticed: bool = False
    padding: int = 0

    @property
    def suffix(self) -> str:
        return self.name.split(".")[1]

    @property
    def codec(self) -> str:
        return self.name.split(".")[0]

    @property
    def is_float(self) -> bool:
        return self.codec in ("FLOAT", "DOUBLE")


MP3 = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)
OPUS = (8000, 16000, 24000, 48000)
AAC = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
FORMATS = [
    *(
        Format(f"{subtype}.wav", "WAV", noticed=True)
        for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")
    ),
    Format("FLOAT.wav", "WAVEX", noticed=True),
    Format("PCM_16.wav", "RF64", noticed=True),
    Format("IMA_ADPCM.wav", "WAV", channels=(1, 2), noticed=True, padding=8192),
    *(Format(f"{subtype}.aiff", "AIFF", noticed=True) for subtype in ("PCM_S8", "PCM_24")),
    *(Format(f"{subtype}.flac", "FLAC", noticed=True) for subtype in ("PCM_16", "PCM_24")),
    Format("FLOAT.caf", "CAF"),
    Format("PCM_16.au", "AU", noticed=True),
    Format("DOUBLE.w64", "W64", noticed=True),
    Format("VORBIS.ogg", "OGG"),
    Format("OPUS.opus", "OGG", OPUS),
    Format("MPEG_LAYER_III.mp3", "MP3", MP3, (1, 2), noticed=True),
    Format("aac.m4a", None, AAC, noticed=True, padding=200),
    Format("alac.m4a", None, RATES[:10], (1, 2), noticed=True),
    Format("aac.aac", None, AAC, padding=4096),
    Format("libopus.webm", None, OPUS, (1, 2), padding=4096),
    Format("aac.mp4", None, AAC, noticed=True, padding=200),
    Format("flac.mkv", None, RATES[:10], (1, 2)),
]
DAMAGES = ("cut off", "no samples", "garbage", "no bytes", "lies")


@dataclass(frozen=True)
class Input:
    """A file of the corpus.

    Parameters
    ----------
    path : Path
    format : Format
    rate, channels, samples : int
        Of the sound that was written.
    damage : str
        One of `DAMAGES`, or "not finite"; empty if the file is whole.
    bad_sample : int
        Index of the sample that is not finite.
    """

    path: Path
    format: Format
    rate: int
    channels: int
    samples: int
    damage: str = ""
    bad_sample: int = 0


def content(random: np.random.Generator, samples: int, channels: int) -> np.ndarray:
    """Sound that lossy codecs keep, silence, or what is too loud."""
    kind = random.choice(["noise", "tone", "silence", "square", "loud", "tiny"], p=[
        0.3, 0.3, 0.15, 0.1, 0.1, 0.05,
    ])  # fmt: skip
    time = np.arange(samples)[:, None] + np.zeros(channels)
    return {
        "noise": lambda: 0.2 * random.standard_normal((samples, channels)),
        "tone": lambda: 0.5 * np.sin(time * random.uniform(0.01, 1.0)),
        "silence": lambda: 0 * time,
        "square": lambda: np.sign(np.sin(time * 0.1)),
        "loud": lambda: 100 * np.sin(time * 0.05),
        "tiny": lambda: np.full((samples, channels), 1e-40),
    }[str(kind)]()


def make_input(number: int, folder: Path) -> Input:
    """Write the file with a number. Without PyAV, only formats that libsndfile writes are used."""
    random = np.random.default_rng(number)
    formats = [each for each in FORMATS if each.container or HAS_AV]
    # The first numbers go through all formats.
    form = formats[number if number < len(formats) else random.integers(len(formats))]
    rate, channels = int(random.choice(form.rates)), int(random.choice(form.channels))
    if random.random() < 0.7:
        channels = min(channels, 2)
    samples = int(random.choice([1, 2, int(rate * random.uniform(0.01, 0.4))], p=[0.05, 0.05, 0.9]))
    damage = str(random.choice(DAMAGES)) if random.random() < 0.4 else ""
    if form.is_float and random.random() < 0.25:
        damage = "not finite"
    sound, bad = content(random, samples, channels), 0
    if damage == "not finite":
        bad = int(random.integers(samples))
        sound[bad, random.integers(channels)] = random.choice([np.nan, np.inf, -np.inf])
    if damage == "no samples":
        sound = sound[:0]
    path = folder / f"{number}.{form.suffix}"
    if not form.is_float:
        sound = sound.clip(-1, 1)
    if form.container:
        soundfile.write(path, sound, rate, form.codec, format=form.container)
    else:
        path.touch()  # FFmpeg may write nothing if there are no samples.
        write_by_av(path, sound.astype(np.float32), rate, form.codec)
    whole = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(whole[: int(len(whole) * random.uniform(0, 0.97))])
    elif damage == "no bytes":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(random.bytes(len(whole)))
    elif damage == "lies":
        # A file of another format under this name, which is read all the same.
        soundfile.write(path, sound, rate, "PCM_16", format="WAV")
    return Input(path, form, rate, channels, len(sound), damage, bad)


def write_by_av(path: Path, sound: np.ndarray, rate: int, codec: str) -> None:
    """Encode sound (samples, channels) with FFmpeg."""
    import av

    layout = LAYOUTS[sound.shape[1]]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        context = stream.codec_context
        context.open()
        converter = av.AudioResampler(context.format, layout, rate, context.frame_size or 1024)
        frames = []
        if len(sound):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(sound.T), format="fltp", layout=layout
            )
            frame.sample_rate, frame.pts = rate, 0
            frames = [*converter.resample(frame), *converter.resample(None)]
        for frame in [*frames, None]:
            for packet in stream.encode(frame):
                file.mux(packet)
