"""Arrays of other libraries, any dtype, any order of the axes: the same bits as NumPy's float32."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from networks import model_of, random_audio, random_latents, small

import oobleck_stream as ob
from oobleck_stream.arrays import as_array
from oobleck_stream.player.tracks import tracks_of
from oobleck_stream.warning import warn_once

CONFIG = small("stable-audio-open-1.0")
MODEL = model_of(CONFIG)
LATENTS = random_latents(CONFIG, 20)
BATCH = np.stack([LATENTS, LATENTS[::-1], -LATENTS])
SOUND = np.stack([MODEL.decode(latents) for latents in BATCH])
AUDIO = random_audio(CONFIG, 3000)
DTYPES = ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "int64", "uint8", "bool"]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _fresh_warnings():
    warn_once.cache_clear()


def run(decoder, *pieces):
    return np.concatenate([*map(decoder.push, pieces), decoder.flush()])


# Torch


@pytest.mark.peers
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_of_any_dtype(torch, dtype):
    tensor = (3 * torch.from_numpy(LATENTS)).abs().to(getattr(torch, dtype))
    expected = MODEL.decode(tensor.float().numpy())
    np.testing.assert_array_equal(MODEL.decode(tensor), expected)
    sound = run(ob.StreamingDecoder(MODEL), tensor[:9], tensor[9], tensor[10:])
    np.testing.assert_array_equal(sound, expected)
    streams = ob.MultiStreamDecoder(MODEL, 2)
    chunks = streams.push(torch.stack([tensor, tensor]))
    np.testing.assert_array_equal(np.concatenate([chunks[1], streams.flush()[1]]), expected)


@pytest.mark.peers
def test_torch_that_numpy_refuses(torch):
    tensor = torch.from_numpy(LATENTS)
    parameter = torch.nn.Parameter(tensor.clone())
    assert parameter.requires_grad
    negated = torch.complex(torch.zeros_like(tensor), tensor).conj().imag
    assert negated.is_neg()
    transposed = tensor.T.contiguous().T
    for form in (parameter, parameter.bfloat16().float(), -negated, transposed, list(parameter)):
        sound = MODEL.decode(form)
        np.testing.assert_array_equal(sound, MODEL.decode(np.stack([as_array(x) for x in form])))
    np.testing.assert_array_equal(run(ob.StreamingDecoder(MODEL), *parameter), SOUND[0])


@pytest.mark.peers
def test_torch_audio(torch):
    tensor = torch.from_numpy(AUDIO).requires_grad_()
    expected = MODEL.encode(AUDIO)
    np.testing.assert_array_equal(MODEL.encode(tensor), expected)
    encoder = ob.StreamingEncoder(MODEL)
    np.testing.assert_array_equal(run(encoder, tensor[:500], tensor[500:]), expected)
    half = tensor.bfloat16()
    np.testing.assert_array_equal(MODEL.encode(half), MODEL.encode(half.float()))
    for mine, theirs in zip(
        MODEL.encode_distribution(tensor.T[None], layout="ct"),
        MODEL.encode_distribution(AUDIO),
        strict=True,
    ):
        np.testing.assert_array_equal(mine[0], theirs)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda torch: torch.zeros(2, 64, device="meta"), "torch.Tensor can't be converted.*meta"),
        (lambda torch: torch.zeros(2, 64, dtype=torch.complex64), "real numbers, not complex64"),
        (lambda torch: torch.zeros(2, 64, dtype=torch.complex32), "can't be converted"),
        (lambda torch: torch.zeros(2, 64).to_sparse(), "can't be converted.*[Ss]parse"),
        (lambda torch: torch.full((2, 64), float("nan")), "frame 5"),
        (lambda torch: torch.full((2, 64), 1e39, dtype=torch.float64), "frame 5"),
        (lambda torch: torch.zeros(2, 63), r"\(frames, 64\).*\(2, 63\)"),
    ],
)
def test_bad_tensors_change_nothing(torch, make, words):
    decoder = ob.StreamingDecoder(MODEL)
    decoder.push(LATENTS[:5])
    with pytest.raises(ValueError, match=words):
        decoder.push(make(torch))
    assert decoder.frames_in == 5
    sound = decoder.push(LATENTS[5:])
    np.testing.assert_array_equal(sound, SOUND[0][: len(sound)])


def test_torch_is_not_imported():
    code = """
import sys, numpy as np, oobleck_stream as ob
model = ob.load("tiny")
model.decode(ob.piece("keys")[:20].T[None])
ob.StreamingDecoder(model).push([[0.0] * 24])
assert not {"torch", "diffusers", "ml_dtypes"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


# Other libraries


class Exported:
    """An array that gives its memory away by DLPack, after a copy if it is on another device."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device, self.copied = array, device, 0

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if self.device[0] != 1:
            if dl_device != (1, 0):
                raise BufferError("on another device")
            self.copied += 1
        return self.array.__dlpack__()


class Guarded(Exported):
    """The same, and it refuses implicit conversions, as CuPy does."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


@pytest.mark.parametrize("kind", [Exported, Guarded])
def test_dlpack(kind):
    for dtype in (np.float32, np.float64, np.float16, np.int8):
        expected = MODEL.decode(LATENTS.astype(dtype))
        np.testing.assert_array_equal(MODEL.decode(kind(LATENTS.astype(dtype))), expected)
    decoder = ob.StreamingDecoder(MODEL)
    np.testing.assert_array_equal(run(decoder, *map(kind, LATENTS.copy())), SOUND[0])
    np.testing.assert_array_equal(MODEL.encode(kind(AUDIO)), MODEL.encode(AUDIO))


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy from 2.1 on")
@pytest.mark.parametrize("kind", [Exported, Guarded])
def test_dlpack_from_another_device(kind):
    there = kind(LATENTS.copy(), device=(2, 0))
    np.testing.assert_array_equal(MODEL.decode(there), SOUND[0])
    assert there.copied == 1


def test_what_can_not_be_converted():
    class Refusing(Exported):
        def __dlpack__(self, **options):
            raise BufferError("this memory is private")

    with pytest.raises(ValueError, match=r"Refusing can't be converted.*memory is private"):
        MODEL.decode(Refusing(LATENTS))


def test_dtypes_of_jax():
    """Those of ml_dtypes, which JAX and TensorFlow have."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4):
        rounded = LATENTS.astype(dtype)
        expected = MODEL.decode(rounded.astype(np.float32))
        np.testing.assert_array_equal(MODEL.decode(rounded), expected)
    with pytest.raises(ValueError, match="real numbers, not"):
        MODEL.decode(np.zeros((2, 64), "V2"))
    with pytest.raises(ValueError, match="real numbers, not"):
        MODEL.decode(np.zeros((2, 64), [("a", "f4")]))


def test_dataframes():
    pandas = pytest.importorskip("pandas")
    np.testing.assert_array_equal(MODEL.decode(pandas.DataFrame(LATENTS)), SOUND[0])


# The order of the axes


def test_channels_first():
    """Read so if only that fits, and said once."""
    for latents, expected, axes in (
        (BATCH.swapaxes(1, 2), SOUND, "(batch, 64, frames)"),
        (BATCH[:1].swapaxes(1, 2), SOUND[:1], "(batch, 64, frames)"),
        (LATENTS.T, SOUND[0], "(64, frames)"),
    ):
        warn_once.cache_clear()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(MODEL.decode(latents), expected)
            MODEL.decode(latents[..., :7])
        (only,) = told
        assert f"latents were read as {axes}, channels first" in str(only.message)
        assert "layout='ct'" in str(only.message)
        assert only.filename == __file__


def test_channels_first_of_audio():
    expected = MODEL.encode(AUDIO)
    with pytest.warns(RuntimeWarning, match=r"audio was read as \(2, samples\)"):
        np.testing.assert_array_equal(MODEL.encode(AUDIO.T), expected)
    with pytest.warns(RuntimeWarning, match=r"audio was read as \(batch, 2, samples\)"):
        np.testing.assert_array_equal(MODEL.encode(np.stack([AUDIO.T] * 2)), [expected] * 2)


def test_the_order_that_is_asked_for_is_silent():
    square = random_latents(CONFIG, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for layout, latents in (("tc", square), ("ct", square.T)):
            for form in (latents, latents[None], np.stack([latents] * 2)):
                sound = MODEL.decode(form, layout=layout)
                expected = MODEL.decode(square)
                np.testing.assert_array_equal(sound, np.broadcast_to(expected, sound.shape))
                assert sound.shape == (*form.shape[:-2], len(expected), 2)
        np.testing.assert_array_equal(MODEL.decode(BATCH), SOUND)
        np.testing.assert_array_equal(MODEL.decode(square), MODEL.decode(square, layout="tc"))
        mono = ob.random_model(CONFIG.replace(audio_channels=1))
        voice = AUDIO[:, :1]
        np.testing.assert_array_equal(mono.encode(voice[:, 0]), mono.encode(voice))
        np.testing.assert_array_equal(mono.encode(voice.T, layout="ct"), mono.encode(voice))
        assert mono.encode(np.zeros((2, 1, 1))).shape == (2, 1, 64)


def test_a_doubtful_order_is_refused_with_both_readings():
    latents = random_latents(CONFIG, 64)[None]
    with pytest.raises(ValueError, match="may be") as refused:
        MODEL.decode(latents)
    for words in ("(1, 64, 64)", "(batch, frames, 64)", "(batch, 64, frames)",
                  "layout='tc'", "layout='ct'"):  # fmt: skip
        assert words in str(refused.value)
    with pytest.raises(ValueError, match=r"audio of shape \(3, 2, 2\) may be .*layout='ct'"):
        MODEL.encode(np.zeros((3, 2, 2)))


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((3, 5), None, "(frames, 64), (64, frames), (64,) for one frame, (batch, frames, 64)"),
        ((64, 5), "tc", "(frames, 64)"),
        ((2, 5, 64), "ct", "(64, frames)"),
        ((1, 1, 5, 64), None, "(batch, 64, frames)"),
        ((), None, "(batch, 64, frames)"),
        ((63,), None, "(64,) for one frame"),
        ((2, 64), "time", "layout must be 'tc'"),
        ((2, 64), ["tc"], "layout must be 'tc'"),
    ],
)
def test_shapes_that_do_not_fit(shape, layout, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        MODEL.decode(np.zeros(shape), layout=layout)


def test_a_push_says_how_to_push_channels_first():
    decoder = ob.StreamingDecoder(MODEL)
    for shape, advice in (
        ((64, 20), "push latents.T"),
        ((1, 64, 20), "push latents[0].T"),
        ((1, 20, 64), "push latents[0]"),
    ):
        with pytest.raises(ValueError, match=f"{re.escape(advice)}$"):
            decoder.push(np.zeros(shape))
    with pytest.raises(ValueError, match=r"push audio.T$"):
        ob.StreamingEncoder(MODEL).push(AUDIO.T)


# Batches


def test_batches():
    np.testing.assert_array_equal(MODEL.decode(BATCH.tolist()), SOUND)
    out = np.zeros_like(SOUND)
    assert MODEL.decode(BATCH, out=out) is out
    np.testing.assert_array_equal(out, SOUND)
    with pytest.raises(ValueError, match=r"out must be .*\(3, 40960, 2\)"):
        MODEL.decode(BATCH, out=out[0])
    assert MODEL.decode(BATCH[:0]).shape == (0, *SOUND.shape[1:])
    assert MODEL.decode(BATCH[:, :0]).shape == (3, 0, 2)


@pytest.mark.parametrize("pad", [True, False])
def test_encoded_batches(pad):
    audio = np.stack([AUDIO, AUDIO[::-1]])
    expected = [MODEL.encode(piece, pad=pad) for piece in audio]
    np.testing.assert_array_equal(MODEL.encode(audio, pad=pad), expected)
    means, deviations = MODEL.encode_distribution(audio, pad=pad)
    np.testing.assert_array_equal(means, expected)
    np.testing.assert_array_equal(deviations[1], MODEL.encode_distribution(audio[1], pad=pad)[1])
    drawn = MODEL.encode(np.stack([AUDIO, AUDIO]), pad=pad, sample=True, seed=1)
    np.testing.assert_array_equal(drawn[0], MODEL.encode(AUDIO, pad=pad, sample=True, seed=1))
    assert not np.array_equal(drawn[0], drawn[1])


def test_errors_name_the_piece():
    latents, out = BATCH.copy(), np.full_like(SOUND, 7)
    latents[2, 4, 3] = np.inf
    with pytest.raises(ValueError, match="latents of piece 2 must be finite as float32: frame 4"):
        MODEL.decode(latents, out=out)
    assert (out == 7).all()


def test_overflows_name_the_piece():
    latents = np.stack([ob.piece("keys")[:100].astype(np.float32)] * 3)
    latents[1, 50] = 3e38
    tiny = ob.load("tiny")
    with pytest.raises(ob.NonFiniteError, match=r"^piece 1: the samples of frame 35") as stopped:
        tiny.decode(latents)
    first, part = stopped.value.output
    np.testing.assert_array_equal(first, tiny.decode(latents[0]))
    assert stopped.value.frames == {1: len(part) // tiny.hop}
    assert np.isfinite(part).all()
    audio = np.stack([AUDIO] * 3)
    audio[1, 1500] = 3e38
    with pytest.raises(ob.NonFiniteError, match=r"^piece 1: latent frame (\d+)") as stopped:
        tiny.encode(audio)
    first, part = stopped.value.output
    np.testing.assert_array_equal(first, tiny.encode(AUDIO))
    assert stopped.value.frames == {1: len(part)}
    with pytest.raises(ob.NonFiniteError) as stopped:
        tiny.encode_distribution(audio)
    means, deviations = stopped.value.output
    np.testing.assert_array_equal(means[1], part)
    np.testing.assert_array_equal(deviations[0], tiny.encode_distribution(AUDIO)[1])
    assert len(deviations[1]) == len(part)


# Playing


def sound_of(track, decoder):
    return np.concatenate(list(track.samples(decoder, 0)))


def test_a_player_takes_what_decode_takes():
    decoder = ob.StreamingDecoder(MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source in (BATCH, BATCH.swapaxes(1, 2), list(BATCH), [BATCH[:1], BATCH[1:]]):
            tracks = tracks_of(source, MODEL)
            sounds = [sound_of(track, decoder) for track in tracks]
            np.testing.assert_array_equal(sounds, SOUND)
        (track,) = tracks_of(Exported(LATENTS), MODEL)
        np.testing.assert_array_equal(sound_of(track, decoder), SOUND[0])
    (track,) = tracks_of(random_latents(CONFIG, 64).T, MODEL, layout="ct")
    expected = MODEL.decode(random_latents(CONFIG, 64))
    np.testing.assert_array_equal(sound_of(track, decoder), expected)
