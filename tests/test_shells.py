"""What notebooks and shells show: representations, players, tables, completion, progress."""

from __future__ import annotations

import base64
import io
import json
import re
import sys

import numpy as np
import pytest
import soundfile
from browser import require_chromium, running_browser, running_driver
from command_line import run_command, run_process
from networks import random_latents, random_tensors, small, write_folder

import oobleck_stream as ob
from oobleck_stream.commands.info import network_facts, network_lines
from oobleck_stream.commands.progress import counted
from oobleck_stream.player.play import sound_of
from oobleck_stream.player.playlist import Playlist
from oobleck_stream.player.tracks import tracks_of

# Representations


def test_representations_say_what_one_wants_to_know():
    model = ob.load("tiny")
    shown = (
        "Model('tiny': 44100 Hz stereo, 24 values x 689.1 frames a second, 24 ms look-ahead, cpu)"
    )
    assert repr(model) == shown
    decoder = ob.StreamingDecoder(model)
    decoder.push(ob.piece("keys")[:100])
    start = "StreamingDecoder('tiny' on cpu: 100 frames in, "
    assert repr(decoder) == f"{start}5344 samples out, open)"
    decoder.flush()
    assert repr(decoder) == f"{start}6400 samples out, flushed)"
    several = ob.MultiStreamDecoder(model, 3)
    several.push(np.zeros((3, 5, 24)), active=[True, True, False])
    assert repr(several) == "MultiStreamDecoder('tiny' on cpu: 3 streams, 0 to 5 frames in)"
    encoder = ob.StreamingEncoder(model)
    encoder.push(np.zeros((7, 2)))
    assert repr(encoder) == "StreamingEncoder('tiny': 7 samples in, open)"


def test_presets_are_shown_with_a_line_each():
    lines = repr(ob.PRESETS).splitlines()
    assert [line.split()[0] for line in lines] == list(ob.PRESETS)
    assert lines[0].endswith("  44100 Hz stereo, 64 values x 21.53 frames a second")
    assert run_command("info", "--presets").stdout.splitlines() == lines
    facts = json.loads(run_command("info", "--presets", "--json").stdout)
    assert facts["ezaudio"]["audio_channels"] == 1


# `info`


def test_info_names_the_file_and_the_encoder(tmp_path):
    config = small("stable-audio-open-1.0")
    decoder, encoder = random_tensors(config), random_tensors(config, half="encoder")
    both = write_folder(tmp_path / "both", config, decoder | encoder)
    alone = write_folder(tmp_path / "alone", config, decoder)
    packed = tmp_path / "a.packed.safetensors"
    assert run_command("convert", both, packed).returncode == 0
    weights = both / "model.safetensors"
    done = run_command("info", "--model", both)
    assert f"           from {weights}\n" in done.stdout
    assert re.search(r"^encoder    \d+\.\d M$", done.stdout, re.MULTILINE)
    facts = network_facts(ob.load(both))
    assert facts["file"] == str(weights)
    count = sum(
        layer.inputs * layer.outputs * layer.kernel for layer in ob.load(both).encoder.layers
    )
    assert facts["encoder"] == {"present": True, "weights": count}
    for model, reason in (
        (ob.load(alone), "no tensors under encoder"),
        (ob.load(packed), "a packed network has only its decoder"),
        (ob.random_model(small("cosmos3")), "its encoder is not of the Oobleck family"),
    ):
        facts = network_facts(model)
        assert facts["encoder"]["present"] is False
        assert any(
            line.startswith(f"encoder    can't encode: {reason}") for line in network_lines(facts)
        )
    assert network_facts(model)["file"] is None


# Players in notebooks


def audio_in(html):
    """The sound in a player, and its samples per second."""
    (data,) = re.findall(r'src="data:audio/flac;base64,([^"]+)"', html)
    return soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32", always_2d=True)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_sound_is_shown_as_a_player(channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (5000, channels)).astype(np.float32)
    sound = ob.Sound(samples, 24000)
    found, rate = audio_in(sound._repr_html_())
    assert rate == 24000
    assert np.abs(found - samples).max() <= 2.0**-16 + 2.0**-15  # clipped at the largest step
    assert "<small>0.21 s, 24000 Hz" in sound._repr_html_()
    np.testing.assert_array_equal(np.asarray(sound), samples)
    assert np.asarray(sound, np.float64).dtype == np.float64
    assert "IPython" not in sys.modules


def test_sounds_at_the_edges():
    assert "2 samples clipped" in ob.Sound([1.5, 0.0, -2.0], 8000)._repr_html_()
    assert ob.Sound(np.zeros((0, 2)), 8000)._repr_html_() == "<small>0.00 s, 8000 Hz stereo</small>"
    for samples in (np.zeros((5, 9)), np.zeros((1, 5, 2)), ["a"], [1j]):
        with pytest.raises(ValueError, match="1 to 8 channels"):
            ob.Sound(samples, 8000)
    with pytest.raises(ValueError, match="sample 1 is not"):
        ob.Sound([0.0, np.nan], 8000)


def test_a_sound_is_saved(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, (5000, 2)).astype(np.float32)
    ob.Sound(samples, 24000).save(tmp_path / "a.wav", "float")
    found, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 24000
    np.testing.assert_array_equal(found, samples)
    with pytest.raises(ob.InputError, match=r"a\.txt: a name ending in"):
        ob.Sound(samples, 24000).save(tmp_path / "a.txt")


def test_what_was_played_is_decoded_when_it_is_shown():
    config = small("stable-audio-open-1.0")
    model = ob.random_model(config)
    pieces = [random_latents(config, 30, seed) for seed in (1, 2)]
    playlist = Playlist(tracks_of(pieces, model), 44100, 0.3, 0.5)
    sound = sound_of(playlist, model, None)
    assert repr(sound) == "Sound(44100 Hz, decoded when it is needed)"
    expected = [model.decode(piece)[13230 : 13230 + 22050] for piece in pieces]
    np.testing.assert_array_equal(sound.samples, np.concatenate(expected))
    assert repr(sound) == "Sound(1.00 s, 44100 Hz stereo)"
    live = Playlist(tracks_of(iter(pieces[0]), model), 44100)
    assert sound_of(live, model, None) is None


@pytest.mark.browser
def test_a_browser_plays_the_player():
    require_chromium()
    model = ob.load("tiny")
    sound = ob.Sound(model.decode(ob.piece("keys")[:1000]), model.samplerate)
    with running_driver() as driver, running_browser(driver) as browser:
        page = browser.new_page()
        page.set_content(sound._repr_html_())
        duration = page.evaluate(
            "new Promise((done) => { const player = document.querySelector('audio');"
            "player.onerror = () => done(player.error.message);"
            "player.onloadeddata = () => done(player.duration); player.load(); })"
        )
    assert duration == pytest.approx(64000 / 44100, abs=1e-3)


# Completion


def completed(*words):
    """What bash would be given for the last word, each with its type."""
    variables = {
        "_OOBLECK_STREAM_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["oobleck_stream", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = run_process(env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_shell_completes_commands_options_models_and_files():
    assert completed("va") == ["plain,validate"]
    assert {"plain,--start", "plain,--length"} <= set(completed("decode", "--"))
    assert completed("decode", "--model", "random:ez") == ["file,random:ez", "plain,random:ezaudio"]
    assert completed("decode", "la") == ["file,la"]
    assert completed("decode", "a.npy", "-o", "x") == ["file,x"]
    assert completed("info", "--convolution", "d") == ["plain,direct"]
    assert completed("bench", "comp") == ["plain,components"]


def test_the_help_says_how_to_complete():
    shown = run_command("--help").stdout
    (line,) = (line for line in shown.splitlines() if "_OOBLECK_STREAM_COMPLETE" in line)
    (command,) = re.findall(r"eval \"\$\((.*)\)\"", line)
    assert command == "_OOBLECK_STREAM_COMPLETE=bash_source oobleck_stream"
    script = run_process(env={"_OOBLECK_STREAM_COMPLETE": "bash_source"})
    assert script.returncode == 0, script.stderr
    assert "complete -o nosort -F _oobleck_stream_completion oobleck_stream" in script.stdout


# Progress


def test_a_bar_counts_to_its_end(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with counted(iter("abc"), 3, "stages") as items:
        assert list(items) == ["a", "b", "c"]
    assert "stages: 100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
