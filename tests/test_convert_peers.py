"""`oobleck_stream convert` with what torch has written, and its folders opened by diffusers."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
from conversions import (
    AUDIO,
    CONFIG,
    DECODER,
    LATENTS,
    TENSORS,
    assert_same,
    assert_sounds_the_same,
    convert,
    stored,
    written,
)

import oobleck_stream as ob


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def state(torch):
    return {name: torch.from_numpy(values.copy()) for name, values in TENSORS.items()}


@pytest.fixture
def source(tmp_path):
    return written(tmp_path / "source.safetensors")


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "pth", "bin"])
def test_without_torch_there_is_a_hint(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "torch", None)
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(b"PK")
    assert "oobleck_stream[peers]" in convert(file, tmp_path / "b.safetensors", status=2)


@pytest.mark.peers
@pytest.mark.parametrize("form", ["plain", "nested", "old", "views"])
@pytest.mark.parametrize("suffix", ["ckpt", "bin"])
def test_what_torch_has_written(tmp_path, torch, state, source, suffix, form):
    values, options = state, {}
    if form == "nested":
        values = {"state_dict": state, "epoch": 3, "optimizer_states": [{"lr": 0.1}]}
    elif form == "old":
        options = {"_use_new_zipfile_serialization": False}
    elif form == "views":
        values = {
            name: tensor.mT.contiguous().mT for name, tensor in state.items() if tensor.ndim > 1
        }
        assert not values["decoder.layers.0.weight_v"].is_contiguous()
        values = {**state, **values}
    file = tmp_path / f"a.{suffix}"
    torch.save(values, file, **options)
    convert(file, tmp_path / "b.safetensors")
    assert_same(stored(tmp_path / "b.safetensors"), stored(source))
    with pytest.raises(ob.CheckpointError, match="oobleck_stream convert"):
        ob.load(file)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes_of_torch(tmp_path, torch, state, source, dtype):
    rounded = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}
    torch.save(rounded, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    found = stored(tmp_path / "b.safetensors")
    short = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}[dtype]
    for name, tensor in rounded.items():
        assert found[name][0] == short
        np.testing.assert_array_equal(found[name][1], tensor.float().numpy())
    # bfloat16 and float16 as torch rounds them.
    if dtype != "float64":
        convert(source, tmp_path / "c.safetensors", "--dtype", dtype)
        assert_same(stored(tmp_path / "c.safetensors"), found)


class Program:
    """Unpickled, it would call something."""

    def __reduce__(self):
        return (print, ("a program ran",))


@pytest.mark.peers
def test_what_torch_can_not_open_is_refused(tmp_path, torch, state, capfd):
    target = tmp_path / "b.safetensors"
    torch.save({**state, "x": Program()}, tmp_path / "program.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"state_dict": Program()}))
    for name in ("program", "plain"):
        assert "need code" in convert(tmp_path / f"{name}.ckpt", target, status=2)
    assert "a program ran" not in capfd.readouterr().out
    torch.save(state, tmp_path / "cut.ckpt")
    whole = (tmp_path / "cut.ckpt").read_bytes()
    for data in (b"", b"PK", whole[:1000], whole[:-100], b"\x80\x02}q\x00."):
        (tmp_path / "cut.ckpt").write_bytes(data)
        assert "cut.ckpt" in convert(tmp_path / "cut.ckpt", target, status=2)
    for values in ([1, 2], {"a": 1}, {"state_dict": {}}, state["decoder.layers.0.bias"]):
        torch.save(values, tmp_path / "other.ckpt")
        assert "no tensors" in convert(tmp_path / "other.ckpt", target, status=2)
    assert not target.exists()


@pytest.mark.peers
def test_diffusers_opens_its_folder(tmp_path, torch, source):
    diffusers = pytest.importorskip("diffusers")
    convert(source, tmp_path / "a", "--to", "diffusers")
    network = diffusers.AutoencoderOobleck.from_pretrained(tmp_path / "a").double()
    assert network.config.sampling_rate == CONFIG.samplerate
    model = ob.load(source)
    with torch.no_grad():
        sound = network.decode(torch.from_numpy(LATENTS.T.copy())[None].double()).sample[0].T
        audio = np.pad(AUDIO, ((0, -len(AUDIO) % CONFIG.hop), (0, 0)))
        latents = network.encode(torch.from_numpy(audio.T.copy())[None].double()).latent_dist.mean
    np.testing.assert_allclose(model.decode(LATENTS), sound.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.encode(AUDIO), latents[0].T.numpy(), atol=1e-5)
    network.float().save_pretrained(tmp_path / "again")
    assert_sounds_the_same(tmp_path / "again", source)


@pytest.mark.peers
def test_stable_audio_tools_makes_its_decoder_from_its_folder(tmp_path, torch, source):
    peers = pytest.importorskip("peers")
    convert(source, tmp_path / "a", "--to", "stable-audio-tools")
    options = json.loads((tmp_path / "a" / "model_config.json").read_text())["model"]
    found = stored(tmp_path / "a")
    decoder = {name: found[name][1] for name in DECODER}
    assert options["decoder"]["type"] == options["encoder"]["type"] == "oobleck"
    sound = peers.stable_audio_tools_decode(CONFIG, decoder, LATENTS)
    np.testing.assert_allclose(ob.load(tmp_path / "a").decode(LATENTS), sound, atol=1e-5)
