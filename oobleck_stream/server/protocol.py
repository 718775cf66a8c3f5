"""The messages of ``WS /v1/session``, subprotocol ``oobleck.1``: pure functions without I/O.

Text messages are JSON objects with a ``type``. Binary messages begin with a little-endian header of
16 bytes, so that the values after the header are aligned:

    u8 kind | u8 dtype | u16 zero | u32 count | u64 first

``first`` is the index of the first frame or sample, counted from the beginning of the session.
``server/page/help.html`` describes every message for authors of clients.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import first_not_finite
from oobleck_stream.server.encoding import WIDTHS, sample_bytes

SUBPROTOCOL = "oobleck.1"

MAX_MESSAGE = 1 << 20
"""Maximum bytes of a binary message."""

MAX_TEXT = 1 << 14
"""Maximum characters of a text message."""

MIN_AHEAD, MAX_AHEAD = 0.05, 5.0
"""The smallest and the largest value of ``ahead``, with which a client asks how many seconds of
sound are decoded beyond what it has heard."""

MAX_NUMBER = 2**53 - 1
"""The largest index of a frame or sample. JavaScript represents integers exactly up to here."""

HEADER = struct.Struct("<BBHIQ")
FRAMES, SAMPLES, DECODED = 1, 2, 3
"""Kinds of binary messages. A client sends latent frames. The server sends samples, and on request
the frames that it has decoded."""

FLOAT32, INT16, FLOAT16 = 0, 1, 2
DTYPES: dict[int, np.dtype[Any]] = {
    FLOAT32: np.dtype("<f4"),
    INT16: np.dtype("<i2"),
    FLOAT16: np.dtype("<f2"),
}
SAMPLE_DTYPES = {"f32": FLOAT32, "s16": INT16}

PUSH, INSTRUMENT = "push", "instrument"
"""The names of the sources that are not pieces."""

# Codes with which a connection is closed. This protocol defines the codes from 4000 on.
NORMAL, GOING_AWAY, REFUSED, TOO_BIG, INTERNAL, TRY_LATER = 1000, 1001, 1008, 1009, 1011, 1013
BAD_MESSAGE, SILENT = 4400, 4408

_NAME = re.compile(r"[\w.\- ]{1,64}")


class ProtocolError(Exception):
    """A message that can't be accepted, or another error that is reported to the client.

    Parameters
    ----------
    code : str
        A word for programs, such as ``bad-message``.
    message : str
        A sentence for people.
    close : int, optional
        The code with which the connection is closed. None means that it stays open.
    """

    def __init__(self, code: str, message: str, close: int | None = BAD_MESSAGE) -> None:
        super().__init__(message)
        self.code, self.message, self.close = code, message, close


@dataclass(frozen=True)
class Control:
    """A text message from a client. Its fields are checked, and missing ones have defaults."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Frames:
    """Latent frames from a client.

    Attributes
    ----------
    first : int
        Index of the first frame, counted from the beginning of the session.
    frames : (n, latent_dim) float32
        The frames, which are finite.
    """

    first: int
    frames: FloatArray


Check = Callable[[Any], Any]


def _bad(message: str) -> NoReturn:
    raise ProtocolError("bad-message", message)


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("a number was expected")
        if not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g} was expected")
        return float(value)

    return check


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise ValueError("a whole number from 0 was expected")
    return value


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false was expected")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("a name of up to 64 letters, digits, spaces and ._- was expected")
    return value


def _choice(*words: str) -> Check:
    def check(value: Any) -> str:
        if value not in words or not isinstance(value, str):
            raise ValueError(f"one of {', '.join(words)} was expected")
        return value

    return check


def _numbers_by_name(low: float, high: float) -> Check:
    number = _number(low, high)

    def check(value: Any) -> dict[str, float]:
        if not isinstance(value, dict) or len(value) > 64:
            raise ValueError("an object of up to 64 numbers was expected")
        return {_name(name): number(each) for name, each in value.items()}

    return check


REQUIRED = object()
_SECONDS = _number(0.0, 1e9)

# The fields of every type of text message. Each field has a function that checks its value, and a
# default, or `REQUIRED`.
CONTROLS: dict[str, dict[str, tuple[Check, Any]]] = {
    "open": {
        "source": (_name, PUSH),
        "sample": (_choice(*WIDTHS), "f32"),
        "ahead": (_number(MIN_AHEAD, MAX_AHEAD), 0.3),
        "share": (_name, None),
        "frames": (_switch, False),
        "early": (_switch, False),
        "seconds": (_SECONDS, 0.0),
        "loop": (_switch, False),
    },
    "resume": {"session": (_name, REQUIRED), "have": (_whole, REQUIRED)},
    "heard": {
        "sample": (_whole, REQUIRED),
        "underruns": (_whole, 0),
        "buffered": (_SECONDS, None),
    },
    "set": {
        "x": (_number(0.0, 1.0), None),
        "y": (_number(0.0, 1.0), None),
        "weights": (_numbers_by_name(0.0, 1e6), None),
        "offset": (_numbers_by_name(-10.0, 10.0), None),
        "speed": (_number(-4.0, 4.0), None),
        "freeze": (_switch, None),
    },
    "seek": {"source": (_name, None), "seconds": (_SECONDS, None), "frame": (_whole, None)},
    "pause": {},
    "play": {},
    "loop": {"on": (_switch, REQUIRED)},
    "end": {},
    "reset": {},
    "snapshot": {},
    "restore": {"state": (_name, REQUIRED)},
    "close": {},
}


def parse_text(text: str) -> Control:
    """Parse and check a text message from a client.

    Raises
    ------
    ProtocolError
        If the text is too long or not JSON, if its type is unknown, or if a field is missing,
        unknown or wrong.
    """
    if len(text) > MAX_TEXT:
        raise ProtocolError("too-big", f"text of at most {MAX_TEXT} characters was expected")
    try:
        message = json.loads(text, parse_constant=_bad)
    except (ValueError, RecursionError):
        _bad("a JSON object was expected")
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        _bad('an object with a "type" was expected')
    kind = message.pop("type")
    if kind not in CONTROLS:
        _bad(f"unknown type; the types are: {', '.join(CONTROLS)}")
    known = CONTROLS[kind]
    unknown = [name for name in message if name not in known]
    if unknown:
        _bad(f"{kind}: unknown field {unknown[0][:64]!r}; its fields are: {', '.join(known)}")
    fields = {}
    for name, (check, default) in known.items():
        if message.get(name) is None:
            if default is REQUIRED:
                _bad(f"{kind}: {name} is missing")
            fields[name] = default
            continue
        try:
            fields[name] = check(message[name])
        except ValueError as error:
            _bad(f"{kind}: {name}: {error}")
    return Control(kind, fields)


def parse_frames(data: bytes, latent_dim: int) -> Frames:
    """Parse and check a binary message from a client.

    Parameters
    ----------
    data : bytes
    latent_dim : int
        Number of values in a latent frame.

    Raises
    ------
    ProtocolError
        If the header is wrong, if the length does not match the header, or if a frame is not
        finite. In the last case, the error's message contains the index of that frame.
    """
    if len(data) > MAX_MESSAGE:
        raise ProtocolError("too-big", f"at most {MAX_MESSAGE} bytes were expected", TOO_BIG)
    kind, dtype, count, first, body = _split(data)
    if kind != FRAMES or dtype != FLOAT32:
        _bad(f"frames (kind {FRAMES}) of float32 (dtype {FLOAT32}) were expected")
    if len(body) != count * latent_dim * 4:
        _bad(f"{count} frames of {latent_dim} float32 take {count * latent_dim * 4} bytes")
    frames = np.frombuffer(body, "<f4").reshape(count, latent_dim)
    index = first_not_finite(frames)
    if index is not None:
        raise ProtocolError("not-finite", f"frame {first + index} is not finite")
    return Frames(first, frames)


def _split(data: bytes) -> tuple[int, int, int, int, memoryview]:
    """Return the fields of a binary message's header, and the bytes after the header."""
    if len(data) < HEADER.size:
        _bad(f"a header of {HEADER.size} bytes was expected")
    kind, dtype, zero, count, first = HEADER.unpack_from(data)
    if zero or first + count > MAX_NUMBER:
        _bad("the header is damaged")
    return kind, dtype, count, first, memoryview(data)[HEADER.size :]


def pack_frames(first: int, frames: FloatArray) -> bytes:
    """Return the message with which a client sends frames, (n, latent_dim) float32."""
    header = HEADER.pack(FRAMES, FLOAT32, 0, len(frames), first)
    return header + np.ascontiguousarray(frames, "<f4").tobytes()


def pack_samples(first: int, audio: FloatArray, sample: str) -> bytes:
    """Return the message with which the server sends samples, (n, channels) float32."""
    header = HEADER.pack(SAMPLES, SAMPLE_DTYPES[sample], 0, len(audio), first)
    return header + sample_bytes(audio, sample)


def pack_decoded(first: int, frames: FloatArray) -> bytes:
    """Return the message that tells a client which frames, (n, latent_dim), were decoded.

    The frames are meant for display. So they are converted to float16, with large values clipped.
    """
    half = np.finfo(np.float16)
    rounded = np.clip(frames, half.min, half.max).astype("<f2")
    return HEADER.pack(DECODED, FLOAT16, 0, len(frames), first) + rounded.tobytes()


def parse_numbers(data: bytes, width: int) -> tuple[int, int, npt.NDArray[Any]]:
    """Parse a binary message from the server.

    Parameters
    ----------
    data : bytes
    width : int
        Number of values in a sample or frame: the channels, or the latent dimension.

    Returns
    -------
    kind : int
        `SAMPLES` or `DECODED`.
    first : int
        Index of the first sample or frame.
    numbers : (n, width) array

    Raises
    ------
    ProtocolError
        If the header is wrong or the length does not match it.
    """
    kind, dtype, count, first, body = _split(data)
    if dtype not in DTYPES or len(body) != count * width * DTYPES[dtype].itemsize:
        _bad("the length does not match the header")
    return kind, first, np.frombuffer(body, DTYPES[dtype]).reshape(count, width)


def error_message(code: str, message: str) -> dict[str, Any]:
    """Return the message that reports an error."""
    return {"type": "error", "code": code, "message": message}
