"""Sound that libsndfile does not read, sound that was cut off, and what messages say of both."""

from __future__ import annotations

import importlib.util
import struct

import numpy as np
import pytest
import soundfile
from command_line import assert_refused, run_command
from corpus import HAS_AV, write_by_av

import oobleck_stream as ob
from oobleck_stream.errors import InputError
from oobleck_stream.files import audio_reader
from oobleck_stream.files.audio_reader import AudioFile

needs_av = pytest.mark.skipif(not HAS_AV, reason="needs PyAV (extra av)")
RATE = 44100


def tone(seconds=1.0, channels=2, rate=RATE):
    time = np.arange(int(seconds * rate)) / rate
    tones = [0.4 * np.sin(2 * np.pi * (300 + 150 * channel) * time) for channel in range(channels)]
    return np.stack(tones, axis=1).astype(np.float32)


def read(path):
    source = AudioFile(path)
    return np.concatenate(list(source.blocks(source.samplerate, source.channels)))


# PyAV


@needs_av
@pytest.mark.parametrize(
    ("name", "codec", "accuracy"),
    [
        ("a.m4a", "alac", 1e-4),
        ("a.m4a", "aac", 0.05),
        ("a.mp4", "aac", 0.05),
        ("a.mkv", "flac", 1e-4),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_what_libsndfile_refuses_is_read_by_av(tmp_path, name, codec, accuracy, channels):
    """Without what fills the last frame, to the millisecond that the container states."""
    sound = tone(1.7, channels)
    write_by_av(tmp_path / name, sound, RATE, codec)
    source = AudioFile(tmp_path / name)
    assert (source.samplerate, source.channels) == (RATE, channels)
    for _ in range(2):  # It can be read again.
        found = np.concatenate(list(source.blocks(RATE, channels)))
        assert found.shape[1:] == sound.shape[1:]
        spare = 0 if codec in ("alac", "flac") else RATE // 1000 + 1
        assert 0 <= len(found) - len(sound) <= spare
        found = found[: len(sound)]
        assert found.dtype == np.float32
        middle = slice(RATE // 4, RATE)
        assert np.sqrt(np.mean(np.square((found - sound)[middle]))) < accuracy


@needs_av
def test_the_sound_of_a_video(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        stream = file.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone().T), "fltp", "stereo")
        frame.sample_rate, frame.pts = RATE, 0
        for number in range(10):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            picture.pts = number
            for packet in video.encode(picture):
                file.mux(packet)
        for part in (stream.encode(frame), stream.encode(None), video.encode(None)):
            for packet in part:
                file.mux(packet)
    assert RATE <= len(read(tmp_path / "a.mp4")) <= RATE + RATE // 1000 + 1
    done = run_command("encode", tmp_path / "a.mp4", tmp_path / "a.npy", "--model", "tiny")
    assert done.returncode == 0, done.stderr
    expected = ob.load("tiny").encode(read(tmp_path / "a.mp4"))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)


@needs_av
def test_a_video_without_sound_is_refused(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*video.encode(picture), *video.encode(None)]:
            file.mux(packet)
    with pytest.raises(InputError, match=r"a\.mp4: has no sound"):
        AudioFile(tmp_path / "a.mp4")


@needs_av
def test_a_playlist_that_names_other_files_is_not_followed(tmp_path):
    """FFmpeg would open what a playlist names, be it elsewhere in the network."""
    write_by_av(tmp_path / "a.m4a", tone(), RATE, "aac")
    playlists = {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.m4a\n#EXT-X-ENDLIST\n",
        "a.ffconcat": "ffconcat version 1.0\nfile a.m4a\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="not a sound file"):
            AudioFile(tmp_path / name)


@pytest.mark.parametrize(("name", "hint"), [("a.m4a", True), ("a.MP4", True), ("a.wav", False)])
def test_without_av_the_extra_is_named(tmp_path, monkeypatch, name, hint):
    (tmp_path / name).write_bytes(b"garbage" * 100)
    monkeypatch.setattr(
        audio_reader.importlib.util,
        "find_spec",
        lambda module, find=importlib.util.find_spec: None if module == "av" else find(module),
    )
    done = run_command("encode", tmp_path / name, tmp_path / "a.npy")
    assert_refused(done, f"{tmp_path / name}: not a sound file (WAV, FLAC")
    assert ("pip install 'oobleck_stream[av]'" in done.stderr) == hint


# Cut off


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
@pytest.mark.parametrize(
    ("container", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "DOUBLE"),
     ("AIFF", "PCM_16"), ("W64", "FLOAT"), ("AU", "PCM_24"),
     ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")],
)  # fmt: skip
def test_a_file_that_was_cut_off_is_refused(tmp_path, capfd, container, subtype, share):
    path = tmp_path / "a.sound"
    soundfile.write(path, tone(), RATE, subtype, format=container)
    whole = path.read_bytes()
    assert len(read(path)) == RATE
    path.write_bytes(whole[: int(len(whole) * share)])
    done = run_command("encode", path, tmp_path / "a.npy", "--model", "tiny")
    assert_refused(done, f"{path}: ")
    assert any(words in done.stderr for words in ("cut off", "ends after"))
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "a.npy").exists()


@needs_av
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_video_that_was_cut_off_is_refused(tmp_path, share):
    """Also if its index, which is at its end as a rule, is at its beginning."""
    import av

    for options in ({}, {"movflags": "faststart"}):
        write_by_av(tmp_path / "a.m4a", tone(), RATE, "aac")
        with (
            av.open(str(tmp_path / "a.m4a")) as old,
            av.open(str(tmp_path / "b.m4a"), "w", options=options) as new,
        ):
            stream = new.add_stream_from_template(old.streams.audio[0])
            for packet in old.demux():
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
        whole = (tmp_path / "b.m4a").read_bytes()
        (tmp_path / "b.m4a").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match=r"b\.m4a: (not a sound file|damaged or cut off)"):
            read(tmp_path / "b.m4a")


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_file_from_a_pipe_is_read_to_its_end(tmp_path, size):
    """Its sizes are those that programs write if they can't know them."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE, "PCM_16")
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", size)
    content[4:8] = struct.pack("<I", 8 if size == 0 else min(size + 36, 0xFFFFFFFF))
    path.write_bytes(content)
    assert len(read(path)) == RATE


def test_what_is_decoded_to_a_pipe_can_be_encoded(tmp_path):
    from oobleck_stream.files.wav_header import wav_header

    samples = tone()
    (tmp_path / "a.wav").write_bytes(wav_header(RATE, 2, 4, None) + samples.tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), samples)


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\x00\x00" + bytes([0, 0, 2, 0]) + bytes(256)])
def test_an_mp3_file_with_a_tag_is_whole(tmp_path, tag):
    soundfile.write(tmp_path / "a.mp3", tone(), RATE)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(tag + content)
    assert len(read(tmp_path / "a.mp3")) == RATE
    (tmp_path / "a.mp3").write_bytes(tag + content[:-2000])
    with pytest.raises(InputError, match="cut off: its header states 2000 bytes more"):
        read(tmp_path / "a.mp3")
