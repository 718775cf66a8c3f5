"""Checkpoints with wrong tensors or damaged files: every fault is named, in one line."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    WEIGHT_NORMS,
    model_of_tensors,
    safetensors_bytes,
    with_header,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    random_tensors,
)
from small_checkpoint import (
    CONFIG,
    NAMINGS,
    STABLE_AUDIO,
    TENSORS,
    in_diffusion_model,
    refusal,
    written,
)

import oobleck_stream as ob

# --- tensors that are not as they should be


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("prefix", ["", "pretransform.model."])
def test_every_missing_tensor_is_named(tmp_path, naming, prefix):
    tensors = {prefix + name: values for name, values in NAMINGS[naming](TENSORS).items()}
    for name in tensors:
        rest = {other: tensors[other] for other in tensors if other != name}
        message = refusal(written(tmp_path / "a.safetensors", rest), config=CONFIG)
        assert message.endswith("is missing")
        assert f"{name} (" in message


def test_missing_tensors_are_named_without_a_config(tmp_path):
    for name in ("decoder.layers.0.weight_v", "decoder.layers.4.weight_v"):
        rest = {other: TENSORS[other] for other in TENSORS if other != name}
        assert name.removesuffix("_v") in refusal(written(tmp_path / "a.safetensors", rest))


def test_all_faults_are_named_at_once(tmp_path):
    tensors = dict(TENSORS)
    del tensors["decoder.layers.0.bias"]
    tensors["decoder.layers.3.alpha"] = np.zeros(5, np.float32)
    tensors["decoder.layers.3.beta"] = np.zeros(4, np.int64)
    tensors["decoder.layers.1.layers.1.bias"] = np.zeros((12, 1, 1), np.float32)
    tensors["decoder.layers.4.bias"] = np.zeros(2, np.float32)
    tensors["decoder.something"] = np.zeros(2, np.float32)
    with pytest.raises(ob.CheckpointError) as caught:
        ob.load(written(tmp_path / "a.safetensors", tensors), config=CONFIG)
    assert sorted(caught.value.problems) == [
        "decoder.layers.0.bias (12) is missing",
        "decoder.layers.1.layers.1.bias is 12 x 1 x 1, not 4",
        "decoder.layers.3.alpha is 5, not 4 or 1 x 4 x 1",
        "decoder.layers.3.beta is I64, not F16, BF16, F32, F64",
        "decoder.layers.4.bias is unexpected",
        "decoder.something is unexpected",
    ]


def test_a_long_list_of_faults_is_cut_with_a_count(tmp_path):
    extra = {f"decoder.more.{number}": np.zeros(1, np.float32) for number in range(100)}
    message = refusal(written(tmp_path / "a.safetensors", TENSORS | extra))
    assert "and 94 problems more" in message
    assert len(message) < 500


def test_a_tensor_under_two_namings_is_refused(tmp_path):
    twice = TENSORS | {
        "decoder.layers.0.parametrizations.weight.original0": TENSORS["decoder.layers.0.weight_g"]
    }
    assert "original0 occurs twice" in refusal(written(tmp_path / "a.safetensors", twice))
    twice = TENSORS | {"decoder.layers.0.weight": TENSORS["decoder.layers.0.weight_v"]}
    assert "decoder.layers.0.weight is unexpected" in refusal(
        written(tmp_path / "a.safetensors", twice)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("norm", ["old", "folded"])
def test_values_that_are_not_finite_are_named(tmp_path, norm, value):
    tensors = WEIGHT_NORMS[norm](TENSORS)
    for name in tensors:
        spoilt = tensors[name].copy()
        spoilt.flat[-1] = value
        message = refusal(written(tmp_path / "a.safetensors", tensors | {name: spoilt}))
        assert message.endswith(f": {name} holds values that are not finite")
    spoilt = {name: values * value for name, values in tensors.items()}
    with pytest.raises(ob.CheckpointError) as caught:
        ob.load(written(tmp_path / "a.safetensors", spoilt))
    assert len(caught.value.problems) == len(tensors)


def test_weights_that_fold_to_nothing_finite_are_named(tmp_path):
    for name in ("decoder.layers.0.weight_v", "decoder.layers.1.layers.0.beta"):
        values = TENSORS[name] * 0 if name.endswith("v") else TENSORS[name] - 1e4
        config = CONFIG.replace(snake_epsilon=0.0)
        message = refusal(
            written(tmp_path / "a.safetensors", TENSORS | {name: values}), config=config
        )
        assert name in message
        assert message.endswith("give weights that are not finite")
    big = {name: values * 1e300 for name, values in folded_doubles().items()}
    assert "not finite" in refusal(written(tmp_path / "a.safetensors", big, dtype="F64"))


def folded_doubles():
    return {name: values.astype(float) for name, values in WEIGHT_NORMS["folded"](TENSORS).items()}


# --- damaged files

WHOLE = safetensors_bytes(TENSORS)
HEADER_END = 8 + int.from_bytes(WHOLE[:8], "little")


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    ends = {*range(0, 40), *range(0, len(WHOLE), len(WHOLE) // 200), len(WHOLE) - 1}
    for end in ends | {HEADER_END - 1, HEADER_END, HEADER_END + 1}:
        file.write_bytes(WHOLE[:end])
        assert str(file) in refusal(file), end
    file.write_bytes(WHOLE + b"\0")
    assert "after the last tensor" in refusal(file)
    file.write_bytes(WHOLE[:-4])
    assert "cut short" in refusal(file)


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


LIES = {
    "an endless header": (2**63).to_bytes(8, "little") + b"{}",
    "a header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "not JSON": with_header(b"{a}"),
    "not UTF-8": with_header(b'{"\xff": 1}'),
    "a list": with_header([1, 2]),
    "a deep nest": with_header(b"[" * 200_000),
    "a long number": with_header(b'{"a": ' + b"9" * 10_000 + b"}"),
    "the same name twice": with_header(
        f'{{"a": {json.dumps(entry())}, "a": {json.dumps(entry())}}}'.encode(), bytes(8)
    ),
    "no tensors": with_header({}),
    "a tensor that is no object": with_header({"a": 3}),
    "no shape": with_header({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "a negative shape": with_header({"a": entry([-2])}, bytes(8)),
    "a shape of twice less than nothing": with_header({"a": entry([-2, -1])}, bytes(8)),
    "a shape of texts": with_header({"a": entry(["2"])}, bytes(8)),
    "a shape of truths": with_header({"a": entry([True, 2])}, bytes(8)),
    "a huge shape": with_header({"a": entry([2**62, 2**62])}, bytes(8)),
    "endless dimensions": with_header({"a": entry([1] * 100_000)}, bytes(8)),
    "a dtype that is no text": with_header({"a": entry(dtype=4)}, bytes(8)),
    "reversed offsets": with_header({"a": entry([0], 8, 0)}, bytes(8)),
    "three offsets": with_header({"a": {**entry(), "data_offsets": [0, 8, 8]}}, bytes(8)),
    "an overlap": with_header({"a": entry(), "b": entry((2,), 4, 12)}, bytes(12)),
    "a hole": with_header({"a": entry(), "b": entry((2,), 12, 20)}, bytes(20)),
    "beyond the end": with_header({"a": entry((4,), 0, 16)}, bytes(8)),
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "a pickle": b"PK\x03\x04" + bytes(200),
    "garbage": bytes(range(256)) * 20,
    "web page": b"<!DOCTYPE html><html><body>Not found</body></html>",
}


@pytest.mark.parametrize("lie", LIES)
def test_inconsistent_headers_are_refused(tmp_path, lie):
    file = tmp_path / "a.safetensors"
    file.write_bytes(LIES[lie])
    tracemalloc.start()
    message = refusal(file)
    assert tracemalloc.get_traced_memory()[1] < 100_000 + 20 * len(LIES[lie])
    tracemalloc.stop()
    assert str(file) in message
    assert ("no Oobleck decoder" in message) == (lie == "no tensors")


@settings(max_examples=300)
@given(st.data())
def test_mutated_files_load_or_are_refused(tmp_path, data):
    mutated = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        # Most of the meaning is in the header.
        last = data.draw(st.sampled_from([7, HEADER_END - 1, HEADER_END - 1, len(WHOLE) - 1]))
        place = data.draw(st.integers(0, min(last, len(mutated) - 1)))
        piece = data.draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from(
                    [b"0", b"-1", b"99999999", b"null", b"F16", b"}", b'"', b"[", b"]"]
                ),
            )
        )
        removed = data.draw(st.integers(0, 4))
        mutated[place : place + removed] = piece
    file = tmp_path / "a.safetensors"
    file.write_bytes(mutated)
    with contextlib.suppress(ob.CheckpointError):
        assert np.isfinite(ob.load(file).decoder.data).all()


@settings(max_examples=200)
@given(st.data())
def test_mutated_configs_load_or_are_refused(tmp_path, data):
    file = written(tmp_path / "a.safetensors")
    text = bytearray(json.dumps(in_diffusion_model(STABLE_AUDIO, scale=2.0)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        removed = data.draw(st.integers(0, 5))
        text[place : place + removed] = data.draw(
            st.one_of(
                st.binary(max_size=2), st.sampled_from([b"9" * 400, b"1e400", b"null", b"{}"])
            )
        )
    (tmp_path / "model_config.json").write_bytes(text)
    with contextlib.suppress(ob.CheckpointError):
        assert np.isfinite(ob.load(file).decoder.data).all()


# --- memory


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_huge_checkpoint_costs_no_more_than_its_decoder(tmp_path):
    config = CONFIG.replace(channels=64, multiples=(2, 8), strides=(4, 8))
    tensors = random_tensors(config)
    wanted = model_of_tensors(config, tensors)
    others = 12 * 2**30
    file = tmp_path / "a.safetensors"
    mine = {f"pretransform.model.{name}": values for name, values in tensors.items()}
    small = safetensors_bytes(mine)
    end = 8 + int.from_bytes(small[:8], "little")
    header = json.loads(small[8:end])
    for tensor in header.values():
        tensor["data_offsets"] = [others + offset for offset in tensor["data_offsets"]]
    header["model.model.transformer"] = entry((others // 4,), 0, others)
    start = with_header(header)
    with file.open("wb") as stream:
        stream.write(start)
        stream.seek(others, 1)
        stream.write(small[end:])
    before = resident_bytes()
    tracemalloc.start()
    model = ob.load(file, config=config)
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(model.decoder.data, wanted.decoder.data)
    size = model.decoder.data.nbytes
    assert size > 4 * 2**20
    assert allocated < 2 * size + 2**20
    assert resident_bytes() - before < 4 * size + 16 * 2**20
