"""A decoder whose network runs on a server."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qs, urlsplit

import numpy as np

from oobleck_stream.arrays import FloatArray
from oobleck_stream.checks import checked_frames, checked_index, checked_latents
from oobleck_stream.errors import NonFiniteError, RemoteError
from oobleck_stream.server.connection import Connection
from oobleck_stream.server.protocol import (
    HEADER,
    MAX_AHEAD,
    PUSH,
    SAMPLES,
    pack_frames,
    parse_numbers,
)

RESUME_SECONDS = 30.0
"""How long the decoder tries to reconnect. The server keeps the stream equally long."""

RETRY_SECONDS = 0.1
RETRIED = ("unreachable", "overloaded", "closing", "busy")
"""Codes of errors after which another attempt may succeed."""

GOES_ON = ("overflow", "unknown-state")
"""Codes of errors after which the session continues."""

Result = TypeVar("Result")


class RemoteState:
    """A copy of a `RemoteDecoder`'s state. The server keeps it at most until the decoder closes."""

    def __init__(self, name: str, frames_in: int, samples_out: int, flushed: bool) -> None:
        self.name, self.frames_in, self.samples_out = name, frames_in, samples_out
        self.flushed = flushed


class RemoteDecoder:
    """Decode a stream of latent frames on a server, bit-identical to decoding it here.

    It is used like `StreamingDecoder`. If the connection is lost, the decoder reconnects and
    continues the stream, and the samples are still bit-identical. A decoder is a context manager,
    which calls `close` at the end of the block. Only one thread may use it at a time.

    Parameters
    ----------
    url : str
        The address of `oobleck_stream serve`, as ``http://host:port``. It may contain ``?token=``.
    token : str, optional
        The server's token. By default, the token in `url` is used, if there is one.
    timeout : float
        Maximum seconds to wait for each answer of the server.
    early : bool
        Whether to ask for early sound. The samples are then those of a `StreamingDecoder` whose
        `look_ahead` is the server's, which is set by ``serve --look-ahead``. A server that is too
        slow for early sound, or does not offer it, decodes exactly. The property `latency` is the
        look-ahead that is used.

    Attributes
    ----------
    info : dict
        The content of ``/v1/info`` when the connection was opened.
    frames_in : int
        Index of the next frame to push, counted from the beginning of the piece.
    samples_out : int
        Index of the first sample of the next chunk, counted from the beginning of the piece.

    Raises
    ------
    RemoteError
        If the server can't be reached, or refuses the connection. If the server can't decode
        another stream, the error's `code` is ``"busy"``. A `RemoteError` is a ``RuntimeError``.

    Examples
    --------
    >>> import numpy as np
    >>> import oobleck_stream as ob
    >>> from oobleck_stream.server.serving import BackgroundServer
    >>> model, latents = ob.load("tiny"), ob.piece("keys")[:300]
    >>> with BackgroundServer(model, slots=1) as server:
    ...     with ob.RemoteDecoder(server.url) as decoder:
    ...         chunks = [decoder.push(part) for part in np.split(latents, 3)]
    ...         audio = np.concatenate([*chunks, decoder.flush()])
    >>> np.array_equal(audio, model.decode(latents))
    True
    """

    def __init__(
        self, url: str, token: str | None = None, timeout: float = 30.0, early: bool = False
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an address like http://127.0.0.1:8765 was expected, not {url!r}")
        scheme = "wss" if parts.scheme == "https" else "ws"
        self._address = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1/session"
        self._token = token or "".join(parse_qs(parts.query).get("token", [])[:1])
        self._timeout, self._early = timeout, early
        self.frames_in = self.samples_out = 0
        self.info: dict[str, Any] = {}
        self._session: str | None = None
        self._status = "open"
        self._connection = Connection()
        self._closer = weakref.finalize(self, self._connection.end)
        self._told: dict[str, dict[str, Any]] = {}
        self._latency = 0
        # These are indices of frames and samples in the session: see `server/protocol.py`.
        self._sent = self._until = self._got = self._heard = 0
        self._first, self._unproven = 0, np.empty((0, 0), np.float32)
        self._chunks: list[FloatArray] = []
        self._waiting = 0  # number of samples in `_chunks`
        self._connect()

    def __repr__(self) -> str:
        return (
            f"RemoteDecoder({self._address!r}: {self.frames_in} frames in, {self.samples_out} "
            f"samples out, {self._status})"
        )

    @property
    def latent_dim(self) -> int:
        """Number of values in a latent frame."""
        return int(self.info["latent_dim"])

    @property
    def latency(self) -> int:
        """Number of samples that are withheld until later frames are known."""
        return self._latency

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return int(self.info["hop"])

    @property
    def samplerate(self) -> int:
        """Samples per second."""
        return int(self.info["samplerate"])

    @property
    def channels(self) -> int:
        """Number of audio channels."""
        return int(self.info["channels"])

    def push(self, frames: Any) -> FloatArray:
        """Push frames, and return the samples that no later frame can change.

        Parameters, results and errors are those of `StreamingDecoder.push`. This method may also
        raise a `RemoteError`, after which the decoder is closed.
        """
        self._require_open("push")
        rows = checked_frames(checked_latents(frames, self.latent_dim), self.frames_in)
        total = self.frames_in + len(rows)
        count = max(0, total * self.hop - self.latency - self.samples_out)
        self._unproven = np.concatenate([self._unproven, rows])
        chunk = self._retried(lambda: self._exchange(count))
        if count:
            # Samples that depend on the last frame have arrived, so the server has all frames.
            self._first, self._unproven = self._sent, self._unproven[:0]
        self.frames_in = total
        self.samples_out += len(chunk)
        return self._checked(chunk)

    def flush(self) -> FloatArray:
        """End the stream and return the withheld samples, as `StreamingDecoder.flush` does."""
        self._require_open("flush")
        chunk = self._retried(self._end)
        self._status = "flushed"
        self.samples_out += len(chunk)
        return self._checked(chunk)

    def stream(self, frames: Iterable[Any]) -> Iterator[FloatArray]:
        """Decode an iterable of frames to its end, as `StreamingDecoder.stream` does."""
        for piece in frames:
            yield from self._nonempty(self.push, piece)
        yield from self._nonempty(self.flush)

    def reset(self) -> None:
        """Return to the beginning, ready for another piece."""
        self.seek(0)

    def seek(self, frame: int) -> int:
        """Move to the first sample of a frame, as `StreamingDecoder.seek` does.

        Returns
        -------
        int
            Index of the frame to push next.
        """
        target = checked_index(frame)
        self.frames_in = self._restart({"type": "seek", "frame": target})["decoded"]
        self.samples_out, self._status = target * self.hop, "open"
        return self.frames_in

    def snapshot(self) -> RemoteState:
        """Return a copy of the state, for `restore`.

        The server keeps the last four copies of each decoder until that decoder is closed.
        """
        if self._status not in ("open", "flushed"):
            raise RuntimeError(f"snapshot: the decoder is {self._status}: call reset() first")

        def ask() -> str:
            self._exchange(0)
            return str(self._ask({"type": "snapshot"})["state"])

        name = self._retried(ask)
        return RemoteState(name, self.frames_in, self.samples_out, self._status == "flushed")

    def restore(self, state: RemoteState) -> None:
        """Continue from a copy of a state.

        The copy was returned by `snapshot` of this decoder, or of another decoder that uses the
        same server and is still open.

        Raises
        ------
        ValueError
            If `state` is not a `RemoteState`, or if the server no longer keeps the copy.
        """
        if not isinstance(state, RemoteState):
            raise ValueError("the state is not one of a RemoteDecoder")
        try:
            self._restart({"type": "restore", "state": state.name})
        except RemoteError as error:
            if error.code == "unknown-state":
                raise ValueError(str(error)) from None
            raise
        self.frames_in, self.samples_out = state.frames_in, state.samples_out
        self._status = "flushed" if state.flushed else "open"

    def close(self) -> None:
        """End the session. The server can then decode another session instead."""
        self._status = "closed"
        self._closer()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a RemoteDecoder holds a connection and can't be copied or pickled: open another one"
        )

    def __enter__(self) -> RemoteDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _nonempty(self, step: Callable[..., FloatArray], *frames: Any) -> Iterator[FloatArray]:
        try:
            chunk = step(*frames)
        except NonFiniteError as error:
            if len(error.output):
                yield error.output
            raise
        if len(chunk):
            yield chunk

    def _require_open(self, action: str) -> None:
        if self._status != "open":
            raise RuntimeError(f"{action}: the decoder is {self._status}: call reset() first")

    def _checked(self, chunk: FloatArray) -> FloatArray:
        """Return `chunk`, or raise `NonFiniteError` if the samples after it are not finite."""
        overflow = self._told.pop("overflow", None)
        if overflow is None:
            return chunk
        self._status = "overflowed"
        raise NonFiniteError(overflow["message"], {0: overflow["frame"]}, chunk)

    # Operations that are repeated if the connection is lost

    def _exchange(self, count: int) -> FloatArray:
        """Send the unsent frames. Return `count` samples, or fewer if the stream overflowed."""
        end = self._first + len(self._unproven)
        while self._sent < end or self._waiting < count:
            if "overflow" in self._told:
                count = min(count, self._told["overflow"]["sample"] - self._got + self._waiting)
                if self._waiting >= count:
                    break
            room = min(end, self._until, self._sent + self._piece) - self._sent
            if room > 0:
                start = self._sent - self._first
                self._connection.send(pack_frames(self._sent, self._unproven[start : start + room]))
                self._sent += room
            else:
                self._receive()
        return self._taken(count)

    def _end(self) -> FloatArray:
        """Send the unsent frames and the message ``end``, and return the last samples."""
        self._told.pop("end", None)
        self._exchange(0)
        self._connection.send(json.dumps({"type": "end"}))
        while "end" not in self._told and "overflow" not in self._told:
            self._receive()
        last = self._told.get("end") or self._told["overflow"]
        return self._exchange(last["sample"] - self._got + self._waiting)

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and wait for its answer."""
        answer = "snapshot" if message["type"] == "snapshot" else "epoch"
        self._told.pop(answer, None)
        self._connection.send(json.dumps(message))
        while answer not in self._told:
            self._receive()
        return self._told[answer]

    def _restart(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message that moves the stream to another position. Return the server's answer.

        Drop everything that was received before the answer.
        """
        if self._status == "closed":
            raise RuntimeError("the decoder is closed")
        # Drop the frames that were not sent yet, because the position changes.
        self._unproven = self._unproven[: self._sent - self._first]
        answer = self._retried(lambda: self._ask(message))
        self._first, self._unproven = self._sent, self._unproven[:0]
        self._told.clear()
        return answer

    # The connection

    @property
    def _piece(self) -> int:
        """Maximum number of frames in a message."""
        return max(1, (int(self.info["max_message"]) - HEADER.size) // (4 * self.latent_dim))

    def _taken(self, count: int) -> FloatArray:
        """Remove the first `count` samples from `_chunks` and return them."""
        whole = np.concatenate([np.empty((0, self.channels), np.float32), *self._chunks])
        self._chunks = [whole[count:]] if len(whole) > count else []
        self._waiting -= count
        return np.ascontiguousarray(whole[:count])

    def _receive(self) -> None:
        """Receive one message and store its content."""
        message = self._connection.receive(self._timeout)
        if isinstance(message, bytes):
            kind, first, numbers = parse_numbers(message, self.channels)
            if kind == SAMPLES and first + len(numbers) > self._got:
                new = numbers[max(0, self._got - first) :]
                self._chunks.append(new)
                self._waiting += len(new)
                self._got = first + len(numbers)
                if self._got - self._heard > MAX_AHEAD * self.samplerate / 4:
                    self._heard = self._got
                    self._connection.send(json.dumps({"type": "heard", "sample": self._got}))
            return
        told = json.loads(message)
        self._told[told["type"]] = told
        if told["type"] == "more":
            self._until = told["frames_until"]
        elif told["type"] == "epoch":
            self._got, self._chunks, self._waiting = told["sample"], [], 0
            self._latency = told["look_ahead"]
        elif told["type"] == "error":
            raise RemoteError(told["code"], told["message"])

    def _retried(self, operation: Callable[[], Result]) -> Result:
        """Run an operation. If it fails temporarily, reconnect and run it again."""
        if self._status == "closed":
            raise RuntimeError("the decoder is closed")
        end, pause = time.monotonic() + RESUME_SECONDS, RETRY_SECONDS
        while True:
            try:
                if not self._connection.connected:
                    self._connect()
                return operation()
            except RemoteError as error:
                if error.code not in RETRIED or time.monotonic() > end:
                    if error.code not in GOES_ON:
                        self.close()
                    raise
                self._connection.drop()
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _connect(self) -> None:
        """Open a connection with a new session, or with the session whose connection was lost."""
        resumed = self._session is not None
        self._connection.open(self._address + "?resume=1" * resumed, self._token, self._timeout)
        if resumed:
            first: dict[str, Any] = {"type": "resume", "session": self._session, "have": self._got}
        else:
            first = {"type": "open", "source": PUSH, "sample": "f32", "ahead": MAX_AHEAD}
            first["early"] = self._early
        self._connection.send(json.dumps(first))
        self._told.pop("ready", None)
        while "ready" not in self._told:
            self._receive()
        ready = self._told["ready"]
        self._session, self.info = ready["session"], ready["info"]
        self._until, self._sent = ready["frames_until"], ready["frames_in"]
        self._latency = ready["epoch"]["look_ahead"]
        if not resumed:
            self._unproven = np.empty((0, self.latent_dim), np.float32)
