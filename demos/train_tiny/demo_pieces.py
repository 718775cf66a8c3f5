"""The four short pieces that come with the network, written out by hand."""

import random
import re
from pathlib import Path

import numpy as np
from compose import (
    CLOSED_HAT,
    CRASH,
    HIGH_TOM,
    KICK,
    LOW_TOM,
    MIDDLE_TOM,
    OPEN_HAT,
    SNARE,
    Note,
    Part,
    Piece,
)
from render import DEFAULT_SOUNDFONT, SAMPLE_RATE, normalise, render

PIANO, NYLON_GUITAR, HARP, FINGER_BASS, ELECTRIC_PIANO = 0, 24, 46, 33, 4
SLOW_STRINGS, CHOIR, WARM_PAD = 49, 52, 89
LONGEST_SECONDS = 14.9
FADE_SECONDS = 1.5
PITCH_CLASSES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def pitch(name: str) -> int:
    """Return the MIDI number of a pitch such as `C4` (60), `F#3` or `Bb5`."""
    letter, accidental, octave = re.fullmatch(r"([A-G])([#b]?)(-?\d)", name).groups()
    return PITCH_CLASSES[letter] + {"": 0, "#": 1, "b": -1}[accidental] + 12 * (int(octave) + 1)


def line(text: str, start: float = 0.0, velocity: int = 80, hold: float = 0.95) -> list[Note]:
    """Read notes one after the other.

    Parameters
    ----------
    text : str
        Words `pitch:beats` or, for a chord, `pitch+pitch:beats`; `-:beats` is a rest. An ending
        `!` accents and `,` softens.
    start : float
        The beat of the first note.
    velocity : int
        Loudness of a plain note.
    hold : float
        The share of its time for which a note is held.

    Returns
    -------
    list of Note
        The notes in order.
    """
    rng = random.Random(text)
    notes = []
    beat = start
    for word in text.split():
        names, length, mark = re.fullmatch(r"([^:]+):([\d.]+)([!,]?)", word).groups()
        loudness = velocity + {"": 0, "!": 14, ",": -16}[mark]
        if names != "-":
            for name in names.split("+"):
                varied = max(1, min(127, loudness + rng.randint(-3, 3)))
                notes.append(Note(beat, float(length) * hold, pitch(name), varied))
        beat += float(length)
    return notes


def _keys() -> Piece:
    """Piano: a slow song in D major."""
    right = line(
        "F#5:1.5 E5:0.5 D5:1 A4:1 B4:1.5 C#5:0.5 D5:1! F#5:1 "
        "E5:1.5! D5:0.5 B4:1 D5:1 C#5:1 B4:0.5 A4:0.5 B4:0.5, C#5:0.5, E5:1",
        velocity=78,
    )
    left = "".join(
        f"{a}:0.5 {b}:0.5, {c}:0.5, {d}:0.5 {c}:0.5, {b}:0.5, {c}:0.5, {b}:0.5, "
        for a, b, c, d in (
            ("D3", "A3", "C#4", "F#4"),
            ("B2", "F#3", "A3", "D4"),
            ("G2", "D3", "F#3", "B3"),
            ("A2", "E3", "G3", "D4"),
        )
    )
    notes = right + line(left, velocity=62, hold=2.4)
    # The last chord is rolled from the bass upwards, softly.
    for index, name in enumerate(("D2", "A2", "F#3", "D4", "F#4", "A4", "D5", "F#5")):
        notes += line(f"{name}:4", start=16 + 0.09 * index, velocity=56)
    return Piece(88, [Part(PIANO, notes, volume=110, reverb=55)])


def _plucked() -> Piece:
    """Guitar and harp: a waltz in A minor."""
    chords = (
        ("A2", "E3", "A3", "C4"),
        ("F2", "C3", "F3", "A3"),
        ("C3", "G3", "C4", "E4"),
        ("G2", "D3", "G3", "B3"),
        ("D3", "A3", "D4", "F4"),
        ("E2", "B2", "E3", "G#3"),
    )
    picked = "".join(
        f"{a}:0.5! {b}:0.5 {c}:0.5 {d}:0.5 {c}:0.5, {b}:0.5, " for a, b, c, d in chords
    )
    guitar = line(picked, velocity=80, hold=2.5)
    for index, name in enumerate(("A2", "E3", "A3", "C4", "E4", "A4")):
        guitar += line(f"{name}:4", start=18 + 0.06 * index, velocity=76)
    melody = line(
        "E5:2 D5:0.5 C5:0.5 C5:2! A4:1 G5:1.5 E5:0.5 G5:1 D5:2 B4:1 "
        "F5:1 E5:0.5 D5:0.5 C5:0.5 A4:0.5 B4:1.5! C5:0.5, B4:1, A5:3!",
        velocity=82,
        hold=1.3,
    )
    parts = [
        Part(NYLON_GUITAR, guitar, volume=108, pan=48, reverb=45),
        Part(HARP, melody, volume=104, pan=82, reverb=70),
    ]
    return Piece(112, parts)


def _groove() -> Piece:
    """Drums, bass and a few chords in E dorian."""
    drums: list[Note] = []
    bars = 5
    for bar in range(bars):
        start = 4.0 * bar
        for beat, velocity in ((0, 116), (0.75, 84), (2.5, 108), (3.25, 78)):
            drums.append(Note(start + beat, 0.2, KICK, velocity))
        for beat, velocity in ((1, 106), (1.75, 38), (2.25, 42), (3, 110)):
            if not (bar == bars - 1 and beat >= 3):
                drums.append(Note(start + beat, 0.2, SNARE, velocity))
        for step in range(16):
            velocity = (82, 46, 66, 48)[step % 4]
            hat = OPEN_HAT if step == 14 and bar % 2 else CLOSED_HAT
            drums.append(Note(start + 0.25 * step, 0.2, hat, velocity))
    fill = (SNARE, SNARE, HIGH_TOM, HIGH_TOM, MIDDLE_TOM, LOW_TOM)
    for step, drum in enumerate(fill):
        drums.append(Note(19 + step / 6, 0.2, drum, 88 + 4 * step))
    drums += [Note(0, 1, CRASH, 84), Note(20, 0.2, KICK, 118), Note(20, 2, CRASH, 104)]
    riff = "E2:0.75! E2:0.5, G2:0.25 A2:0.5 -:0.5 B2:0.5! D3:0.25 B2:0.25, A2:0.25 G2:0.25 "
    turn = "A1:0.75! A1:0.5, C#2:0.25 E2:0.5 -:0.5 G2:0.5! E2:0.25 C2:0.25, B1:0.25 D2:0.25 "
    bass = line((riff + turn) * 2 + riff + "E2:2.5!", velocity=98, hold=0.85)
    stabs = "-:1.5 G4+B4+D5+F#5:0.5! -:1.25 G4+B4+D5:0.25, -:0.5 "
    other = "-:1.5 G4+B4+C#5+E5:0.5! -:1.25 G4+A4+C#5:0.25, -:0.5 "
    chords = line((stabs + other) * 2 + stabs + "G3+B3+D4+F#4:2.5!", velocity=72, hold=0.8)
    parts = [
        Part(0, drums, volume=112, reverb=30, is_drums=True),
        Part(FINGER_BASS, bass, volume=118, reverb=10),
        Part(ELECTRIC_PIANO, chords, volume=84, pan=86, reverb=45, chorus=30),
    ]
    return Piece(104, parts)


def _pads() -> Piece:
    """Strings, pad and choir: seven slow chords that come to rest in C."""
    chords = (
        "F2+C3+A3+E4:2 G2+D3+B3+E4:2 E2+B2+G3+D4:2 A2+E3+B3+C4:2 "
        "D2+A2+F3+E4:2 G2+D3+F3+C4:1 G2+D3+F3+B3:1 C2+G2+E3+C4:3.2,"
    )
    high = "A4+C5:2, B4+D5:2 B4+G5:2! C5+E5:2 A4+F5:2! G4+D5:1 G4+B4:1, G4+E5:3.2,"
    voices = "E5:1.5 F5:0.5 G5:1 A5:1 B5:1.5! A5:0.5 E5:2 F5:1 E5:1, D5:2 E5:3.2,"
    parts = [
        Part(WARM_PAD, line(chords, velocity=78, hold=1.02), volume=92, pan=64, reverb=80),
        Part(SLOW_STRINGS, line(high, velocity=74, hold=1.02), volume=92, pan=40, reverb=80),
        Part(CHOIR, line(voices, velocity=88, hold=1.0), volume=112, pan=78, reverb=90),
    ]
    return Piece(84, parts)


DEMO_PIECES = {"keys": _keys, "plucked": _plucked, "groove": _groove, "pads": _pads}


def render_demo(name: str, soundfont: Path = DEFAULT_SOUNDFONT) -> np.ndarray:
    """Render a demo piece with a peak of -1 dBFS, fading to silence.

    Parameters
    ----------
    name : str
        A key of `DEMO_PIECES`.
    soundfont : Path
        The SoundFont to play from.

    Returns
    -------
    numpy.ndarray
        Audio of shape (samples, 2), float32, at most `LONGEST_SECONDS` long.
    """
    audio = render(DEMO_PIECES[name](), soundfont)[: round(LONGEST_SECONDS * SAMPLE_RATE)]
    count = round(FADE_SECONDS * SAMPLE_RATE)
    fade = 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, count, dtype=np.float32))
    audio[-count:] *= fade[:, None]
    return normalise(audio)
