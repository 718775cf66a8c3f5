"""Files that once ended otherwise than in one line, or in memory beyond their size."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import pytest
from checkpoint_files import with_header
from fuzz_files import CHECKPOINTS, CONFIG, DOCUMENT, LATENT_FILES
from fuzzing import load_and_use, outcome, read_all, read_pipe

OWN = CHECKPOINTS["own config"]


def fields(name, text, config=CONFIG):
    """A config's fields as JSON, one of them replaced by a text."""
    return json.dumps(dataclasses.asdict(config) | {name: "?"}).replace('"?"', text)


def own(name, text):
    config = f'{{"oobleck_stream": {fields(name, text, DOCUMENT)}}}'
    return {**OWN, "config.json": config.encode()}


def packed(**metadata):
    data = CHECKPOINTS["packed"]["a.packed.safetensors"]
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] |= metadata
    return {"a.packed.safetensors": with_header(header, data[end:])}


FOUND_CHECKPOINTS = {
    "packed with an endless dilation": packed(config=fields("dilations", "[1e999, 1, 1]")),
    "packed with a huge dilation": packed(config=fields("dilations", f"[1, 3, {2**62}]")),
    "packed with a scale beyond floats": packed(config=fields("latent_scale", "9" * 400)),
    "packed with a kernel of 7.5": packed(config=fields("kernel", "7.5")),
    "packed with a list for a truth": packed(config=fields("final_tanh", "[]")),
    "packed with a nest for a config": packed(config="[" * 9000),
    "packed with a nest for notes": packed(notes="[" * 9000),
    "packed with no list of notes": packed(notes='{"a": 1}'),
    "a window beyond all memory": own("dilations", f"[{10**9}, 1, 1]"),
    "a window beyond all numbers": own("dilations", f"[{2**62}, 1, 1]"),
    "thousands of units": own("dilations", str([1] * 5000)),
    "thousands of levels": own("strides", str([1] * 5000)),
}


def use(tmp_path, files, read):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return outcome(lambda folder, most: read(folder, most, 0), tmp_path)


@pytest.mark.parametrize("name", FOUND_CHECKPOINTS)
def test_checkpoints(tmp_path, name):
    assert use(tmp_path, FOUND_CHECKPOINTS[name], load_and_use) == "refused"


def npy(shape="(7, 3)", descr="'<f4'", more="", start=b"\x01\0", length=None):
    """An `.npy` file whose header says what it likes."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}{more}}}\n".encode()
    width = 2 if start[0] == 1 else 4
    count = (len(text) if length is None else length).to_bytes(width, "little")
    return b"\x93NUMPY" + start + count + text + LATENT_FILES["a.npy"][-84:]


FOUND_NPY = {
    "a header of four gigabytes": npy(start=b"\x02\0", length=2**32 - 1),
    "a header that never ends": npy("(("),
    "a header with a name that is none": npy(more=", 0: 1"),
    "a header with a name that is a list": npy(more=", []: 1"),
    "a header of parentheses": npy("(" * 4000 + ")" * 4000),
    "dimensions below nothing": npy("(-7, -3)"),
    "truths for dimensions": npy("(True, 21)"),
    "none of more than can be counted": npy(f"(0, {2**63})"),
    "a hundred dimensions": npy(f"({'1, ' * 97}1, 7, 3)"),
    "a version of its own": npy(start=b"\x01\x07"),
}


@pytest.mark.parametrize("read", [read_all, read_pipe])
@pytest.mark.parametrize("name", FOUND_NPY)
def test_npy(tmp_path, name, read):
    assert use(tmp_path, {"a.npy": FOUND_NPY[name]}, read) == "refused"


def npz(method=zipfile.ZIP_STORED, **members):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


FOUND_NPZ = {
    "a shape beyond all memory": npz(latents=npy(f"({2**40}, 3)")),
    "names of several lines": npz(**{"a\nb.npy": npy(), "\x1b[31m": npy()}),
    "a way to compress that NumPy has not": npz(zipfile.ZIP_LZMA, latents=npy()),
    "a password": npz(latents=npy()).replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
    "numbers cut off": npz(latents=npy("(8, 3)")),
}


@pytest.mark.parametrize("name", FOUND_NPZ)
def test_npz(tmp_path, name):
    assert use(tmp_path, {"a.npz": FOUND_NPZ[name]}, read_all) == "refused"


def test_the_stored_model_of_latents_is_read(tmp_path):
    """Else the faults above would be refused for nothing."""
    for number, files in enumerate(
        (packed(config=fields("kernel", "7")), own("samplerate", "8000"))
    ):
        (tmp_path / str(number)).mkdir()
        assert use(tmp_path / str(number), files, load_and_use) == "loaded"
    for name, data in {"a.npy": npy(), "a.npz": npz(zipfile.ZIP_DEFLATED, latents=npy())}.items():
        (tmp_path / name).mkdir()
        assert use(tmp_path / name, {name: data}, read_all) == "loaded"
