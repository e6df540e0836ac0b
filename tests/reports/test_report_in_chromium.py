"""The report in a real browser: headless Chromium, driven over its debugging pipe (no driver package is needed)."""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nomadiff.reports.page import Report
from nomadiff.reports.palette import INK, MUTED, PAPER
from nomadiff.reports.summary import MetricInfo
from nomadiff.tables import Table

# Chromium talks on descriptors 3 and 4; this small launcher puts our pipes there whatever their numbers are.
_LAUNCHER = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for wanted, pipe in zip((3, 4), pipes):
    os.dup2(pipe, wanted, inheritable=True)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One headless browser with one page."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        quiet = ["--disable-background-networking", "--no-first-run", "--hide-scrollbars", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, str(commands), str(answers), program, *options, *quiet, "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._unread = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._commands)  # the browser ends when its pipe does
        os.close(self._answers)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], 60)
            block = os.read(self._answers, 1 << 16) if ready else b""
            if not block:
                raise RuntimeError("Chromium ended" if ready else "Chromium did not answer for a minute")
            self._unread += block
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **arguments: Any) -> Mapping[str, Any]:
        """Send one command of the DevTools protocol and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def open(self, path: Path, *, width: int, height: int, dark: bool) -> None:
        """Show a local file in a window of that size, in light or dark mode."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            message = self._read()
            if "method" in message:
                self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page; the tools may do so even where the page allows no script."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as PNG, however long."""
        width, height = self.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(picture["data"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here: install it (Debian: apt-get install chromium) to check the report in a browser")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, example_report: Report) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    example_report.write(path)
    return path


def rgb(colour: str) -> str:
    """``#16181b`` as a browser reports it."""
    return "rgb({}, {}, {})".format(*bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_fits_its_window_and_wears_the_right_colours(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, height=800, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    expected = PAPER.dark if dark else PAPER.light
    picture = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    assert picture.height > 2 * 800
    assert picture.getpixel((2, 2)) == tuple(bytes.fromhex(expected[1:]))
    text = browser.evaluate("getComputedStyle(document.querySelector('h1')).color")
    assert text == rgb(INK.dark if dark else INK.light)
    labels = browser.evaluate(
        "[...new Set([...document.querySelectorAll('svg text')].map(t => getComputedStyle(t).fill))]"
    )
    assert set(labels) == {rgb(INK.dark if dark else INK.light), rgb(MUTED.dark if dark else MUTED.light)}


def test_page_asks_nothing_of_the_network_and_complains_of_nothing(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, height=800, dark=False)
    browser.screenshot()
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []


def test_images_are_enlarged_by_whole_factors_and_stay_crisp(browser: Browser, page: Path) -> None:
    for width in (360, 1280):
        browser.open(page, width=width, height=800, dark=False)
        factors = browser.evaluate("[...document.images].map(image => image.clientWidth / image.naturalWidth)")
        assert len(factors) > 20
        assert all(factor == int(factor) >= 1 for factor in factors)
        assert browser.evaluate("getComputedStyle(document.images[0]).imageRendering") == "pixelated"
    panels = "[...document.querySelector('.panels').children].map(panel => panel.getBoundingClientRect().top)"
    assert len(set(browser.evaluate(panels))) == 1, "on a desktop the five panels of a source stand side by side"


def test_wide_tables_scroll_inside_their_own_box_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, width=360, height=800, dark=False)
    box = "document.querySelector('.scroll')"
    assert browser.evaluate(f"{box}.scrollWidth > {box}.clientWidth && {box}.clientWidth <= 360")
    first = "document.querySelector('.means tbody tr:not(.block) th').getBoundingClientRect().left"
    before = browser.evaluate(first)
    browser.evaluate(f"{box}.scrollLeft = 200")
    assert browser.evaluate(f"{box}.scrollLeft") == 200
    assert browser.evaluate(first) == before, "the name of the arm stays in sight"


def test_a_figure_is_in_sight_beside_the_longest_names(browser: Browser, tmp_path: Path) -> None:
    """Names and generations of a loop of one's own took the whole screen of a phone."""
    rows = [{"method": "synthetic augmentation", "generation": g, "seed": 0, "distance": 0.1 * g} for g in range(1, 11)]
    report = Report(
        "Loops", table=Table(rows), metrics=[MetricInfo("distance", "distance")], by=("method", "generation")
    )
    report.write(tmp_path / "loop.html")
    browser.open(tmp_path / "loop.html", width=360, height=800, dark=False)
    right = "Math.max(...[...document.querySelectorAll('.means tbody td')].map(e => e.getBoundingClientRect().right))"
    assert browser.evaluate(right) <= 360


def test_text_of_figures_stays_inside_the_figure(browser: Browser, page: Path) -> None:
    for width in (360, 1280):
        browser.open(page, width=width, height=800, dark=False)
        outside = browser.evaluate(
            """[...document.querySelectorAll('svg text')].filter(text => {
                const inner = text.getBoundingClientRect(), outer = text.closest('svg').getBoundingClientRect();
                return inner.left < outer.left - 3 || inner.right > outer.right + 3 || inner.top < outer.top - 3;
            }).map(text => text.textContent)"""
        )
        assert outside == []


def test_hostile_names_run_nothing_and_still_fit(browser: Browser, full_report: Report, tmp_path: Path) -> None:
    attack = "</title></style><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
    full_report.title = attack
    full_report.subtitle = "a" * 300
    full_report.command = "nomadiff " + "b" * 400 + attack
    for row in full_report.table.rows:
        row["source"] = row["source"] and attack
        row["method"] = attack if row["method"] == "sda" else row["method"]
    full_report.curves[0].source = full_report.compositions[1].method = full_report.grids[1].title = attack
    full_report.provenance = [{attack: attack}]
    full_report.versions = {attack: attack}
    full_report.write(tmp_path / "report.html")
    browser.open(tmp_path / "report.html", width=360, height=800, dark=False)
    assert browser.evaluate("document.title").startswith("</title>")
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.querySelectorAll('[onerror], [onload], iframe, object, link').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
