"""`validate`, as a user runs it."""

from __future__ import annotations

import io
import json
import os
import sys

import numpy as np
import pytest
import soundfile
from networks import random_audio, random_latents, random_tensors, small, write_folder
from safetensors.numpy import save_file
from small_disks import file_size_limit

import oobleck_stream as ob
from oobleck_stream.__main__ import run
from oobleck_stream.formats.flat import write_flat

CONFIG = small("stable-audio-open-1.0", latent_dim=8)
STAGES = ["input_conv", *(f"block_{number}" for number in range(1, 6)), "final_snake", "output"]
FRAMES = 12


def tensors():
    return random_tensors(CONFIG) | random_tensors(CONFIG, half="encoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("checkpoint"), CONFIG, tensors())


@pytest.fixture(scope="module")
def model(folder):
    return ob.load(folder)


@pytest.fixture
def inputs(tmp_path):
    """Latents and sound; the sound is no whole number of frames."""
    np.save(tmp_path / "in.npy", random_latents(CONFIG, FRAMES))
    soundfile.write(tmp_path / "in.wav", random_audio(CONFIG, 9001), 44100, subtype="FLOAT")
    return {"decoder": tmp_path / "in.npy", "encoder": tmp_path / "in.wav"}


@pytest.fixture
def validate(folder, capsys):
    """Runs the command in this process: exit code, standard output, standard error."""

    def call(*arguments, model=folder):
        code = run(["validate", *map(str, arguments), "--model", str(model)])
        return code, *capsys.readouterr()

    return call


def assert_refused(done, *words):
    code, out, err = done
    assert (code, out) == (2, ""), err
    message = [line for line in err.splitlines() if line != "compiling kernels (once)"]
    assert len(message) == 1, err
    for word in words:
        assert word in message[0]


def write(path, rows, kind):
    """Rows (time, channels) as a file of some kind."""
    if kind == "bin":
        write_flat(path.with_suffix(".bin"), rows.T)
        return path.with_suffix(".bin")
    if kind == "wav":
        soundfile.write(path.with_suffix(".wav"), rows, 44100, subtype="FLOAT")
        return path.with_suffix(".wav")
    turned = {"tc": rows, "ct": rows.T, "1ct": rows.T[None], "1tc": rows[None]}[kind]
    np.save(path.with_suffix(".npy"), turned)
    return path.with_suffix(".npy")


# progress


def test_the_stages_are_counted_on_a_terminal(tmp_path, monkeypatch, folder, inputs):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    options = ("--layers", "--save", tmp_path / "saved", "--model", folder)
    assert run(["validate", *map(str, (inputs["decoder"], *options))]) == 0
    assert "stages: 100%" in terminal.getvalue()
    assert f"{len(STAGES)}/{len(STAGES)} [" in terminal.getvalue()


# alignment


def test_a_delayed_reference_is_aligned(tmp_path, validate, model, inputs):
    """Its length may differ, and only what both have is compared."""
    audio = model.decode(np.load(inputs["decoder"]))
    for delay in (0, 1105, -777):
        late = np.concatenate([np.zeros((max(0, delay), 2)), audio[max(0, -delay) :]])
        reference = write(tmp_path / "late", late.astype(np.float32), "wav")
        options = ("--align", 0.05, "--tolerance", 0)
        code, out, err = validate(inputs["decoder"], reference, *options, "--json")
        facts = json.loads(out)
        assert (code, facts["passed"], facts["delay"]) == (0, True, delay), err
        assert facts["stages"]["output"]["shape"] == [len(audio) - max(0, -delay), 2]
        _, out, _ = validate(inputs["decoder"], reference, *options)
        side = "late" if delay >= 0 else "early"
        assert f"aligned: the reference is {abs(delay)} rows {side}" in out
    code, out, _ = validate(inputs["decoder"], reference, "--align", 0.01, "--tolerance", 1e-3)
    assert (code, "FAILED" in out) == (1, True)
    assert_refused(validate(inputs["decoder"], reference), "samples of 2 channels were expected")
    saved = tmp_path / "saved"
    assert_refused(
        validate(inputs["decoder"], saved, "--layers", "--align", 1), "--align", "--layers"
    )


def test_latents_are_aligned_too(tmp_path, validate, model, inputs):
    latents = model.encode(soundfile.read(inputs["encoder"], dtype="float32")[0])
    for kind in ("tc", "bin"):
        reference = write(tmp_path / "late", latents[2:], kind)
        options = ("--align", 0.5, "--tolerance", 1e-6, "--json")
        code, out, err = validate(inputs["encoder"], reference, *options)
        assert code == 0, err
        assert json.loads(out)["delay"] == -2


# references


@pytest.mark.parametrize("kind", ["tc", "ct", "1ct", "1tc", "bin", "wav"])
def test_every_kind_of_reference(tmp_path, validate, model, inputs, kind):
    expected = model.decode(np.load(inputs["decoder"]))
    path = write(tmp_path / "ref", expected, kind)
    code, out, _ = validate(inputs["decoder"], path)
    assert code == 0, out
    assert out.splitlines()[-1] == ("passed: output is within 0.05, the largest difference is 0")
    expected[1234, 1] += 0.0625
    code, out, _ = validate(inputs["decoder"], write(path, expected, kind))
    assert code == 1
    assert "FAILED: output is the first to leave the tolerance of 0.05: 1 of" in out
    assert "(time 1234, channel 1)" in out
    assert validate(inputs["decoder"], path, "--tolerance", 0.07)[0] == 0


@pytest.mark.parametrize("kind", ["tc", "ct", "1ct", "bin"])
@pytest.mark.parametrize("what", ["means", "means and scales"])
def test_references_of_the_encoder(tmp_path, validate, model, inputs, kind, what):
    audio = random_audio(CONFIG, 9001)
    expected = model.encode(audio)
    if what == "means and scales":
        from oobleck_stream.validation.stages import whole_output

        padded = np.pad(audio, ((0, -len(audio) % CONFIG.hop), (0, 0)))
        expected = dict(whole_output(model, padded, "encoder"))["output"]
    path = write(tmp_path / "ref", expected, kind)
    code, out, _ = validate(inputs["encoder"], path)
    assert code == 0, out
    assert "difference is 0" in out
    expected[2, 3] += 0.011
    assert validate(inputs["encoder"], write(path, expected, kind))[0] == 1


@pytest.mark.parametrize("kind", ["tc", "ct", "1ct", "bin", "wav"])
def test_every_kind_of_sound(tmp_path, validate, model, kind):
    audio = random_audio(CONFIG, 5000)
    path = write(tmp_path / "sound", audio, kind)
    np.save(tmp_path / "ref.npy", model.encode(audio))
    code, out, _ = validate(path, tmp_path / "ref.npy", "--half", "encoder")
    assert (code, out.splitlines()[-1][-15:]) == (0, "difference is 0")


@pytest.mark.parametrize("kind", ["ct", "bin"])
def test_other_latents(tmp_path, validate, model, kind):
    latents = random_latents(CONFIG, 3)
    np.save(tmp_path / "ref.npy", model.decode(latents))
    assert validate(write(tmp_path / "in", latents, kind), tmp_path / "ref.npy")[0] == 0


def test_without_padding(tmp_path, validate, model, inputs):
    np.save(tmp_path / "ref.npy", model.encode(random_audio(CONFIG, 9001), pad=False))
    assert_refused(validate(inputs["encoder"], tmp_path / "ref.npy"), "(5, 8)", "not (4, 8)")
    assert validate(inputs["encoder"], tmp_path / "ref.npy", "--no-pad")[0] == 0


# layers


@pytest.mark.parametrize("form", ["npy", "bin"])
@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_what_is_saved_validates(tmp_path, validate, inputs, half, form):
    saved = tmp_path / "saved"
    code, out, err = validate(inputs[half], "--layers", "--save", saved, "--format", form)
    assert (code, out) == (0, ""), err
    assert sorted(path.name for path in saved.iterdir()) == sorted(f"{s}.{form}" for s in STAGES)
    code, out, _ = validate(inputs[half], saved, "--layers", "--json")
    facts = json.loads(out)
    assert (code, facts["passed"], facts["half"]) == (0, True, half)
    assert list(facts["stages"]) == STAGES
    for stage in facts["stages"].values():
        assert (stage["max_difference"], stage["over"], stage["snr_db"]) == (0, 0, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "in.wav", "saved"]


def test_saved_files_have_the_order_of_pytorch(tmp_path, validate, model, inputs):
    validate(inputs["decoder"], "--save", tmp_path / "a")
    stored = np.load(tmp_path / "a" / "output.npy")
    assert np.array_equal(stored, model.decode(np.load(inputs["decoder"])).T[None])
    assert os.listdir(tmp_path / "a") == ["output.npy"]


@pytest.mark.parametrize(
    ("half", "layer", "stage"),
    [
        ("decoder", "decoder.layers.0", "input_conv"),
        ("decoder", "decoder.layers.2.layers.1", "block_2"),
        ("decoder", "decoder.layers.4.layers.3.layers.3", "block_4"),
        ("decoder", "decoder.layers.7", "output"),
        ("encoder", "encoder.layers.2.layers.4", "block_2"),
    ],
)
def test_the_first_layer_that_is_wrong_is_named(tmp_path, validate, inputs, half, layer, stage):
    assert validate(inputs[half], "--layers", "--save", tmp_path / "saved")[0] == 0
    perturbed = tensors()
    perturbed[f"{layer}.weight_v"][0, 0, 0] += 5
    other = write_folder(tmp_path / "other", CONFIG, perturbed)
    options = (inputs[half], tmp_path / "saved", "--layers")
    code, out, _ = validate(*options, model=other)
    assert code == 1
    assert out.splitlines()[-1].startswith(f"FAILED: {stage} is the first to leave the tolerance")
    code, out, _ = validate(*options, "--json", model=other)
    facts = json.loads(out)
    assert (code, facts["passed"], facts["first_outside"]) == (1, False, stage)
    before = STAGES[: STAGES.index(stage)]
    assert all(facts["stages"][name]["max_difference"] == 0 for name in before)


def test_the_last_snake_has_a_stage_of_its_own(tmp_path, validate, inputs):
    validate(inputs["decoder"], "--layers", "--save", tmp_path / "saved")
    perturbed = tensors()
    perturbed["decoder.layers.6.beta"][1] -= 3
    other = write_folder(tmp_path / "other", CONFIG, perturbed)
    code, out, _ = validate(inputs["decoder"], tmp_path / "saved", "--layers", model=other)
    assert (code, "FAILED: final_snake is" in out) == (1, True)


def test_some_layers_may_be_missing(tmp_path, validate, inputs):
    saved = tmp_path / "saved"
    validate(inputs["decoder"], "--layers", "--save", saved)
    for name in ("block_2", "output"):
        (saved / f"{name}.npy").unlink()
    code, out, _ = validate(inputs["decoder"], saved, "--layers")
    assert code == 0
    assert "not in the reference: block_2, output\npassed: 6 stages are within" in out
    assert_refused(validate(inputs["decoder"], saved), "output as .npy or .bin was expected")


def test_nan_exceeds_the_tolerance_and_is_null_in_json(tmp_path, validate, model, inputs):
    expected = model.decode(np.load(inputs["decoder"]))
    expected[77, 0] = np.nan
    path = write(tmp_path / "ref", expected, "bin")
    code, out, _ = validate(inputs["decoder"], path, "--json")
    output = json.loads(out)["stages"]["output"]
    assert (code, output["over"], output["worst"]) == (1, 1, {"time": 77, "channel": 0})
    assert output["max_difference"] is output["peak"] is None
    assert output["not_finite"] == 1
    expected[80] = np.inf
    path = write(tmp_path / "ref", expected, "bin")
    _, out, _ = validate(inputs["decoder"], path)
    assert "3 of the reference are not finite (time 77, channel 0)" in out


# refusals


@pytest.mark.parametrize("kind", ["tc", "1ct", "bin", "wav"])
def test_another_length_is_refused(tmp_path, validate, model, inputs, kind):
    expected = model.decode(np.load(inputs["decoder"]))[:-1]
    path = write(tmp_path / "ref", expected, kind)
    rows = FRAMES * CONFIG.hop
    found = {"tc": f"({rows - 1}, 2)", "1ct": f"(1, 2, {rows - 1})", "bin": f"not {2 * rows - 2}",
             "wav": f"not {rows - 1} of 2"}  # fmt: skip
    assert_refused(validate(inputs["decoder"], path), str(path), str(rows), found[kind])


def test_square_rows_need_a_layout(tmp_path, validate, model):
    latents = random_latents(CONFIG, 64)
    np.save(tmp_path / "in.npy", latents)
    first = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    (tmp_path / "ref").mkdir()
    np.save(tmp_path / "ref" / "input_conv.npy", first)
    options = (tmp_path / "in.npy", tmp_path / "ref", "--layers")
    assert_refused(validate(*options), "input_conv.npy", "--layout")
    validate(tmp_path / "in.npy", "--layers", "--save", tmp_path / "saved")
    right = np.load(tmp_path / "saved" / "input_conv.npy")
    for array, layout in [(right, "tc"), (right[0], "ct"), (right[0].T, "tc")]:
        np.save(tmp_path / "ref" / "input_conv.npy", array)
        np.save(tmp_path / "in.npy", latents if layout == "tc" else latents.T)
        assert validate(*options, "--layout", layout)[0] == 0


def test_a_folder_with_two_files_for_a_stage(tmp_path, validate, inputs):
    for form in ("npy", "bin"):
        validate(inputs["decoder"], "--save", tmp_path / form, "--format", form)
    os.rename(tmp_path / "npy" / "output.npy", tmp_path / "bin" / "output.npy")
    assert_refused(validate(inputs["decoder"], tmp_path / "bin"), "output.npy and output.bin")


def test_a_folder_with_a_file_of_no_stage(tmp_path, validate, inputs):
    saved = tmp_path / "saved"
    validate(inputs["decoder"], "--layers", "--save", saved)
    os.rename(saved / "block_1.npy", saved / "blok_1.npy")
    (saved / "README.txt").write_text("ours")
    for options in ([], ["--layers"]):
        done = validate(inputs["decoder"], saved, *options)
        assert_refused(done, "blok_1.npy: is none of", "block_1, block_2")


def test_config_keeps_the_model_that_the_latents_name(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.delenv("OOBLECK_STREAM_MODEL", raising=False)
    monkeypatch.setitem(ob.PRESETS, "stable-audio-open-1.0", CONFIG)
    path, latents = tmp_path / "in.safetensors", random_latents(CONFIG, FRAMES)
    save_file({"latents": latents}, path, {"model": str(folder)})
    reference = write(tmp_path / "ref", ob.load(folder).decode(latents), "bin")
    options = ["--config", "stable-audio-open-1.0", "--tolerance", "0"]
    assert run(["validate", str(path), str(reference), *options]) == 0, capsys.readouterr().err


def test_save_keeps_what_is_there(tmp_path, validate, inputs):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    done = validate(inputs["decoder"], "--save", tmp_path / "there")
    assert_refused(done, "a new or an empty folder was expected")
    assert os.listdir(tmp_path / "there") == ["mine.txt"]


def test_nothing_half_written_stays(tmp_path, validate, inputs):
    with file_size_limit(1000):
        code, _, err = validate(inputs["decoder"], "--save", tmp_path / "new")
    assert (code, f"{tmp_path / 'new' / 'output.npy'}: File too large" in err) == (1, True)
    assert sorted(os.listdir(tmp_path)) == ["in.npy", "in.wav"]


@pytest.mark.parametrize("missing", ["torch", "diffusers", "stable_audio_tools"])
def test_a_peer_that_is_not_there(validate, inputs, missing, monkeypatch):
    if missing != "torch":
        pytest.importorskip("torch")
    for name in {missing, *sys.modules}:
        if name == missing or name.startswith(f"{missing}."):
            monkeypatch.setitem(sys.modules, name, None)
    peer = missing.replace("_", "-")
    assert_refused(validate(inputs["decoder"], "--peer", peer), peer, "pip install")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["REFERENCE, --peer or --save"]),
        (["in.npy", "--peer", "torch"], ["two references"]),
        (["in.npy", "--layers"], ["in.npy: with --layers a folder"]),
        (["no.npy"], ["no.npy: can't be read"]),
        (["in.npy", "--config", "unheard-of"], ["'unheard-of' is not one of"]),
        (["in.npy", "--no-pad"], ["--no-pad"]),
        (["in.npy", "--plot", "a.txt"], ["--plot", ".png"]),
        (["--save", "a", "--plot", "a.png"], ["--plot draws differences"]),
        (["in.npy", "--half", "encoder"], ["audio of shape (samples, 2)", "not (12, 8)"]),
        (["in.npy", "--config", "ezaudio"], ["latent_dim is 128 in the config, 8"]),
    ],
)
def test_wrong_options_are_refused(validate, inputs, options, words, monkeypatch):
    monkeypatch.chdir(inputs["decoder"].parent)
    assert_refused(validate("in.npy", *options), *words)
