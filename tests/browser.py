"""Debian's Chromium, and a recorder behind the page's player: what left it, sample for sample."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from starlette.responses import Response

from oobleck_stream.server import app
from oobleck_stream.server.serving import BackgroundServer

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Not --autoplay-policy: a real click has to be enough.

BLOCK = 128
RECORDER = """
class Recorder extends AudioWorkletProcessor {
  process([input]) {
    if (input.length && input.some((channel) => channel.some((value) => value !== 0)))
      this.port.postMessage(input.map((channel) => channel.slice()));
    return true;
  }
}
registerProcessor("recorder", Recorder);
"""
TAP = """
window.tap = { blocks: [] };
tap.samples = () => tap.blocks.length * 128;
tap.interleaved = (count) => {
  const out = new Float32Array(2 * count);
  for (let row = 0; row < count; row++)
    for (let channel = 0; channel < 2; channel++)
      out[2 * row + channel] = tap.blocks[row >> 7][channel][row & 127];
  return out;
};
tap.sha256 = async (count) => {
  const digest = await crypto.subtle.digest("SHA-256", tap.interleaved(count).buffer);
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
};
const addModule = AudioWorklet.prototype.addModule;
AudioWorklet.prototype.addModule = async function (url) {
  await addModule.call(this, "/page/recorder.js");
  return addModule.call(this, url);
};
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (this instanceof AudioWorkletNode && target instanceof GainNode) {
    const recorder = new AudioWorkletNode(this.context, "recorder", {
      channelCount: 2, channelCountMode: "explicit", outputChannelCount: [2],
    });
    recorder.port.onmessage = ({ data }) => tap.blocks.push(data);
    connect.call(this, recorder);
    connect.call(recorder, this.context.destination);  // silent; keeps it running
    tap.context = this.context;
  }
  return connect.call(this, target, ...rest);
};
"""


def require_chromium() -> None:
    """Skip the test if the browser or its driver is missing."""
    pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs chromium")


@contextmanager
def recordable_server(model, pieces, **options) -> Iterator[BackgroundServer]:
    """Run a server that also has the recorder, since Playwright can't add it to worklets."""
    files = app.page_files()
    files["recorder.js"] = Response(RECORDER, media_type="text/javascript")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "page_files", lambda: files)
        server = BackgroundServer(model, pieces, **options)
        server.__enter__()
    try:
        yield server
    finally:
        server.__exit__(None, None, None)


@contextmanager
def running_driver() -> Iterator:
    """Run Playwright during the block; there can be only one at a time."""
    require_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        yield driver


@contextmanager
def running_browser(driver, **options) -> Iterator:
    """Run a browser during the block."""
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, **options)
    try:
        yield browser
    finally:
        browser.close()


class Page:
    """A page with the recorder.

    Attributes
    ----------
    page : playwright page
    requests : list of str
        The addresses that it asked for.
    problems : list of str
        Errors and warnings in its console.
    """

    def __init__(self, browser, url: str, **options) -> None:
        self.page = browser.new_context(**options).new_page()
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note)
        self.page.add_init_script(TAP)
        self.page.goto(url)
        self.until("!document.querySelector('#play').disabled")

    def _note(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def play(self) -> None:
        """Click on Play."""
        self.page.get_by_role("button", name="Play", exact=True).click()

    def wait(self, samples: int, seconds: float = 60) -> None:
        """Wait until the player has played that many samples."""
        self.until(f"tap.samples() >= {samples}", seconds)

    def until(self, condition: str, seconds: float = 60) -> None:
        """Wait until an expression is true (`wait_for_function` is stopped by the page's CSP)."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition}: not true after {seconds} s; {self.problems}")
            self.page.wait_for_timeout(20)

    def sha256(self, samples: int) -> str:
        """The digest of the first samples that left the player, channels interleaved."""
        self.wait(samples)
        return self.page.evaluate(f"tap.sha256({samples})")

    def audio(self) -> np.ndarray:
        """What left the player so far, (samples, 2) float32."""
        flat = self.page.evaluate("Array.from(tap.interleaved(tap.samples()))")
        return np.array(flat, np.float32).reshape(-1, 2)

    def kept_latents(self, file: Path) -> np.ndarray:
        """The frames that the session has played, downloaded to a file."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name="Keep these latents").click()
        download.value.save_as(file)
        return np.load(file)

    def text(self, name: str) -> str:
        """The text of the element with an id."""
        return self.page.locator(f"#{name}").inner_text()


def digest(audio: np.ndarray) -> str:
    """The digest that `Page.sha256` returns when these samples were played.

    The recorder leaves out silent blocks, so there may be none in them.
    """
    blocks = audio[: len(audio) // BLOCK * BLOCK].reshape(-1, BLOCK * audio.shape[1])
    assert blocks.any(axis=1).all(), "a block of the expected sound is silent"
    return hashlib.sha256(np.ascontiguousarray(audio, "<f4").tobytes()).hexdigest()
