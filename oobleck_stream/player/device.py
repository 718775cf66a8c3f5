"""Finds and opens audio devices, using PortAudio."""

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

MAX_CLOSE_SECONDS = 3.0
"""Maximum seconds that `close` waits for a sound server that does not respond."""


@dataclass(frozen=True)
class Device:
    """An output device.

    Parameters
    ----------
    number : int
        PortAudio's device index.
    name : str
    channels : int
        Maximum number of channels.
    samplerate : int
        The default sample rate in hertz.
    is_default : bool
        Whether the device is the system's default output device.
    """

    number: int
    name: str
    channels: int
    samplerate: int
    is_default: bool = False

    def supports(self, samplerate: int, channels: int) -> bool:
        """Whether the device accepts float32 samples at this rate, with this number of channels."""
        library = portaudio()
        try:
            library.check_output_settings(self.number, channels, "float32", samplerate=samplerate)
        except library.PortAudioError:
            return False
        return True


def portaudio() -> Any:
    """Import `sounddevice`. If PortAudio is missing, raise an `OutputError` with a hint."""
    try:
        import sounddevice
    except OSError as error:
        raise OutputError(MISSING) from error
    return sounddevice


def output_devices() -> list[Device]:
    """Return all output devices."""
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
    """Find an output device by its index or a part of its name.

    None means the system's default device.

    Raises
    ------
    OutputError
        If there is no such device, or if several names contain the given part.
    """
    library = portaudio()
    if isinstance(wanted, str) and wanted.isdecimal():
        wanted = int(wanted)
    try:
        return _device(library.query_devices(wanted, "output"))
    except (library.PortAudioError, ValueError) as error:
        if wanted is None:
            raise OutputError(
                "no output device was found: is a sound server running, or a sound card installed?"
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


def _exit_without_portaudio() -> None:
    """End the process without running PortAudio's exit handler."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class DeviceStream:
    """A stream to an output device. It begins when `start` is called.

    Parameters
    ----------
    device : Device
    samplerate, channels : int
    finished : callable
        A function that is called when the stream has ended, or has stopped for any other reason.
    latency : float or {"low", "high"}
        The device's latency in seconds.

    Attributes
    ----------
    underflows : int
        How often PortAudio has reported that the device's own buffer ran empty.

    Raises
    ------
    OutputError
        If the device can't be opened with these settings.
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
        """The delay from the callback to the loudspeaker in seconds, as the device reports it."""
        return float(self._stream.latency)

    def start(self, fill: Callable[[FloatArray], bool]) -> None:
        """Start playing.

        Parameters
        ----------
        fill : callable
            A function that PortAudio's thread calls with an (n, channels) float32 array. It fills
            the array, and returns whether more samples follow.
        """
        self._fill = fill
        self._stream.start()

    def close(self) -> None:
        """Stop immediately. Wait at most `MAX_CLOSE_SECONDS` for the sound server's response."""
        closing = threading.Thread(target=self._stream.close, name="oobleck_stream close")
        closing.daemon = True
        closing.start()
        closing.join(MAX_CLOSE_SECONDS)
        if closing.is_alive():
            # PortAudio's exit handler would wait for the sound server again, and forever.
            atexit.register(_exit_without_portaudio)

    def _callback(self, out: FloatArray, count: int, time: Any, status: Any) -> None:
        if status.output_underflow:
            self.underflows += 1
        if self._fill is None or not self._fill(out):
            raise self._stop
