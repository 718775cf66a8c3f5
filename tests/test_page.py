"""The page in Debian's Chromium: what leaves its player is what `decode` returns."""

from __future__ import annotations

import numpy as np
import pytest
from browser import BLOCK, Page, digest, recordable_server, running_browser, running_driver
from sound_server import SoundServer
from tcp_proxy import Proxy

import oobleck_stream as ob

FRAMES = 1300
SAMPLES = FRAMES * 64 // BLOCK * BLOCK
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def model():
    return ob.load("tiny")


@pytest.fixture(scope="module")
def pieces():
    return {name: ob.piece(name)[500 : 500 + FRAMES] for name in ("keys", "plucked", "pads")}


@pytest.fixture(scope="module")
def server(model, pieces):
    with recordable_server(model, pieces, slots=6) as server:
        yield server


@pytest.fixture(scope="module")
def driver():
    with running_driver() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(driver):
    with running_browser(driver) as browser:
        yield browser


@pytest.fixture(scope="module")
def expected(model, pieces):
    return {name: digest(model.decode(latents)[:SAMPLES]) for name, latents in pieces.items()}


@pytest.fixture
def page(browser, server):
    page = Page(browser, server.url)
    yield page
    page.page.context.close()


def test_what_is_heard(page, server, expected):
    page.play()
    assert page.sha256(SAMPLES) == expected["keys"]
    assert page.problems == []
    assert {url.split("/")[2] for url in page.requests} == {server.url.split("/")[2]}


def test_four_pages_at_once(browser, server, expected):
    pages = [Page(browser, server.url) for _ in range(4)]
    names = ["keys", "plucked", "pads", "keys"]
    for one, name in zip(pages, names, strict=True):
        one.page.locator("#piece").select_option(name)
        one.play()
    for one, name in zip(pages, names, strict=True):
        assert one.sha256(SAMPLES) == expected[name]
        one.page.context.close()


def test_three_cut_connections(browser, server, expected):
    """The session is parked and resumed; not a sample is lost or repeated."""
    port = int(server.url.rpartition(":")[2])
    with Proxy(port, jitter=0.02) as proxy:
        page = Page(browser, proxy.url)
        page.play()
        for part in (1, 2, 3):
            page.wait(part * SAMPLES // 5)
            proxy.cut()
        assert page.sha256(SAMPLES) == expected["keys"]
        assert proxy.connections >= 4
        page.page.context.close()


def test_a_stalled_network(browser, server, expected):
    with Proxy(int(server.url.rpartition(":")[2])) as proxy:
        page = Page(browser, proxy.url)
        page.play()
        page.wait(SAMPLES // 4)
        with proxy.held():
            page.page.wait_for_timeout(700)
        assert page.sha256(SAMPLES) == expected["keys"]
        page.page.context.close()


def test_a_blocked_page(page, expected):
    """The sound does not pass through the page's own thread."""
    page.page.get_by_label("Buffer").select_option("1")
    page.play()
    page.wait(SAMPLES // 4)
    page.page.evaluate(
        "(() => { const end = performance.now() + 400; while (performance.now() < end); })()"
    )
    assert page.sha256(SAMPLES) == expected["keys"]
    page.page.wait_for_timeout(100)
    assert page.text("gaps").startswith("0")  # not counting the device's


def test_pause(page, server, expected):
    page.play()
    page.wait(SAMPLES // 3)
    page.page.get_by_role("button", name="Pause").click()
    page.page.wait_for_timeout(300)
    session = next(one for one in server.hub.sessions.values() if one.paused)
    fed, played = session.fed, page.page.evaluate("tap.samples()")
    page.page.wait_for_timeout(1000)
    assert (session.fed, page.page.evaluate("tap.samples()")) == (fed, played)
    page.play()
    assert page.sha256(SAMPLES) == expected["keys"]


def test_seek(page, model, pieces):
    """After the seek comes the piece's sound from there on, after what was heard before it."""
    page.play()
    page.wait(4 * BLOCK)
    page.page.locator("#seek").evaluate(
        "(slider) => { slider.value = 0.9; slider.dispatchEvent(new Event('change')); }"
    )
    page.until("document.querySelector('#status').textContent === 'The end'")
    page.page.wait_for_timeout(200)
    whole = model.decode(pieces["keys"])
    first = int(0.9 * model.config.frame_rate) * model.hop
    heard, after = page.audio(), whole[first:]
    start = len(heard) - -(-len(after) // BLOCK) * BLOCK
    np.testing.assert_array_equal(heard[start : start + len(after)], after)
    np.testing.assert_array_equal(heard[:start], whole[:start])


def test_loop_without_a_seam(browser, model):
    short = ob.piece("keys")[500:900]
    with recordable_server(model, {"short": short}, slots=1) as server:
        page = Page(browser, server.url)
        page.page.get_by_role("button", name="Loop").click()
        page.play()
        twice = np.tile(model.decode(short), (3, 1))[: 900 * 64 // BLOCK * BLOCK]
        assert page.sha256(len(twice)) == digest(twice)
        page.page.context.close()


def test_a_dropped_file(page, model, tmp_path):
    latents = np.ascontiguousarray(ob.piece("groove")[600:1400].T, np.float32)
    file = tmp_path / "my latents.npy"
    np.save(file, latents)
    page.page.locator("#file").set_input_files(file)
    audio = model.decode(latents.T)[: 800 * 64]
    assert page.sha256(len(audio)) == digest(audio)
    assert page.page.locator("#piece").input_value() == "push"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not latents", "not an .npy file"), (np.zeros((3, 5), "f4"), "(frames, 24) were expected")],
)
def test_a_wrong_file(page, tmp_path, content, message):
    file = tmp_path / "wrong.npy"
    file.write_bytes(content) if isinstance(content, bytes) else np.save(file, content)
    page.page.locator("#file").set_input_files(file)
    page.until("!document.querySelector('#notice').hidden")
    assert message in page.text("notice")


def test_keys(page):
    expect = pytest.importorskip("playwright.sync_api").expect
    keyboard = page.page.keyboard
    keyboard.press("l")  # first, so that the piece does not end before the last key
    keyboard.press("Space")
    page.wait(4 * BLOCK)
    keyboard.press("ArrowLeft")
    for key in ("9", "9", "m", "?"):
        keyboard.press(key)
    assert page.page.locator("#volume").input_value() == "90"
    assert page.page.locator("#mute").get_attribute("aria-pressed") == "true"
    assert page.page.locator("#loop").get_attribute("aria-pressed") == "true"
    assert page.page.locator("#help").is_visible()
    keyboard.press("Escape")
    expect(page.page.locator("#help")).to_be_hidden()
    keyboard.press("Space")
    expect(page.page.get_by_role("button", name="Play", exact=True)).to_be_visible()


def test_the_instrument(page, server, model, tmp_path):
    """What was played can be kept, and decoding it gives what was heard."""
    page.page.locator("#piece").select_option("instrument")
    page.play()
    page.wait(8 * BLOCK)
    page.page.locator("#pad").click(position={"x": 40, "y": 60})
    page.page.keyboard.press("ArrowRight")
    page.page.locator("#direction-1").fill("1.5")
    page.page.get_by_role("button", name="Freeze").click()
    page.wait(200 * BLOCK)
    kept = page.kept_latents(tmp_path / "kept.npy")
    heard = page.audio()[: len(kept) * model.hop - model.latency]
    np.testing.assert_array_equal(model.decode(kept)[: len(heard)], heard)
    session = next(one for one in server.hub.sessions.values() if one.source.name == "instrument")
    assert session.source.settings.freeze
    assert session.source.settings.offset[0] == 1.5
    assert 0 < session.source.settings.x < 0.3


def test_the_early_instrument(browser, model, pieces, tmp_path):
    """What leaves the player is the early sound of the frames that were played, sample for sample.

    Its delay has the shorter look-ahead. The page can choose the exact sound instead.
    """
    look_ahead = model.latency // 4
    with recordable_server(model, pieces, slots=2, look_ahead=look_ahead) as server:
        page = Page(browser, server.url)
        page.page.locator("#piece").select_option("instrument")
        page.play()
        page.wait(8 * BLOCK)
        page.page.locator("#pad").click(position={"x": 40, "y": 60})
        page.wait(200 * BLOCK)
        assert f"look-ahead {1000 * look_ahead / model.samplerate:.0f} +" in page.text("delay")
        kept = page.kept_latents(tmp_path / "early.npy")
        heard = page.audio()[: len(kept) * model.hop - look_ahead]
        decoder = ob.StreamingDecoder(model, look_ahead=look_ahead)
        np.testing.assert_array_equal(decoder.push(kept)[: len(heard)], heard)
        exact = model.decode(kept)[: len(heard)]
        assert not np.array_equal(exact, heard)
        np.testing.assert_array_equal(decoder.exact[: len(exact)], exact[: len(decoder.exact)])

        page.page.get_by_label("Look-ahead").select_option("exact")
        whole = f"look-ahead {1000 * model.latency / model.samplerate:.0f} +"
        page.until(f"document.querySelector('#delay').textContent.includes({whole!r})")
        page.wait(page.page.evaluate("tap.samples()") + 200 * BLOCK)
        kept = page.kept_latents(tmp_path / "exact.npy")
        start = model.decode(kept)[: 100 * BLOCK].tobytes()
        assert start in page.audio().tobytes()
        page.page.context.close()


def test_a_full_house(browser, model, pieces):
    with recordable_server(model, pieces, slots=1) as server:
        first, second = Page(browser, server.url), Page(browser, server.url)
        first.play()
        first.wait(BLOCK)
        second.play()
        second.until("document.querySelector('#status').textContent.includes('full')")
        first.page.context.close()
        second.wait(BLOCK, 20)
        second.page.context.close()


def test_a_server_that_starts_again(browser, model, pieces):
    with recordable_server(model, pieces, slots=1) as server:
        page = Page(browser, server.url)
        page.play()
        page.wait(BLOCK)
        port = int(server.url.rpartition(":")[2])
    page.until("document.querySelector('#status').textContent.includes('lost')", 20)
    before = page.page.evaluate("tap.samples()")
    with recordable_server(model, pieces, slots=1, port=port):
        page.wait(before + 20 * BLOCK, 20)
        page.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("piece", ["keys", "instrument"])
def test_accessibility(browser, server, scheme, piece):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = Page(browser, server.url, color_scheme=scheme, bypass_csp=True)
    page.page.locator("#piece").select_option(piece)
    found = axe.run(page.page).response["violations"]
    assert [one for one in found if one["impact"] in ("serious", "critical")] == []
    page.page.goto(server.url + "/help")
    found = axe.run(page.page).response["violations"]
    assert [one for one in found if one["impact"] in ("serious", "critical")] == []
    page.page.context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_fits_the_width(browser, server, width):
    page = Page(browser, server.url, viewport={"width": width, "height": 800})
    page.page.locator("#piece").select_option("instrument")
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.page.evaluate(
        "[...document.querySelectorAll('button, select, .button')].filter((one) => one.offsetParent"
        " && one.getBoundingClientRect().height < 44).map((one) => one.id)"
    )
    assert small == []
    page.page.context.close()


def test_size_of_the_page():
    from oobleck_stream.server.app import page_files

    files = {name: file for name, file in page_files().items() if not name.endswith(".json")}
    assert sum(len(file.body) for file in files.values()) <= 64_000


@pytest.mark.sound
def test_through_the_sound_system(driver, model, pieces, tmp_path):
    """What the browser gives to a real sound server is the decoded sound, and nothing else."""
    with (
        SoundServer.running(tmp_path) as sound,
        recordable_server(model, pieces, slots=1) as server,
        running_browser(
            driver, env=sound.environment, ignore_default_args=["--mute-audio"]
        ) as browser,
    ):
        page = Page(browser, server.url)
        page.page.get_by_label("Buffer").select_option("1")
        with sound.recording() as recording:
            page.play()
            page.until("document.querySelector('#status').textContent === 'The end'")
        whole = model.decode(pieces["keys"])
        heard = 0
        place = 0
        for part in stretches(recording.samples):
            # Where the device was late, on a busy machine, there is silence, and samples are lost.
            place = find(whole, part, place)
            assert place >= 0, "something else was heard, or not in order"
            place += len(part)
            heard += len(part)
        assert heard > len(whole) / 2


def stretches(samples):
    """The parts of a recording between its silences."""
    loud = np.concatenate([[False], samples.any(axis=1), [False]])
    edges = np.flatnonzero(loud[1:] != loud[:-1])
    return [samples[start:end] for start, end in edges.reshape(-1, 2)]


def find(whole, part, start):
    """The first place from `start` on where `whole` contains `part`, bit for bit, or -1."""
    size = whole[0].nbytes
    place = whole.tobytes().find(part.tobytes(), start * size)
    return place // size if place % size == 0 else -1
