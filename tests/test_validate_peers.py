"""`validate` beside the libraries themselves, live and in float64."""

from __future__ import annotations

import json

import naive
import numpy as np
import pytest
import soundfile
from networks import (
    model_of,
    random_audio,
    random_latents,
    random_tensors,
    small,
    write_folder,
)
from safetensors.numpy import save_file

import oobleck_stream as ob
from oobleck_stream.__main__ import run
from oobleck_stream.errors import InputError
from oobleck_stream.validation.check import check_stages
from oobleck_stream.validation.peers import peer_reference
from oobleck_stream.validation.stages import layer_outputs
from oobleck_stream.validation.tensors import tensors_for_peer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

PEERS = {"torch": "torch", "diffusers": "diffusers", "stable-audio-tools": "stable_audio_tools"}
CASES = {
    "stable-audio-open-1.0": {"channels": 4, "latent_dim": 2},
    "ace-step-1.5": {"channels": 4, "latent_dim": 2},
    "ezaudio": {"channels": 16, "latent_dim": 8, "latent_scale": 0.7},
    "yue2": {"channels": 4, "latent_dim": 2},
}
"""Encoders as wide as their outputs, which is all that diffusers has."""


@pytest.fixture(scope="module", params=PEERS)
def peer(request):
    """A peer's name; stand-ins replace the imports that stable-audio-tools never uses."""
    import peers

    if request.param == "stable-audio-tools":
        with peers.stand_ins():
            pytest.importorskip("stable_audio_tools.models.autoencoders")
    else:
        pytest.importorskip(request.param)
    return request.param


def checkpoint(folder, config):
    """Both halves as a folder, with weight norm; the latents' scale is not in its config."""
    both = random_tensors(config) | random_tensors(config, half="encoder")
    return write_folder(folder, config, both)


def piece(config, half):
    return random_latents(config, 2) if half == "decoder" else random_audio(config, 2 * config.hop)


def validated(source, model, half, peer, tolerance=1e-4):
    """All stages beside a peer with the tensors of a source."""
    rows = piece(model.config, half)
    tensors, stored = tensors_for_peer(str(source), model, half)
    assert stored == (source != "random:none")
    reference = peer_reference(peer, model.config, half, tensors, rows, layers=True)
    return check_stages(layer_outputs(model, rows, half), reference, tolerance)


def assert_alike(result, config):
    assert result.passed
    assert len(result.stages) == len(config.strides) + 3
    for stage, found in result.stages.items():
        assert found.snr_db >= 115, stage
        assert found.max_difference <= 1e-5 * found.peak


@pytest.mark.parametrize("half", ["decoder", "encoder"])
@pytest.mark.parametrize("name", CASES)
def test_every_stage(tmp_path, peer, name, half):
    config = small(name, **CASES[name])
    model = ob.load(checkpoint(tmp_path, config), config=config)
    assert_alike(validated(tmp_path, model, half, peer), config)


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_our_own_parameters(peer, half):
    model = model_of(small("ezaudio", **CASES["ezaudio"]))
    assert_alike(validated("random:none", model, half, peer), model.config)


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_a_wrong_weight_is_found(tmp_path, peer, half):
    config = small("stable-audio-open-1.0", **CASES["stable-audio-open-1.0"])
    folder = checkpoint(tmp_path, config)
    other = random_tensors(config) | random_tensors(config, half="encoder")
    place = {"decoder": "decoder.layers.2.layers.1", "encoder": "encoder.layers.2.layers.4"}[half]
    other[f"{place}.weight_v"][1, 1, 1] += 1e-3
    model = ob.load(write_folder(tmp_path / "other", config, other))
    result = validated(folder, model, half, peer, tolerance=1e-5)
    assert (result.passed, result.first_outside) == (False, "block_2")


@pytest.mark.parametrize("half", ["decoder", "encoder"])
def test_kernels_as_long_as_strides(tmp_path, half):
    config = small("document")
    both = random_tensors(config) | random_tensors(config, half="encoder")
    model = model_of(config)
    save_file(both, tmp_path / "weights.safetensors")
    assert_alike(validated(tmp_path / "weights.safetensors", model, half, "torch"), config)


def test_the_output_alone():
    config = small("document")
    model, latents = model_of(config, 4), random_latents(config, 5)
    expected = naive.decode(latents, random_tensors(config, 4), config)
    found = {}
    tensors, _ = tensors_for_peer("random:none", model, "decoder")
    peer_reference("torch", config, "decoder", tensors, latents)(found.__setitem__)
    assert list(found) == ["output"]
    assert np.abs(found["output"] - expected).max() <= 1e-6 * np.abs(expected).max()
    assert found["output"].dtype == np.float64


def test_cosmos():
    pytest.importorskip("diffusers.models.autoencoders.autoencoder_cosmos3_audio")
    model = model_of(small("cosmos3"))
    for peer in ("diffusers", "torch"):
        assert_alike(validated("random:none", model, "decoder", peer), model.config)


def test_final_tanh():
    config = small("ezaudio", final_tanh=True)
    result = validated("random:none", model_of(config), "decoder", "torch")
    assert result.stages["output"].snr_db >= 115
    with pytest.raises(InputError, match="final_tanh is True; the peer torch has"):
        validated("random:none", model_of(config), "decoder", "diffusers")


@pytest.mark.parametrize(
    ("config", "peer", "half", "words"),
    [
        (small("document"), "diffusers", "decoder", "dilations"),
        (small("document"), "stable-audio-tools", "encoder", "dilations"),
        (small("cosmos3"), "stable-audio-tools", "decoder", "output_padding"),
        (small("ezaudio"), "diffusers", "encoder", "not 4 and 256"),
    ],
)
def test_networks_that_a_peer_does_not_have(config, peer, half, words):
    with pytest.raises(InputError, match=words):
        peer_reference(peer, config, half, [], piece(config, half))


def test_command(tmp_path, peer, capsys):
    config = small("stable-audio-open-1.0", **CASES["stable-audio-open-1.0"])
    checkpoint(tmp_path / "model", config)
    np.save(tmp_path / "in.npy", random_latents(config, 3).T[None])
    soundfile.write(tmp_path / "in.wav", random_audio(config, 3000), 44100, subtype="FLOAT")
    options = ["--model", str(tmp_path / "model"), "--peer", peer, "--json", "--tolerance", "1e-5"]
    for name, layers in (("in.npy", ["--layers"]), ("in.wav", [])):
        code = run(["validate", str(tmp_path / name), *options, *layers])
        out, err = capsys.readouterr()
        facts = json.loads(out)
        assert (code, facts["passed"], facts["reference"]) == (0, True, peer), err
        assert len(facts["stages"]) == (8 if layers else 1)
        assert all(stage["snr_db"] >= 115 for stage in facts["stages"].values())


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("in.npy", ["--layers"]),
        ("in.wav", []),
        pytest.param("in.npy", [], marks=pytest.mark.nightly),
        pytest.param("in.wav", ["--layers"], marks=pytest.mark.nightly),
    ],
)
def test_plot(tmp_path, capsys, name, layers):
    pytest.importorskip("matplotlib")
    config = small("stable-audio-open-1.0", **CASES["stable-audio-open-1.0"])
    checkpoint(tmp_path / "model", config)
    np.save(tmp_path / "in.npy", random_latents(config, 3))
    soundfile.write(tmp_path / "in.wav", random_audio(config, 3000), 44100, subtype="FLOAT")
    picture = tmp_path / ("b.svg" if layers else "a.png")
    options = ["--model", str(tmp_path / "model"), "--peer", "torch", "--plot", str(picture)]
    assert run(["validate", str(tmp_path / name), *options, *layers]) == 0
    assert picture.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    folder = tmp_path / "no folder" / "a.png"
    options[-1] = str(folder)
    assert run(["validate", str(tmp_path / name), *options]) == 2
    assert "can't be written" in capsys.readouterr().err
