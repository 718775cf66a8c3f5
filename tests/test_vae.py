"""`torch_vae` in diffusers' own pipeline, and by itself beside diffusers' own autoencoder."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from networks import model_of, random_latents, signal_to_noise, small
from playing import run_script
from sound_server import sound_server

import oobleck_stream as ob

__all__ = ["sound_server"]

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("diffusers")
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def pipelines(torch):
    pytest.importorskip("transformers")
    import pipelines

    return pipelines


@pytest.fixture(scope="module")
def own(torch):
    """Diffusers' own autoencoder, in float64."""
    pytest.importorskip("transformers")
    import pipelines

    return pipelines.small_vae()


@pytest.fixture(scope="module")
def folder(own, tmp_path_factory):
    """Its checkpoint, as diffusers writes it."""
    path = tmp_path_factory.mktemp("vae")
    own.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return ob.load(folder)


@pytest.fixture
def vae(model):
    return ob.torch_vae(model)


def latents_of(torch, *shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_pipeline_sounds_as_with_its_own(torch, pipelines, own, vae):
    """Two prompts, two pieces each, from a given sound: it decodes and encodes batches."""

    def sound(pipe):
        return pipe(
            ["a pad", "a"],
            num_inference_steps=3,
            num_waveforms_per_prompt=2,
            audio_end_in_s=0.4,
            initial_audio_waveforms=0.3 * latents_of(torch, 2, 2, 3000),
            initial_audio_sampling_rate=8000,
            generator=torch.Generator().manual_seed(1),
        ).audios

    pipe = pipelines.small_pipeline(own)
    expected = sound(pipe)
    pipe.vae = vae
    found = sound(pipe)
    assert found.shape == expected.shape == (4, 2, 3200)
    assert found.dtype == torch.float64
    decibels = signal_to_noise(expected.numpy(), found.numpy())
    print(f"pipeline: {decibels:.1f} dB against diffusers' own in float64")
    assert decibels >= 118
    assert expected.std() > 1e-3


PLAY = """
import json, sys
sys.path.append(sys.argv[4])
import numpy as np, torch
import oobleck_stream as ob
import pipelines
model = ob.load(sys.argv[1])
pipe = pipelines.small_pipeline(ob.torch_vae(model))
pipe.set_progress_bar_config(disable=True)
players = []

def play_the_last(step, timestep, latents):
    if step == 3:
        players.append(ob.Player(latents, model, layout="ct", record=sys.argv[2]))
        players[0].play()

made = pipe("a pad", num_inference_steps=4, callback=play_the_last, audio_end_in_s=0.4,
            generator=torch.Generator().manual_seed(1))
players[0].wait()
players[0].close()
np.save(sys.argv[3], made.audios[0].T.float().numpy())
print(json.dumps(players[0].finished))
"""


@pytest.mark.sound
def test_its_callback_plays_the_last_step(folder, pipelines, sound_server, tmp_path):
    """What is played is what the pipeline then returns, bit for bit."""
    recorded, made = tmp_path / "played.wav", tmp_path / "made.npy"
    # Importing all of transformers and diffusers takes long on a busy machine.
    places = folder, recorded, made, Path(__file__).parent
    done = run_script(sound_server, PLAY, *places, timeout=300)
    assert json.loads(done.stdout) is True
    played, rate = soundfile.read(recorded, dtype="float32")
    expected = np.load(made)
    assert (rate, expected.shape) == (8000, (3200, 2))
    np.testing.assert_array_equal(played[: len(expected)], expected)
    assert np.abs(expected).max() > 0


# The module by itself


def test_what_pipelines_ask_for(torch, own, vae):
    assert isinstance(vae, type(own))
    assert vae.hop_length == own.hop_length == 40
    assert vae.sampling_rate == own.sampling_rate
    mine, theirs = dict(vae.config), dict(own.config)
    assert {name: mine[name] for name in theirs if not name.startswith("_")} == {
        name: value for name, value in theirs.items() if not name.startswith("_")
    }
    assert (vae.device, vae.dtype) == (torch.device("cpu"), torch.float32)
    vae.to(torch.bfloat16)
    assert vae.dtype == torch.bfloat16
    assert vae.to(device="meta").device.type == "meta"
    assert list(vae.parameters()) == []
    assert not vae.eval().requires_grad_(False).training


def test_a_pipeline_moves_it(torch, pipelines, vae):
    pipe = pipelines.small_pipeline(vae)
    pipe.to(torch.float32)
    assert vae.dtype == pipe.dtype == torch.float32
    sound = pipe("a", num_inference_steps=1, output_type="np").audios
    assert sound.dtype == np.float32
    assert np.isfinite(sound).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_decode(torch, own, vae, model, batch):
    latents = latents_of(torch, batch, 8, 40)
    with torch.no_grad():
        expected = own.decode(latents).sample
    found = vae.decode(latents).sample
    assert found.is_contiguous()
    assert found.shape == expected.shape
    assert signal_to_noise(expected.numpy(), found.numpy()) >= 118
    for index in range(batch):
        samples = model.decode(latents[index], layout="ct")
        np.testing.assert_array_equal(found[index].T.numpy(), samples)
    (again,) = vae.decode(latents, return_dict=False)
    vae.enable_slicing()
    vae.enable_tiling()
    vae.tile_latent_min_length, vae.tile_latent_overlap = 16, 2
    for other in (again, vae.decode(latents).sample):
        assert torch.equal(other, found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_results_have_the_dtype_of_the_input(torch, vae, dtype):
    latents = latents_of(torch, 1, 8, 20).to(getattr(torch, dtype))
    sound = vae.decode(latents).sample
    assert sound.dtype == latents.dtype
    assert torch.equal(sound, vae.decode(latents.float()).sample.to(latents.dtype))


def test_square_latents_are_channels_first(torch, own, vae):
    latents = latents_of(torch, 2, 8, 8)
    with torch.no_grad():
        expected = own.decode(latents).sample
    assert signal_to_noise(expected.numpy(), vae.decode(latents).sample.numpy()) >= 118


def test_encode(torch, own, vae):
    audio = 0.3 * latents_of(torch, 2, 2, 1234)
    with torch.no_grad():
        expected = own.encode(audio).latent_dist
    found = vae.encode(audio).latent_dist
    assert type(found) is type(expected)
    for name in ("mean", "std", "var", "logvar", "scale", "parameters"):
        theirs, mine = getattr(expected, name), getattr(found, name)
        assert mine.shape == theirs.shape
        assert signal_to_noise(theirs.numpy(), mine.numpy()) >= 118, name
    drawn = [one.sample(torch.Generator().manual_seed(3)) for one in (expected, found)]
    assert signal_to_noise(drawn[0].numpy(), drawn[1].numpy()) >= 118
    assert torch.equal(found.mode(), found.mean)
    assert found.kl().item() == pytest.approx(expected.kl().item())
    (posterior,) = vae.encode(audio, return_dict=False)
    assert torch.equal(posterior.mean, found.mean)
    with torch.no_grad():
        whole = own(audio).sample
    assert signal_to_noise(whole.numpy(), vae(audio).sample.numpy()) >= 110


def test_a_model_with_a_scale(torch):
    model = model_of(small("stable-audio-open-1.0", latent_scale=-4.0))
    audio = 0.3 * latents_of(torch, 1, 2, 5000)
    found = ob.torch_vae(model).encode(audio).latent_dist
    mean, deviation = model.encode_distribution(audio, pad=False, layout="ct")
    np.testing.assert_allclose(found.mean.transpose(1, 2), mean, rtol=1e-6)
    np.testing.assert_allclose(found.std.transpose(1, 2), deviation, rtol=1e-6)
    np.testing.assert_allclose(found.logvar.transpose(1, 2), 2 * np.log(deviation), rtol=1e-5)


def test_a_model_without_an_encoder(torch):
    model = model_of(small("cosmos3"))
    vae = ob.torch_vae(model)
    latents = random_latents(model.config, 12)
    sound = vae.decode(torch.from_numpy(latents.T[None])).sample
    np.testing.assert_array_equal(sound[0].T.numpy(), model.decode(latents))
    with pytest.raises(ob.CheckpointError, match="can't encode"):
        vae.encode(sound)


def test_bad_latents_are_refused(torch, vae):
    with pytest.raises(ValueError, match=r"\(batch, 8, frames\).*not \(1, 20, 8\)"):
        vae.decode(torch.zeros(1, 20, 8))
    with pytest.raises(ValueError, match="latents of piece 1 must be finite"):
        vae.decode(torch.stack([torch.zeros(8, 20), torch.full((8, 20), torch.nan)]))


def test_gradients_are_refused_where_they_are_asked_for(torch, vae):
    latents = latents_of(torch, 1, 8, 20).requires_grad_()
    sound = vae.decode(latents).sample
    with pytest.raises(NotImplementedError, match="no gradients"):
        sound.sum().backward()
    assert latents.grad is None


def test_it_is_not_saved_without_weights(torch, vae, tmp_path):
    with pytest.raises(NotImplementedError, match="oobleck_stream convert --to diffusers"):
        vae.save_pretrained(tmp_path / "vae")
    assert list(tmp_path.iterdir()) == []


def test_copies_share_the_model(torch, vae):
    other = copy.deepcopy(vae)
    assert other.model is vae.model
    latents = latents_of(torch, 1, 8, 9)
    assert torch.equal(other.decode(latents).sample, vae.decode(latents).sample)


def test_compiled(torch, vae):
    """Torch's compiler leaves the networks alone."""
    latents = latents_of(torch, 1, 8, 9)
    compiled = torch.compile(vae.decode, backend="eager")
    assert torch.equal(compiled(latents).sample, vae.decode(latents).sample)


@pytest.mark.parametrize("missing", ["torch", "diffusers"])
def test_the_hint_when_a_library_is_missing(missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None
import oobleck_stream as ob
try:
    ob.torch_vae(ob.load("tiny"))
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'oobleck_stream[diffusers]'" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' counters")
def test_memory_is_at_most_a_third(torch):
    """At 47 seconds of Stable Audio Open; ``python tests/vae_memory.py`` prints the same."""
    from vae_memory import peaks

    found = peaks()
    assert 3 * found["torch_vae"] <= found["diffusers"]
