"""The errors that the library raises, besides Python's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_SHOWN = 6
"""Maximum number of problems that the message of a `CheckpointError` lists."""

MAX_LENGTH = 240
"""Maximum length, in characters, of a problem or a name in the message of a `CheckpointError`."""


def _printable(text: str) -> str:
    """Replace line breaks and control characters, which names in files may contain, by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def _line(text: str) -> str:
    printable = _printable(text)
    return printable if len(printable) <= MAX_LENGTH else printable[:MAX_LENGTH] + "..."


class InputError(ValueError):
    """An input file or an output path can't be used; the message names it and says why.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> try:
    ...     ob.Player("no-such-file.npy", ob.load("tiny"))
    ... except ob.InputError as error:
    ...     print(error)
    no-such-file.npy: can't be read: No such file or directory
    """

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))


class OutputError(InputError):
    """Sound can't be played here: there is no PortAudio, no audio device, or no suitable device.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> try:
    ...     player = ob.Player(ob.piece("keys"), ob.load("tiny"), device="no such device")
    ... except ob.OutputError:
    ...     print("no sound here")
    no sound here
    """


class PlaybackError(RuntimeError):
    """Playback can't continue: the audio device was disconnected, or the machine is too slow.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> try:
    ...     played = ob.play(ob.piece("keys")[:300], ob.load("tiny"))
    ... except ob.PlaybackError as error:
    ...     print("playback ended early:", error)
    """


class CheckpointError(ValueError):
    """A checkpoint can't be used.

    Parameters
    ----------
    source : object
        The file, folder or name that was requested.
    *problems : str
        Each problem names a tensor or an option, and says what was expected.

    Attributes
    ----------
    source : str
    problems : tuple of str
        All problems. The message lists only the first `MAX_SHOWN` problems, and states how many
        more there are.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> try:
    ...     ob.load("random:no-such-preset")
    ... except ob.CheckpointError as error:
    ...     print(error.source, len(error.problems))
    random:no-such-preset 1
    """

    def __init__(self, source: object, *problems: str) -> None:
        self.source = str(source)
        self.problems = tuple(_line(problem) for problem in problems)
        message = "; ".join(self.problems[:MAX_SHOWN])
        if len(self.problems) > MAX_SHOWN:
            message += f"; and {len(self.problems) - MAX_SHOWN} problems more"
        super().__init__(f"{_line(self.source)}: {message}" if message else self.source)


class NonFiniteError(FloatingPointError):
    """The input was finite, but float32 overflowed inside the network.

    This error is not a ``ValueError``, because the stream has consumed the input. A stream whose
    output is not finite refuses further input until `reset`, `restore` or `seek` is called.

    Parameters
    ----------
    message : str
    frames : mapping of int to int, optional
    output : Any

    Attributes
    ----------
    frames : dict of int to int
        Maps the index of each stream that overflowed to the index of its first frame whose output
        is not finite. The input that causes the overflow may come later. A `StreamingDecoder` or
        `StreamingEncoder` has only one stream, with index 0. For a batch passed to `Model.decode`
        or `Model.encode`, the key is the index of the piece.
    output : same type as the result of the call that failed
        The finite part of this result: the rows before the first row that is not finite. For a
        `MultiStreamDecoder`, this is a list with one array per stream; it contains all samples of
        the streams that did not overflow.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model, latents = ob.load("tiny"), ob.piece("keys")[:100].astype("float32")
    >>> latents[50] = 3e38
    >>> decoder = ob.StreamingDecoder(model)
    >>> try:
    ...     decoder.push(latents)
    ... except ob.NonFiniteError as error:
    ...     print("first frame whose output is not finite:", error.frames[0])
    ...     print("finite samples:", len(error.output))
    first frame whose output is not finite: 35
    finite samples: 2272
    >>> decoder.reset()
    """

    def __init__(
        self, message: str, frames: Mapping[int, int] | None = None, output: Any = None
    ) -> None:
        self.frames = dict(frames or {})
        self.output = output
        super().__init__(message)


class CudaUnavailable(RuntimeError):  # noqa: N818
    """CUDA can't be used here. The message says in one line what is missing.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> model = ob.load("tiny")
    >>> try:
    ...     decoder = ob.StreamingDecoder(model, backend="cuda")
    ... except ob.CudaUnavailable:
    ...     decoder = ob.StreamingDecoder(model)
    >>> decoder.backend in ("cpu", "cuda")
    True
    """


class RemoteError(RuntimeError):
    """The server refused a request, or can't be reached.

    Attributes
    ----------
    code : str
        The protocol's word for the error, such as ``busy``. It is ``unreachable`` if the server did
        not answer.

    Examples
    --------
    >>> import oobleck_stream as ob
    >>> try:
    ...     ob.RemoteDecoder("http://127.0.0.1:9")
    ... except ob.RemoteError as error:
    ...     print(error.code)
    unreachable
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
