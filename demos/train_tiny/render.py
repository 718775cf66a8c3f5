"""Render composed pieces to audio with FluidSynth."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from compose import Piece, write_midi
from scipy.signal import butter, sosfiltfilt

SAMPLE_RATE = 44100
DEFAULT_SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
LOWEST_HERTZ = 20.0
SILENCE = 10 ** (-75 / 20)


def render(piece: Piece, soundfont: Path = DEFAULT_SOUNDFONT) -> np.ndarray:
    """Render a piece at 44.1 kHz in stereo, up to the point where it has faded to silence.

    Parameters
    ----------
    piece : Piece
        The piece to play.
    soundfont : Path
        The SoundFont with the instruments; the one of Debian's fluid-soundfont-gm by default.

    Returns
    -------
    numpy.ndarray
        Audio of shape (samples, 2), float32, as loud as the synthesiser makes it.
    """
    with tempfile.TemporaryDirectory() as folder:
        midi, wave = Path(folder, "piece.mid"), Path(folder, "piece.wav")
        write_midi(piece, midi)
        command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(SAMPLE_RATE)]
        # Float output: 16 bits would put a noise floor under every quiet passage.
        command += ["-T", "wav", "-O", "float", "-F", str(wave), str(soundfont), str(midi)]
        subprocess.run(command, check=True, capture_output=True)
        audio, rate = soundfile.read(wave, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE:
        raise RuntimeError(f"FluidSynth wrote {rate} Hz instead of {SAMPLE_RATE} Hz")
    # Some instruments of the SoundFont carry an offset, which no loudspeaker plays.
    high_pass = butter(1, LOWEST_HERTZ, "highpass", fs=SAMPLE_RATE, output="sos")
    audio = sosfiltfilt(high_pass, audio, axis=0).astype(np.float32)
    audible = np.flatnonzero(np.abs(audio).max(axis=1) > SILENCE * np.abs(audio).max())
    return audio[: audible[-1] + SAMPLE_RATE // 4]


def normalise(audio: np.ndarray, peak_decibels: float = -1.0) -> np.ndarray:
    """Scale audio so that its peak lies `peak_decibels` from full scale."""
    peak = float(np.abs(audio).max())
    return audio * np.float32(10 ** (peak_decibels / 20) / peak) if peak else audio
