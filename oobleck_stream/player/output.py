"""The sound card, through PortAudio."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oobleck_stream.arrays import FloatArray
from oobleck_stream.errors import OutputError

MISSING = (
    "PortAudio is not installed: apt install libportaudio2 (Debian, Ubuntu), "
    "dnf install portaudio (Fedora), pacman -S portaudio (Arch)"
)


CLOSE_SECONDS = 3.0


@dataclass(frozen=True)
class Device:
    """An output device.

    Parameters
    ----------
    number : int
        PortAudio's.
    name : str
    channels : int
        At most.
    samplerate : int
        The one it likes best.
    is_default : bool
        Whether it plays when none is asked for.
    """

    number: int
    name: str
    channels: int
    samplerate: int
    is_default: bool = False

    def supports(self, samplerate: int, channels: int) -> bool:
        """Whether it takes float32 samples of this rate and number of channels."""
        library = portaudio()
        try:
            library.check_output_settings(self.number, channels, "float32", samplerate=samplerate)
        except library.PortAudioError:
            return False
        return True


def portaudio() -> Any:
    """The module `sounddevice`; where the library behind it is missing, say what to install."""
    try:
        import sounddevice
    except OSError as error:
        raise OutputError(MISSING) from error
    return sounddevice


def output_devices() -> list[Device]:
    """Every device that can play."""
    library = portaudio()
    try:
        default = library.query_devices(None, "output")["index"]
    except library.PortAudioError:
        default = -1
    return [
        _device(entry, default)
        for entry in library.query_devices()
        if entry["max_output_channels"] > 0
    ]


def find_device(wanted: int | str | None = None) -> Device:
    """An output device by number or part of its name, or the system's.

    Raises
    ------
    OutputError
        When there is none, or several have that part in their names.
    """
    library = portaudio()
    if isinstance(wanted, str) and wanted.isdecimal():
        wanted = int(wanted)
    try:
        return _device(library.query_devices(wanted, "output"))
    except (library.PortAudioError, ValueError) as error:
        if wanted is None:
            raise OutputError(
                "no output device was found: is a sound server running, or a sound card there?"
            ) from error
        reason = "several devices have this name" if "Multiple" in str(error) else "no such device"
        raise OutputError(
            f"output device {wanted!r}: {reason}; oobleck_stream play --list-devices shows them all"
        ) from error


def _device(entry: Any, default: int = -1) -> Device:
    return Device(
        entry["index"],
        entry["name"],
        entry["max_output_channels"],
        round(entry["default_samplerate"]),
        entry["index"] == default,
    )


def _leave_without_portaudio() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class Output:
    """A stream to an output device, silent until `start`.

    Parameters
    ----------
    device : Device
    samplerate, channels : int
    finished : callable
        Called when the stream has ended, or has stopped for any other reason.
    latency : float or {"low", "high"}
        Of the device, in seconds.

    Raises
    ------
    OutputError
        When the device can't do this.
    """

    def __init__(
        self,
        device: Device,
        samplerate: int,
        channels: int,
        finished: Callable[[], None],
        latency: float | str,
    ) -> None:
        library = portaudio()
        self._stop = library.CallbackStop
        self._fill: Callable[[FloatArray], bool] | None = None
        self.underflows = 0
        try:
            self._stream = library.OutputStream(
                samplerate=samplerate,
                channels=channels,
                dtype="float32",
                device=device.number,
                latency=latency,
                callback=self._callback,
                finished_callback=finished,
            )
        except (library.PortAudioError, ValueError) as error:
            raise OutputError(
                f"output device {device.name!r} can't be opened for {samplerate} Hz, "
                f"{channels} channels: {error}"
            ) from error

    @property
    def latency(self) -> float:
        """Seconds from the callback to the loudspeaker, as the device tells."""
        return float(self._stream.latency)

    def start(self, fill: Callable[[FloatArray], bool]) -> None:
        """Begin to play.

        Parameters
        ----------
        fill : callable
            Called in PortAudio's thread with a (n, channels) float32 array to be filled; returns
            whether more will come.
        """
        self._fill = fill
        self._stream.start()

    def close(self) -> None:
        """Stop at once; a sound server that does not answer is waited for only so long."""
        closing = threading.Thread(target=self._stream.close, name="oobleck_stream close")
        closing.daemon = True
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            # PortAudio would wait for that server again, and for ever, when Python ends.
            atexit.register(_leave_without_portaudio)

    def _callback(self, out: FloatArray, count: int, time: Any, status: Any) -> None:
        if status.output_underflow:
            self.underflows += 1
        if self._fill is None or not self._fill(out):
            raise self._stop
