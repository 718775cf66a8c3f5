"""Real files, changed by Hypothesis: their bytes anywhere, and what their formats mean."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import PurePath

from hypothesis import strategies as st

from oobleck_stream.checkpoints.weights_pb2 import CollectionLibraryData

NUMBERS = [0, 1, 2, 3, -1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
JSON_VALUES = [
    *map(str, NUMBERS),
    *("null", "true", "false", "-0", "1.5", "2.0", "1e999", "-1e30", "NaN", "Infinity", "-2"),
    *("9" * 300, "9" * 4000, "9" * 5000, "1" + "0" * 9, "1" + "0" * 18, "33", "1025"),
    *('""', '"x"', '"2"', '"F64"', '"BF16"', '"I64"', '"F8_E5M2"', '"\\ud800\\n"', '"\\u0000"'),
    *(
        '"../a"',
        '"oobleck"',
        '"s-1"',
        '"(k-1)//2"',
        '"ceil(s/2)"',
        '"\\u001b[31m' + "x" * 400 + '"',
    ),
    *("[]", "{}", "[1]", "[0, 0]", "[1, [2]]", "[1, 1, 1]", '{"type": "x"}', "[null]", "[1e999]"),
    *(f"[{', '.join(['1'] * 999)}]", f"[{2**62}, {2**62}]", "[" * 9000, "[" * 900 + "]" * 900),
]
PYTHON_VALUES = [
    *("(2, 3)", "()", "(0,)", f"(0, {2**63})", f"({2**62}, {2**62})", "(-7, -3)", "(-21,)", "(3)"),
    *("(True, 21)", "(7.0, 3)", f"({2**31},)", "(1, 7, 3)", f"({'1, ' * 99})", "[7, 3]", "(99, 3)"),
    *(
        "'<f4'",
        "'|O'",
        "'<f2'",
        "'>f8'",
        "'<c8'",
        "'<i1'",
        "'|b1'",
        "'V4'",
        "'<U9'",
        "'<f16'",
        "''",
    ),
    *("'M8[s]'", "'f4,f4'", "[('a', '<f4')]", "[('a', '|O')]", "('<f4', (3,))", "[()]", "'3f4'"),
    *("True", "None", "0", "1e999", "{}", "{[]: 1}", "b'x'", "x", "1/0", "'", "(", "\0", "\n\n  a"),
    *("(" * 90 + ")" * 90, "-" * 5000 + "1", "9" * 5000, "'" + "x" * 20_000 + "'", "{" * 300),
]
TOKENS = [
    *(number.to_bytes(8, "little", signed=number < 0) for number in NUMBERS),
    *((number % 2**32).to_bytes(4, "little") for number in NUMBERS),
    *(b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\x80\x80\x01"),
    *(b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"-1", b"0", b"9" * 20, b"null", b"F16", b"{}"),
    *(b"}", b'"', b"[", b"]", b",", b"\\", b"\n", b" ", b"\xff", b"PK\x05\x06", b"\x93NUMPY"),
]


class Files(dict):
    """Files by name, told by their sizes: what is in them lies in the folder of the case."""

    def __repr__(self):
        return ", ".join(f"{name} ({len(data)} bytes)" for name, data in self.items())


def mutations(files, others):
    """Draws some files with one to three things in them changed.

    Hypothesis draws only the seed: what it would draw itself is the same too often.

    Parameters
    ----------
    files : dict of str to bytes
        By name; what a name ends in tells the format.
    others : list of bytes
        Other files, of which parts may be spliced in.
    """
    randoms = st.randoms(use_true_random=True)
    return randoms.map(lambda random: _mutated(random, files, others))


def _mutated(random, files, others):
    changed, names = Files(files), sorted(files)
    what = random.choice(["meaning"] * 4 + ["bytes"] * 2 + ["both"])
    if what != "bytes":
        name = random.choice(names)
        changed[name] = FORMATS[PurePath(name).suffix](random, changed[name])
    for _ in range(random.choice([1, 1, 2]) if what != "meaning" else 0):
        name = random.choice(names)
        changed[name] = _bytes(random, changed[name], others)
    if len(names) > 1 and random.randint(0, 29) == 0:
        changed[random.choice(names)] = files[random.choice(names)]
    if len(names) > 1 and random.randint(0, 29) == 0:
        del changed[random.choice(names)]
    return changed


def _bytes(random, data, others):
    """Bytes changed, put in, taken out, doubled, cut off, added or exchanged."""
    place = random.randint(0, min(random.choice([9, 99, 2000, len(data)]), len(data)))
    length = random.choice([random.randint(0, 12), 64, 1000])
    head, piece, tail = data[:place], data[place : place + length], data[place + length :]
    change = random.choice(["put", "token", "flip", "double", "cut", "extend", "splice"])
    if change == "put":
        return head + random.randbytes(random.randint(0, 4)) + tail
    if change == "token":
        token = random.choice(TOKENS)
        return head + token + data[place + random.choice([0, len(token)]) :]
    if change == "flip":
        flipped = bytes(byte ^ (1 << random.randint(0, 7)) for byte in piece[:2])
        return head + flipped + data[place + len(flipped) :]
    if change == "double":
        return head + piece * random.randint(2, 9) + tail
    if change == "cut":
        return random.choice([head, piece + tail, head + tail])
    if change == "extend":
        return data + random.randbytes(random.randint(0, 8)) * random.choice([1, 99])
    other = random.choice(others)
    start = random.randint(0, len(other))
    return random.choice([head + other[start:], head + other[start : start + length] + tail])


def _json(random, data):
    return _value(random, json.loads(data)).encode()


def _value(random, value):
    """The text of a JSON value in which one thing is another."""
    if isinstance(value, str) and value.startswith("{") and random.randint(0, 9):
        return json.dumps(_value(random, json.loads(value)))
    if type(value) is int and random.randint(0, 3):
        near = [value + 1, value - 1, -value, 2 * value, float(value)]
        return str(random.choice(random.choice([near, NUMBERS, [10**6, 10**7, 10**8, 10**9]])))
    children = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        children = list(range(len(value)))
    if not children or random.randint(0, 19) == 0:
        return random.choice(JSON_VALUES)
    if "__metadata__" in children and random.randint(0, 1):
        children = ["__metadata__"]
    child = random.choice(children)
    change = random.choice(["inside"] * 17 + ["drop", "double", "rename"])
    parts = []
    for name in value if isinstance(value, dict) else range(len(value)):
        text = json.dumps(value[name])
        key = f"{json.dumps(name)}: " if isinstance(value, dict) else ""
        if name != child:
            parts.append(key + text)
        elif change == "inside":
            parts.append(key + _value(random, value[name]))
        elif change == "double":
            parts += [key + text, key + random.choice([text, *JSON_VALUES])]
        elif change == "rename":
            new = json.dumps(str(random.choice([*children, "x", "", "a\n\x1b"])))
            parts.append(f"{new}: {text}" if key else text[1:-1] or "1")
    joined = ", ".join(parts)
    return f"{{{joined}}}" if isinstance(value, dict) else f"[{joined}]"


def _safetensors(random, data):
    """A header that says something else, and perhaps another length of it."""
    end = 8 + int.from_bytes(data[:8], "little")
    text = _json(random, data[8:end])
    if random.randint(0, 1):
        text += b" " * (-(8 + len(text)) % 8)
    length = len(text)
    if random.randint(0, 9) == 0:
        length = random.choice([*NUMBERS, length - 1, length + 1]) % 2**64
    return length.to_bytes(8, "little") + text + data[end:]


def _npy(random, data):
    """Another header before the same numbers."""
    end = 10 + int.from_bytes(data[8:10], "little")
    fields = {"'descr'": "'<f4'", "'fortran_order'": "False", "'shape'": "(7, 3)"}
    for name in random.sample(sorted(fields), random.randint(0, 2)):
        fields[name] = random.choice(PYTHON_VALUES)
    if random.randint(0, 9) == 0:
        fields[random.choice(["'x'", "0", "'shape' "])] = "1"
    if random.randint(0, 9) == 0:
        del fields[random.choice(sorted(fields))]
    text = "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"
    if random.randint(0, 9) == 0:
        text = random.choice(PYTHON_VALUES)
    major = random.choice([1, 1, 1, 2, 3, 4, 0, 255])
    header = text.encode() + b" " * (random.randint(0, 63)) + b"\n"
    width = 2 if major == 1 else 4
    length = len(header)
    if random.randint(0, 9) == 0:
        length = random.choice(NUMBERS)
    length %= 2 ** (8 * width)
    return b"\x93NUMPY" + bytes([major, 0]) + length.to_bytes(width, "little") + header + data[end:]


def _npz(random, data):
    """An archive of changed arrays, packed and named in another way."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    made, method = io.BytesIO(), random.choice([0, 8, 12, 14])
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", method) as archive:
        warnings.simplefilter("ignore")  # A name may stand there twice.
        for name, member in members.items():
            name = random.choice([name, name, name, "x.npy", "x", "a\nb.npy", "../a.npy"])
            content = _npy(random, member) if random.randint(0, 3) else member
            for _ in range(random.choice([1, 1, 1, 1, 2, 0])):
                archive.writestr(name, content)
    changed = bytearray(made.getvalue())
    place = changed.rfind(b"PK\1\2")
    if place >= 0 and random.randint(0, 3) == 0:
        # The directory's checksum, compressed size, size, or place of the member.
        field = place + random.choice([16, 20, 24, 42])
        near = [int.from_bytes(changed[field : field + 4], "little") + n for n in (-4, -1, 1, 4)]
        changed[field : field + 4] = (random.choice([*NUMBERS, *near]) % 2**32).to_bytes(
            4, "little"
        )
    return bytes(changed)


def _flat(random, data):
    """Another count before the same numbers."""
    return (random.choice(NUMBERS) % 2**32).to_bytes(4, "little") + data[4:]


def _protobuf(random, data):
    """A library whose tensors are of other shapes, numbers and names."""
    library = CollectionLibraryData.FromString(data)
    entry = random.choice(list(library.collections))
    tensor, dims = entry.collection, entry.collection.traversal_policy.dims
    numbers = tensor.data or tensor.data_32
    change = random.randint(0, 9)
    size = random.choice([*NUMBERS[:8], -(2**31), 46341, 12])
    if change <= 2 and dims:
        dims[random.randint(0, len(dims) - 1)] = size
    elif change == 3:
        dims.extend([size] * random.choice([1, 2, 40]))
    elif change == 4:
        del dims[random.randint(0, 2) :]
    elif change == 5:
        numbers.extend([random.choice([0.0, float("nan"), 1e300])] * random.randint(1, 9))
    elif change == 6:
        del numbers[random.choice([0, 1, -1]) :]
    elif change == 7:
        entry.key = random.choice(["", "x", "a\n\x1b", library.collections[0].key])
    elif change == 8:
        library.collections.add().CopyFrom(entry)
    else:
        library.collections.remove(entry)
    return library.SerializeToString()


FORMATS = {
    ".safetensors": _safetensors,
    ".json": _json,
    ".npy": _npy,
    ".npz": _npz,
    ".bin": _flat,
    ".pb": _protobuf,
}
