"""Compose short General MIDI pieces by rule, as training and test material.

Every piece follows from a seed. Training and held-out pieces take their instruments from
disjoint sets of General MIDI programs, so a held-out piece tests new notes on new timbres.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mido

TICKS_PER_BEAT = 480
DRUM_CHANNEL = 9
BEATS_PER_BAR = 4

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
}
# Scale degrees counted from 0, one chord a bar; every row leads back to its own start.
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 1, 4), (0, 2, 3, 4), (5, 3, 0, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 4), (0, 2, 6, 3), (0, 5, 3, 4)),
    "dorian": ((0, 3, 0, 6), (0, 2, 3, 6), (0, 6, 3, 0), (0, 3, 1, 4)),
}

# General MIDI programs counted from 0, by role. No program stands in both tables.
TRAINING_PROGRAMS = {
    "keys": (0, 3, 4, 6, 9, 11, 12, 16, 19, 21),
    "plucked": (24, 26, 27, 29, 45, 46, 104, 105, 106),
    "bass": (32, 33, 36, 38),
    "pads": (44, 48, 49, 50, 52, 88, 89, 91, 92),
    "lead": (22, 40, 56, 60, 65, 68, 71, 73, 75, 80, 81, 85),
    "drums": (0, 8, 25, 40),
}
HELD_OUT_PROGRAMS = {
    "keys": (1, 2, 5, 7, 13, 18),
    "plucked": (25, 28, 107, 108),
    "bass": (34, 35, 39),
    "pads": (51, 53, 90, 94),
    "lead": (41, 42, 57, 66, 74, 82),
    "drums": (16, 24, 32),
}

KICK, SNARE, SIDE_STICK, CLOSED_HAT, PEDAL_HAT, OPEN_HAT = 36, 38, 37, 42, 44, 46
LOW_TOM, MIDDLE_TOM, HIGH_TOM, CRASH, RIDE = 45, 47, 50, 49, 51


@dataclass(frozen=True)
class Note:
    """One note: start and length in beats, pitch and velocity as MIDI numbers."""

    start: float
    length: float
    pitch: int
    velocity: int


@dataclass
class Part:
    """The notes of one instrument, with its place in the mix (MIDI values, 0 to 127)."""

    program: int
    notes: list[Note]
    volume: int = 100
    pan: int = 64
    reverb: int = 40
    chorus: int = 0
    is_drums: bool = False


@dataclass
class Piece:
    """A tempo in beats per minute and the parts that sound together."""

    tempo: float
    parts: list[Part] = field(default_factory=list)


@dataclass
class Harmony:
    """A key with one chord a bar, and a generator of random numbers to vary what is built on it."""

    rng: random.Random
    root: int
    mode: str
    degrees: list[int]

    def pitch(self, degree: int, octave: int) -> int:
        """Return the MIDI pitch of a scale degree (from 0, may pass the octave)."""
        scale = SCALES[self.mode]
        return self.root + 12 * (octave + degree // 7) + scale[degree % 7]

    def chord(self, bar: int, size: int = 3) -> list[int]:
        """Return the scale degrees of a bar's chord, stacked in thirds."""
        base = self.degrees[bar % len(self.degrees)]
        return [base + 2 * step for step in range(size)]

    def voicing(self, bar: int, centre: int, size: int = 3) -> list[int]:
        """Return a bar's chord as pitches, each tone in the octave nearest to `centre`."""
        pitches = []
        for degree in self.chord(bar, size):
            pitch = self.pitch(degree, 0)
            pitches.append(pitch + 12 * round((centre - pitch) / 12))
        return sorted(set(pitches))


def _velocity(rng: random.Random, base: int, beat: float) -> int:
    """Accent the strong beats and vary the rest a little, as a player would."""
    accent = 10 if beat % BEATS_PER_BAR == 0 else 4 if beat % 1 == 0 else 0
    return max(20, min(127, round(base + accent + rng.gauss(0, 5))))


def block_chords(harmony: Harmony, bars: int, centre: int, loudness: int) -> list[Note]:
    """Write rhythmic chords."""
    rng = harmony.rng
    rhythm = rng.choice([(0, 2), (0, 1.5, 3), (0, 1, 2, 3), (0, 0.75, 1.5, 2.5), (0.5, 1.5, 2.5)])
    short = rng.random() < 0.4
    size = rng.choice([3, 4])
    notes = []
    for bar in range(bars):
        for index, beat in enumerate(rhythm):
            following = rhythm[index + 1] if index + 1 < len(rhythm) else BEATS_PER_BAR
            length = 0.3 if short else (following - beat) * 0.95
            for pitch in harmony.voicing(bar, centre, size):
                velocity = _velocity(rng, loudness, beat)
                notes.append(Note(bar * BEATS_PER_BAR + beat, length, pitch, velocity))
    return notes


def arpeggio(harmony: Harmony, bars: int, centre: int, loudness: int) -> list[Note]:
    """Write broken chords that ring over one another."""
    rng = harmony.rng
    step = rng.choice([0.25, 0.5, 0.5, 1 / 3])
    ring = rng.choice([1.0, 2.0, 4.0])
    pattern = rng.choice(
        [(0, 1, 2, 3, 2, 1), (0, 2, 1, 3), (0, 1, 2, 3), (3, 2, 1, 0), (0, 3, 1, 2)]
    )
    notes = []
    for bar in range(bars):
        pitches = harmony.voicing(bar, centre, 4)
        pitches.append(pitches[0] + 12)
        for index in range(round(BEATS_PER_BAR / step)):
            if rng.random() < 0.08:
                continue
            pitch = pitches[pattern[index % len(pattern)] % len(pitches)]
            beat = index * step
            notes.append(
                Note(bar * BEATS_PER_BAR + beat, step * ring, pitch, _velocity(rng, loudness, beat))
            )
    return notes


def sustained_chords(harmony: Harmony, bars: int, centre: int, loudness: int) -> list[Note]:
    """Write chords held for a whole bar or two, with a slow change of loudness."""
    rng = harmony.rng
    size = rng.choice([3, 4])
    notes = []
    for bar in range(bars):
        for pitch in harmony.voicing(bar, centre, size):
            velocity = max(30, min(120, loudness + rng.randint(-14, 14)))
            notes.append(Note(bar * BEATS_PER_BAR, BEATS_PER_BAR * 1.02, pitch, velocity))
        if rng.random() < 0.5:
            low = harmony.pitch(harmony.chord(bar)[0], 3)
            notes.append(Note(bar * BEATS_PER_BAR, BEATS_PER_BAR, low, loudness - 8))
    return notes


def melody(harmony: Harmony, bars: int, octave: int, loudness: int) -> list[Note]:
    """Write a line that meets the chord on strong beats and moves by step between them."""
    rng = harmony.rng
    rhythms = [
        (1, 1, 1, 1),
        (1.5, 0.5, 1, 1),
        (0.5, 0.5, 1, 2),
        (2, 1, 1),
        (3, 1),
        (0.75, 0.25, 1, 2),
    ]
    motif = [rng.choice(rhythms) for _ in range(2)]
    degree = harmony.chord(0)[rng.randrange(3)]
    notes = []
    for bar in range(bars):
        chord = [tone % 7 for tone in harmony.chord(bar)]
        beat = 0.0
        for length in motif[bar % 2]:
            if beat % 2 == 0:
                # Go to the nearest tone of the chord so that the line fits the harmony.
                degree = min(
                    (candidate for candidate in range(-3, 11) if candidate % 7 in chord),
                    key=lambda candidate: (abs(candidate - degree), rng.random()),
                )
            else:
                degree = max(-3, min(10, degree + rng.choice([-2, -1, -1, 1, 1, 2])))
            if rng.random() > 0.07:
                notes.append(
                    Note(
                        bar * BEATS_PER_BAR + beat,
                        length * rng.uniform(0.8, 0.98),
                        harmony.pitch(degree, octave),
                        _velocity(rng, loudness, beat),
                    )
                )
            beat += length
    return notes


def bass_line(harmony: Harmony, bars: int, loudness: int) -> list[Note]:
    """Write a bass on roots, fifths and octaves."""
    rng = harmony.rng
    rhythm = rng.choice(
        [
            (0, 2),
            (0, 1.5, 2, 3.5),
            (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5),
            (0, 0.75, 1.5, 2.5, 3),
            (0, 1, 2, 3),
        ]
    )
    notes = []
    for bar in range(bars):
        root = harmony.pitch(harmony.chord(bar)[0] % 7, 2)
        root -= 12 if root > 47 else 0
        for index, beat in enumerate(rhythm):
            following = rhythm[index + 1] if index + 1 < len(rhythm) else BEATS_PER_BAR
            pitch = root if index == 0 else root + rng.choice([0, 0, 0, 7, 12])
            notes.append(
                Note(
                    bar * BEATS_PER_BAR + beat,
                    (following - beat) * rng.uniform(0.6, 0.95),
                    pitch,
                    _velocity(rng, loudness, beat),
                )
            )
    return notes


def drum_pattern(rng: random.Random, bars: int, loudness: int) -> list[Note]:
    """Write a beat with ghost notes, and a fill at the end of every fourth bar."""
    kicks = rng.choice([(0, 2), (0, 1.5, 2), (0, 0.75, 2.5), (0, 1, 2, 3), (0, 2.5)])
    snares = rng.choice([(1, 3), (1, 3), (2,), (1, 2.75, 3)])
    backbeat = rng.choice([SNARE, SNARE, SIDE_STICK])
    step = rng.choice([0.5, 0.5, 0.25, 1 / 3])
    timekeeper = rng.choice([CLOSED_HAT, CLOSED_HAT, RIDE])
    hits: list[tuple[float, int, int]] = []
    for bar in range(bars):
        start = bar * BEATS_PER_BAR
        fill = bar % 4 == 3
        hits += [(start + beat, KICK, loudness + 8) for beat in kicks]
        hits += [
            (start + beat, backbeat, loudness + 4) for beat in snares if not (fill and beat >= 3)
        ]
        for index in range(round(BEATS_PER_BAR / step)):
            beat = index * step
            open_now = timekeeper == CLOSED_HAT and rng.random() < 0.06
            hits.append((start + beat, OPEN_HAT if open_now else timekeeper, loudness - 22))
        if rng.random() < 0.3:
            hits.append((start + rng.choice([1.75, 2.25, 3.25]), SNARE, loudness - 45))
        if fill:
            toms = (HIGH_TOM, MIDDLE_TOM, MIDDLE_TOM, LOW_TOM)
            hits += [(start + 3 + 0.25 * index, tom, loudness) for index, tom in enumerate(toms)]
        if bar % 4 == 0 and rng.random() < 0.6:
            hits.append((start, CRASH, loudness - 8))
    return [Note(start, 0.2, pitch, _velocity(rng, base, start)) for start, pitch, base in hits]


Programs = dict[str, tuple[int, ...]]


def _part(rng: random.Random, program: int, notes: list[Note], volume: int = 100) -> Part:
    """Place a part in the stereo field with some room around it."""
    return Part(
        program,
        notes,
        volume=max(50, min(127, volume + rng.randint(-12, 12))),
        pan=rng.randint(24, 104),
        reverb=rng.choice([10, 40, 60, 90]),
        chorus=rng.choice([0, 0, 30]),
    )


def _keys(harmony: Harmony, programs: Programs, bars: int) -> list[Part]:
    rng = harmony.rng
    program = rng.choice(programs["keys"])
    left = rng.choice([block_chords, arpeggio])(harmony, bars, rng.choice([52, 57, 62]), 68)
    return [
        _part(rng, program, left),
        _part(rng, rng.choice([program, *programs["keys"]]), melody(harmony, bars, 5, 84)),
    ]


def _plucked(harmony: Harmony, programs: Programs, bars: int) -> list[Part]:
    rng = harmony.rng
    parts = [
        _part(rng, rng.choice(programs["plucked"]), arpeggio(harmony, bars, 58, 78)),
        _part(rng, rng.choice(programs["plucked"]), melody(harmony, bars, 5, 88)),
    ]
    if rng.random() < 0.5:
        parts.append(_part(rng, rng.choice(programs["bass"]), bass_line(harmony, bars, 74)))
    return parts


def _groove(harmony: Harmony, programs: Programs, bars: int) -> list[Part]:
    rng = harmony.rng
    drums = Part(
        rng.choice(programs["drums"]), drum_pattern(rng, bars, 92), volume=110, is_drums=True
    )
    parts = [drums, _part(rng, rng.choice(programs["bass"]), bass_line(harmony, bars, 94), 112)]
    if rng.random() < 0.6:
        role = rng.choice(["keys", "plucked"])
        parts.append(
            _part(rng, rng.choice(programs[role]), block_chords(harmony, bars, 62, 66), 86)
        )
    return parts


def _pads(harmony: Harmony, programs: Programs, bars: int) -> list[Part]:
    rng = harmony.rng
    parts = [_part(rng, rng.choice(programs["pads"]), sustained_chords(harmony, bars, 62, 84))]
    if rng.random() < 0.6:
        high = sustained_chords(harmony, bars, 72, 70)
        parts.append(_part(rng, rng.choice(programs["pads"]), high, 84))
    if rng.random() < 0.5:
        parts.append(_part(rng, rng.choice(programs["lead"]), melody(harmony, bars, 5, 78), 90))
    return parts


def _lead(harmony: Harmony, programs: Programs, bars: int) -> list[Part]:
    rng = harmony.rng
    role = rng.choice(["keys", "plucked", "pads"])
    accompany = sustained_chords if role == "pads" else rng.choice([block_chords, arpeggio])
    return [
        _part(
            rng, rng.choice(programs["lead"]), melody(harmony, bars, rng.choice([4, 5]), 94), 110
        ),
        _part(rng, rng.choice(programs[role]), accompany(harmony, bars, 60, 66), 86),
    ]


def _band(harmony: Harmony, programs: Programs, bars: int) -> list[Part]:
    parts = _groove(harmony, programs, bars)
    rng = harmony.rng
    parts.append(_part(rng, rng.choice(programs["lead"]), melody(harmony, bars, 5, 92), 100))
    pads = sustained_chords(harmony, bars, 64, 60)
    parts.append(_part(rng, rng.choice(programs["pads"]), pads, 72))
    return parts


STYLES: dict[str, Callable[[Harmony, Programs, int], list[Part]]] = {
    "keys": _keys,
    "plucked": _plucked,
    "groove": _groove,
    "pads": _pads,
    "lead": _lead,
    "band": _band,
}


def compose(style: str, seed: int, programs: Programs, seconds: float) -> Piece:
    """Compose one piece.

    Parameters
    ----------
    style : str
        A key of `STYLES`.
    seed : int
        The same seed, style and programs always give the same piece.
    programs : dict of str to tuple of int
        The General MIDI programs to choose from, by role.
    seconds : float
        The approximate length, rounded up to whole bars.

    Returns
    -------
    Piece
        The piece, ending on a held tonic chord.
    """
    rng = random.Random(f"{style}/{seed}")
    mode = rng.choice(sorted(SCALES))
    degrees = list(rng.choice(PROGRESSIONS[mode]))
    harmony = Harmony(rng, rng.randrange(12), mode, degrees)
    tempo = rng.uniform(60, 84) if style == "pads" else rng.uniform(76, 140)
    bars = max(2, round(seconds * tempo / 60 / BEATS_PER_BAR))
    parts = STYLES[style](harmony, programs, bars)
    closing = bars * BEATS_PER_BAR
    for part in parts:
        if part.is_drums:
            part.notes += [Note(closing, 0.5, KICK, 96), Note(closing, 1, CRASH, 84)]
        else:
            pitches = [note.pitch for note in part.notes]
            octave = 12 * round((sum(pitches) / len(pitches) - harmony.root) / 12)
            part.notes.append(Note(closing, 2.5, harmony.root + octave, 72))
    return Piece(tempo, parts)


def write_midi(piece: Piece, path: Path) -> None:
    """Write a piece as a standard MIDI file.

    Parameters
    ----------
    piece : Piece
        The piece to write, with at most 15 pitched parts.
    path : Path
        The file to write.
    """
    midi = mido.MidiFile(ticks_per_beat=TICKS_PER_BEAT)
    channels = iter(channel for channel in range(16) if channel != DRUM_CHANNEL)
    for number, part in enumerate(piece.parts):
        channel = DRUM_CHANNEL if part.is_drums else next(channels)
        track = mido.MidiTrack()
        midi.tracks.append(track)
        if number == 0:
            track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(piece.tempo)))
        track.append(mido.Message("program_change", channel=channel, program=part.program))
        for control, value in (
            (7, part.volume),
            (10, part.pan),
            (91, part.reverb),
            (93, part.chorus),
        ):
            track.append(
                mido.Message("control_change", channel=channel, control=control, value=value)
            )
        # At equal times a note must end before the same pitch starts again.
        events = []
        for note in part.notes:
            start = round(note.start * TICKS_PER_BEAT)
            end = max(start + 1, round((note.start + note.length) * TICKS_PER_BEAT))
            events.append((start, 1, note.pitch, note.velocity))
            events.append((end, 0, note.pitch, 0))
        now = 0
        for time, is_start, pitch, velocity in sorted(events):
            kind = "note_on" if is_start else "note_off"
            track.append(
                mido.Message(kind, channel=channel, note=pitch, velocity=velocity, time=time - now)
            )
            now = time
    midi.save(path)
